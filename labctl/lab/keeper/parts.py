"""How the parts of a plan are made, removed and replaced in the kernel: a kind for each class of parts."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from labctl.kernel import link_state
from labctl.lab.keeper.netlink_queue import refusal
from labctl.plan.operations import DisableOffload, Operation, Part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from labctl.lab.keeper.executor import Execution

P = TypeVar("P", bound=Part)


class PartKind(Generic[P]):
    """Makes and removes parts of one class. `operation` is the one to name in errors; `at` records how to undo it."""

    def make(self, at: Execution, part: P, operation: Operation) -> None:
        """Make or set the part. KernelError."""
        raise NotImplementedError

    def remove(self, at: Execution, part: P, operation: Operation) -> None:
        """Remove it, or restore the kernel's default; one that does not exist is no error. KernelError."""
        raise NotImplementedError

    def replace(self, at: Execution, part: P, before: P, operation: Operation) -> None:
        """Change `before`, which has the same identity, to `part`. KernelError."""
        self.remove(at, before, operation)
        self.make(at, part, operation)


class _Offload(PartKind[DisableOffload]):
    def make(self, at: Execution, part: DisableOffload, operation: Operation) -> None:
        self._set(at, part, operation, on=False)

    def remove(self, at: Execution, part: DisableOffload, operation: Operation) -> None:
        self._set(at, part, operation, on=True)

    def _set(self, at: Execution, part: DisableOffload, operation: Operation, *, on: bool) -> None:
        at.interface(part.node, part.ifname, operation)
        sock = at.committed(part.node)
        try:
            link_state.set_offload(sock, part.ifname, on)
        except OSError as error:
            raise refusal(operation, error.errno or 0, "") from error


PART_KINDS: Mapping[type[Part], PartKind[Any]] = MappingProxyType({DisableOffload: _Offload()})
