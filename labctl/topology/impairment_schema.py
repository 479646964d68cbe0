"""The keys of impairments in files: on links, ends and members of topologies, and in steps of scenarios."""

from __future__ import annotations

from labctl.documents.diagnostics import describe
from labctl.documents.schema import KeyPath, ListOf, Of, Reading, Schema, Schemas, Shape, Text, optional, required
from labctl.topology.impairments import WORDS, check


class ImpairmentValue:
    """The value of a key of impairments, as it is written."""

    def __init__(self, key: str, *, mapping: bool = False, sequence: bool = False) -> None:
        self._key = key
        self._others: dict[str, type] = {"object": dict} if mapping else {}
        if sequence:
            self._others["array"] = list

    def read(self, value: object, at: Reading, path: KeyPath) -> object:
        if isinstance(value, bool) or not isinstance(value, (str, int, float, *self._others.values())):
            what = "a text, a number or a mapping" if self._others else "a text or a number"
            raise at.wrong(path, f"expected {what}, got {describe(value)}")
        if not at.is_open(value):
            try:
                check(self._key, value)
            except ValueError as error:
                raise at.wrong(path, str(error), in_schema=False) from error
        return value

    def schema(self, into: Schemas) -> Schema:
        return {"type": ["string", "number", *self._others]}


class ImpairedFile(Shape):
    """Impairment of packets."""

    preset = optional(ImpairmentValue("preset"), "A kind of link, whose values the others replace: 4g, dsl, ...")
    delay = optional(ImpairmentValue("delay"), "Delay of each packet: 20ms.")
    distance = optional(ImpairmentValue("distance"), "Instead of `delay`: the length of an optical fibre, 570km.")
    jitter = optional(ImpairmentValue("jitter"), "Variation of the delay: 2ms.")
    distribution = optional(ImpairmentValue("distribution"), "How it varies: uniform, normal, pareto, paretonormal.")
    delay_correlation = optional(ImpairmentValue("delay_correlation"), "Dependence on the delay before: 25%.")
    loss = optional(ImpairmentValue("loss"), "Share of lost packets: 1%.")
    loss_correlation = optional(ImpairmentValue("loss_correlation"), "Dependence on the loss before: 25%.")
    gemodel = optional(
        ImpairmentValue("gemodel", mapping=True), "Instead of `loss`, losses in bursts: {p: 1%, r: 10%, 1-h: 70%}."
    )
    duplicate = optional(ImpairmentValue("duplicate"), "Share of packets that arrive twice: 1%.")
    duplicate_correlation = optional(ImpairmentValue("duplicate_correlation"), "Dependence on the one before: 25%.")
    corrupt = optional(ImpairmentValue("corrupt"), "Share of packets with an inverted bit: 0.1%.")
    corrupt_correlation = optional(ImpairmentValue("corrupt_correlation"), "Dependence on the one before: 25%.")
    reorder = optional(ImpairmentValue("reorder"), "Share of packets that skip the delay: 25%.")
    reorder_correlation = optional(ImpairmentValue("reorder_correlation"), "Dependence on the one before: 25%.")
    gap = optional(ImpairmentValue("gap"), "Only every n-th packet skips the delay: 5.")
    rate = optional(ImpairmentValue("rate"), "Rate limit in bits per second: 10mbit.")
    burst = optional(ImpairmentValue("burst"), "What passes at once after a pause: 32KiB.")
    queue = optional(ImpairmentValue("queue"), "Size of the queue: 100packets, 64KiB or 50ms.")
    limit = optional(ImpairmentValue("limit"), "Another spelling of `queue`.")
    discipline = optional(ImpairmentValue("discipline"), "Of the queue: fifo, codel, fq_codel, cake or red.")

    @property
    def impaired(self) -> dict[str, object]:
        """The values of the impairment, as they are written."""
        return {key: self.values[key] for key in WORDS if key in self.values}


class ProfiledFile(ImpairedFile):
    """Impairment of packets, which may change over time."""

    profile = optional(
        ImpairmentValue("profile", mapping=True, sequence=True),
        "Values over time: a CSV file or a Mahimahi trace, or [{at: 0s, delay: 10ms}, {at: 5s, delay: 80ms}].",
    )


class PairEndFile(ImpairedFile):
    """One of two members of a network; an impairment applies to packets that it sends to the other."""

    node = required(Text(at_least=1, strict=True), "The node's name, or that of a group.")

    @property
    def where(self) -> tuple[str, ...]:
        """The place of the name below that of the end."""
        return ("node",) if self.is_long else ()

    @property
    def is_long(self) -> bool:
        """Whether it is written as a mapping."""
        return len(self.values) > 1


class BetweenFile(ImpairedFile):
    """Impairments of packets between two nodes on a switch or network, in each direction."""

    nodes = required(ListOf(Of(PairEndFile, short={str: "node"}), 2, 2), "The two nodes, or groups of them.")
