"""What the topology says of a node: the same for `Host` and `AsyncHost`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labctl.api.core import Core
    from labctl.topology.model import Address, Interface, NodeKind


class NodeFacts:
    """A node of a lab. It has no state of its own: two objects for the same node are equal."""

    def __init__(self, core: Core, name: str) -> None:
        """For the classes that build on it. NotFound."""
        self.name = name
        self._core = core
        self._node = core.node(name)

    def __repr__(self) -> str:
        addresses = ", ".join(str(address) for address in self.addresses[:2])
        where = f"of lab {self._core.model.name}, {addresses or self.kind}, {self._core.state}"
        return f"<{type(self).__name__} {self.name} {where}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeFacts) or type(other) is not type(self):
            return NotImplemented
        return (self._core, self.name) == (other._core, other.name)

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def kind(self) -> NodeKind:
        """host, router or switch."""
        return self._node.kind

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """As the topology has them, without `lo`."""
        return self._node.interfaces

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Interface by interface, as the topology has them."""
        return tuple(self._node.addresses)

    @property
    def ipv4(self) -> str | None:
        """The first IPv4 address, None when it has none."""
        return next((str(address) for address in self.addresses if address.version == 4), None)

    @property
    def ipv6(self) -> str | None:
        """The first IPv6 address, None when it has none."""
        return next((str(address) for address in self.addresses if address.version == 6), None)
