"""Tables of nftables as values, and as text for the nft program (nft(8), whose names are used throughout).

A rule is a list of matches, each of a field and the values that it may have, and then what happens to the packet. Rules
name fields as nft does (`ip saddr`, `th dport`), so that the text needs no translation; `labctl.lab.packet_tables`
packs them for the kernel.
"""

from __future__ import annotations

from enum import StrEnum

from labctl.structs import Struct


class Verdict(StrEnum):
    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    RESET = "reject with tcp reset"


class Match(Struct, frozen=True, array_like=True, gc=False):
    """The packet's field has one of the values (`negated`: none of them); `@NAME` is a named set or map.

    Several fields are one value together, as in `ip saddr . th sport @mappings`.
    """

    fields: tuple[str, ...]
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        texts = [f'"{value}"' if self.fields[0] in _NAME_FIELDS else value for value in self.values]
        values = texts[0] if len(texts) == 1 else f"{{ {', '.join(texts)} }}"
        if self.fields[0] in BIT_FIELDS:
            return f"{self.fields[0]} {'! ' if self.negated else ''}{','.join(self.values)}"
        return f"{' . '.join(self.fields)} {'!= ' if self.negated else ''}{values}"


_NAME_FIELDS = frozenset({"iifname", "oifname"})
BIT_FIELDS = frozenset({"ct state", "ct status"})  # fields of which several bits may be set


class Update(Struct, frozen=True, array_like=True, gc=False):
    """Put an element into a set, or into a map with `data`, or renew it: the values of these fields of the packet."""

    name: str
    keys: tuple[str, ...]
    data: tuple[str, ...] = ()
    timeout_s: int = 300

    def __str__(self) -> str:
        data = f" : {' . '.join(self.data)}" if self.data else ""
        return f"update @{self.name} {{ {' . '.join(self.keys)} timeout {self.timeout_s}s{data} }}"


class Kind(StrEnum):
    MASQUERADE = "masquerade"
    SOURCE = "snat"
    DESTINATION = "dnat"


class Translate(Struct, frozen=True, array_like=True, gc=False):
    """Translate the packet's source or destination.

    The address and the ports are constants, or `lookup` in a map, by `keys`, has the new ports (the address and the
    port for dnat without an address).
    """

    kind: Kind
    version: int  # of IP
    address: str = ""
    first_port: int = 0
    last_port: int = 0
    lookup: str = ""
    keys: tuple[str, ...] = ()
    random: bool = False  # of all possible ports, one at random

    def __str__(self) -> str:
        found = f"{' . '.join(self.keys)} map @{self.lookup}" if self.lookup else ""
        bracketed = self.version == 6 and self.address and (found or self.first_port)
        address = f"[{self.address}]" if bracketed else self.address
        ports = f":{self.first_port}" if self.first_port else ""
        ports += f"-{self.last_port}" if self.last_port != self.first_port else ""
        if self.kind is Kind.MASQUERADE:
            to = f" to :{found}" if found else f" to {ports}" if ports else ""
        else:
            to = f" {'ip' if self.version == 4 else 'ip6'} to {address}"
            to += f":{found}" if found and address else found or ports
        return f"{self.kind}{to}{' fully-random' if self.random else ''}"


class Rule(Struct, frozen=True, array_like=True, gc=False):
    matches: tuple[Match, ...]
    updates: tuple[Update, ...] = ()
    translate: Translate | None = None
    verdict: Verdict | None = None

    def __str__(self) -> str:
        last = [str(one) for one in (self.translate, self.verdict) if one is not None]
        return " ".join([*map(str, self.matches), *map(str, self.updates), *last])


class ElementSet(Struct, frozen=True, array_like=True, gc=False):
    """A set, or a map with `data`, that rules fill; `keys` and `data` are types of nft."""

    name: str
    keys: tuple[str, ...]
    data: tuple[str, ...] = ()
    timeout_s: int = 300

    def lines(self) -> list[str]:
        """Return its declaration."""
        types = " . ".join(self.keys) + (f" : {' . '.join(self.data)}" if self.data else "")
        word = "map" if self.data else "set"
        options = f"size {ELEMENTS_MAX}; flags dynamic,timeout; timeout {self.timeout_s}s;"
        return [f"  {word} {self.name} {{ type {types}; {options} }}"]


ELEMENTS_MAX = 65536


class Chain(Struct, frozen=True, array_like=True, gc=False):
    """A base chain at a hook."""

    name: str
    type: str  # filter, nat
    hook: str  # prerouting, input, forward, output, postrouting
    priority: int
    rules: tuple[Rule, ...]
    policy: Verdict = Verdict.ACCEPT

    def lines(self) -> list[str]:
        """Return its declaration."""
        head = f"type {self.type} hook {self.hook} priority {self.priority}; policy {self.policy};"
        return [f"  chain {self.name} {{", f"    {head}", *(f"    {rule}" for rule in self.rules), "  }"]


def nft(name: str, sets: tuple[ElementSet, ...], chains: tuple[Chain, ...]) -> str:
    """Return the table as a file for `nft -f`."""
    lines = [*(line for one in sets for line in one.lines()), *(line for chain in chains for line in chain.lines())]
    return "\n".join([f"table inet {name} {{", *lines, "}"]) + "\n"
