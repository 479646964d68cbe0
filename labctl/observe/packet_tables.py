"""Tables of nftables of a node as the kernel has them, and where they differ from the plan's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from labctl.kernel.nftables import NETLINK_NETFILTER, FoundChain, chains_of, is_rule
from labctl.lab.packet_tables import packed_chains
from labctl.observe.network import Observable, netlink_socket
from labctl.plan.packet_tables import Verdict

if TYPE_CHECKING:
    from labctl.plan.operations import MakeTable

FoundTables = Mapping[str, Mapping[str, FoundChain]]  # chains by name, of tables by name


def read_tables(lab: Observable, node: str, tables: Iterable[MakeTable]) -> dict[str, Mapping[str, FoundChain]]:
    """Return the chains of these tables; none of a table that is missing. KernelError."""
    with netlink_socket(lab, node, NETLINK_NETFILTER, "list its packet filters") as sock:
        return {one.table: chains_of(sock, one.table.encode() + b"\0") for one in tables}


def differences(table: MakeTable, found: Mapping[str, FoundChain]) -> Iterator[tuple[str, str, str]]:
    """Yield (what, planned, found); one of the latter is "" if only the other has it. Further chains are ignored."""
    if not found:
        yield "nftables table", table.table, ""
        return
    packed = packed_chains(table)
    for chain in table.chains:
        what, there = f"rule of {table.table} {chain.name}", found.get(chain.name)
        if there is None:
            yield f"chain of {table.table}", chain.name, ""
            continue
        if there.drops is not (chain.policy is Verdict.DROP):
            yield f"policy of {table.table} {chain.name}", chain.policy, "drop" if there.drops else "accept"
        left = list(enumerate(there.rules, 1))
        for rule, expressions in zip(chain.rules, packed[chain.name], strict=True):
            match = next((one for one in left if is_rule(expressions, one[1])), None)
            if match is None:
                yield what, f"`{rule}`", ""
            else:
                left.remove(match)
        for number, _ in left:
            yield what, "", f"number {number}"
