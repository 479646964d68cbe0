"""The kernel's events as a source of recordings: one tracer for all recordings of a recorder, loaded once.

Loading takes some 30 ms, following one more network namespace some microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from labctl.errors import MachineError
from labctl.kernel.bpf import NODES_MAX, SUBJECT, CallTracer, Tracer
from labctl.timeline.spool import LOST_PAYLOAD, WHOLE_LAB, Kind

if TYPE_CHECKING:
    from labctl.timeline.spool import SpoolWriter

OTHER_ABI = "system calls of 32-bit programs"
NO_DESCRIPTOR = -1  # the recorder watches that of the tracer


class SharedTracer:
    """A tracer and the sources that its records go to. `kind` is that of the spool's records."""

    def __init__(self, tracer: Tracer | CallTracer, kind: Kind) -> None:
        """Take over `tracer`."""
        self.tracer = tracer
        self.kind = kind
        self._sources: dict[int, TracerSource] = {}  # by inode of the network namespace

    def fileno(self) -> int:
        """The descriptor that is readable when much is to be drained."""
        return self.tracer.fileno()

    def add(self, networks: Mapping[int, int], spool: SpoolWriter) -> TracerSource | str:
        """Follow these network namespaces, which have the indexes of nodes, for a recording with that spool.

        Returns why, if there are more than NODES_MAX in all recordings.
        """
        if len(self._sources.keys() | networks.keys()) > NODES_MAX:
            return f"{_what(self.kind)}: more than {NODES_MAX} nodes are recorded"
        source = TracerSource(self, networks, spool)
        self._sources.update(dict.fromkeys(networks, source))
        self.tracer.follow(networks)
        return source

    def remove(self, source: TracerSource) -> None:
        """Forget what the source follows, unless a later recording follows it, too."""
        own = [inode for inode in source.networks if self._sources.get(inode) is source]
        self.tracer.forget(own)
        for inode in own:
            del self._sources[inode]

    def drain(self) -> None:
        """Give the sources their records, and let them write these."""
        self.distribute()
        for source in set(self._sources.values()):
            source.write()

    def distribute(self) -> None:
        """Give the sources their records."""
        for inode, records in self.tracer.drain().items():
            if (source := self._sources.get(inode)) is not None:
                source.records.setdefault(inode, []).extend(records)


class TracerSource:
    """The share of one recording; see labctl.timeline.recorder.Source."""

    next_ns: int | None = None

    def __init__(self, shared: SharedTracer, networks: Mapping[int, int], spool: SpoolWriter) -> None:
        self.networks = networks
        self.records: dict[int, list[bytes]] = {}
        self._shared = shared
        self._spool = spool
        self._lost_before = self._lost = shared.tracer.lost()
        self._in_progress: set[tuple[int, bytes]] = set()  # calls, by network namespace, of which there are records
        self._other_abi = shared.tracer.other_abi() if isinstance(shared.tracer, CallTracer) else 0
        self._has_other_abi = False  # calls since the start

    def fileno(self) -> int:
        return NO_DESCRIPTOR

    def drain(self, spool: SpoolWriter) -> None:
        self.flush(spool)

    def flush(self, spool: SpoolWriter) -> None:
        self._shared.distribute()
        self._add_in_progress()
        self.write()

    def finish(self) -> None:
        self._shared.distribute()
        self._add_in_progress()
        self._shared.remove(self)

    def preamble(self, spool: SpoolWriter) -> None:
        if self._lost != self._lost_before:
            self._write_loss()
        if self._has_other_abi:
            self._note_other_abi()

    def close(self) -> None:
        pass

    def write(self) -> None:
        """Write the records that are here."""
        for inode, records in self.records.items():
            self._spool.write(self._shared.kind, self.networks[inode], len(records), *records)
        self.records.clear()
        lost = self._shared.tracer.lost()
        if lost != self._lost:
            self._lost = lost
            self._write_loss()

    def _add_in_progress(self) -> None:
        """Add the calls that have begun, each once."""
        tracer = self._shared.tracer
        if not isinstance(tracer, CallTracer):
            return
        found = {(inode, record) for inode, records in tracer.in_progress(self.networks).items() for record in records}
        for inode, record in found - self._in_progress:
            self.records.setdefault(inode, []).append(record)
        self._in_progress = found
        if not self._has_other_abi and tracer.other_abi() != self._other_abi:
            self._has_other_abi = True
            self._note_other_abi()

    def _note_other_abi(self) -> None:
        self._spool.write(Kind.MISSING, WHOLE_LAB, 0, OTHER_ABI.encode())

    def _write_loss(self) -> None:
        self._spool.write(Kind.LOST, WHOLE_LAB, 0, LOST_PAYLOAD.pack(self._shared.kind, self._lost - self._lost_before))


def _what(kind: Kind) -> str:
    if kind is Kind.KERNEL:
        return "TCP states, resets and drops of the kernel"
    return "system calls by BPF (labctl starts programs with strace instead)"


def open_tracer(kind: Kind) -> SharedTracer | str:
    """Load the programs for records of this kind (KERNEL, SYSCALLS); why that fails, if it does."""
    try:
        return SharedTracer(Tracer() if kind is Kind.KERNEL else CallTracer(), kind)
    except MachineError as error:
        return f"{_what(kind)}: {str(error).removeprefix(f'{SUBJECT}: ').removesuffix('.')}"
