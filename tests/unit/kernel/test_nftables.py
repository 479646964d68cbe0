"""Chains and rules are packed as pyroute2 packs them."""

from __future__ import annotations

from typing import Any

import pytest
from pyroute2.netlink.nfnetlink import nftsocket as nft  # type: ignore[import-untyped]  # it has no annotations

from labctl.kernel import nftables
from labctl.kernel.netlink import HEADER, attributes
from labctl.kernel.nftables import Hook, Match


def encoded(message_class: Any, **fields: Any) -> bytes:
    """The payload of a message by pyroute2."""
    made = message_class()
    for name, value in fields.items():
        made[name] = value
    made.encode()
    return bytes(made.data)[HEADER.size :]


@pytest.mark.parametrize("hook", Hook)
def test_a_chain_is_what_pyroute2_packs(hook: Hook) -> None:
    priority = -300 if hook is Hook.PREROUTING else 300
    place = {"attrs": [("NFTA_HOOK_HOOKNUM", int(hook)), ("NFTA_HOOK_PRIORITY", priority)]}
    theirs = encoded(
        nft.nft_chain_msg,
        nfgen_family=1,
        attrs=[
            ("NFTA_CHAIN_TABLE", "labctl"),
            ("NFTA_CHAIN_NAME", hook.name.lower()),
            ("NFTA_CHAIN_HOOK", place),
            ("NFTA_CHAIN_TYPE", "filter"),
        ],
    )
    assert tree(theirs[4:]) == tree(nftables.chain(hook))


def test_a_rules_comparison_and_mask_are_what_pyroute2_packs() -> None:
    match = Match(Hook.PREROUTING, nftables.NFPROTO_IPV4, 6, destination_port=5000, flags=(0x12, 0x10))

    def expression(name: str, **attrs: Any) -> Any:
        prefix = f"NFTA_{name.upper()}_"
        data = {"attrs": [(prefix + key, value) for key, value in attrs.items()]}
        return {"attrs": [("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", data)]}

    def value(data: bytes) -> Any:
        return {"attrs": [("NFTA_DATA_VALUE", data)]}

    verdict = {"attrs": [("NFTA_DATA_VERDICT", {"attrs": [("NFTA_VERDICT_CODE", 0)]})]}
    one, equal = nft.Regs.NFT_REG_1, nft.Cmp.NFT_CMP_EQ
    theirs = encoded(
        nft.nft_rule_msg,
        nfgen_family=1,
        attrs=[
            ("NFTA_RULE_TABLE", "labctl"),
            ("NFTA_RULE_CHAIN", "prerouting"),
            (
                "NFTA_RULE_EXPRESSIONS",
                [
                    expression("meta", DREG=one, KEY=nft.Meta.NFT_META_NFPROTO),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x02")),
                    expression("meta", DREG=one, KEY=nft.Meta.NFT_META_L4PROTO),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x06")),
                    expression("payload", DREG=one, BASE=2, OFFSET=2, LEN=2),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x13\x88")),
                    expression("payload", DREG=one, BASE=2, OFFSET=13, LEN=1),
                    expression("bitwise", SREG=one, DREG=one, LEN=1, MASK=value(b"\x12"), XOR=value(b"\0")),
                    expression("cmp", SREG=one, OP=equal, DATA=value(b"\x10")),
                    expression("counter"),
                    expression("immediate", DREG=nft.Regs.NFT_REG_VERDICT, DATA=verdict),
                ],
            ),
        ],
    )
    assert tree(theirs[4:]) == tree(nftables.rule(match))


def tree(data: bytes) -> Any:
    """Attributes as nested lists of (type, payload), so that flags of nesting do not matter (pyroute2 sets none)."""
    found = []
    for kind, start, length in attributes(data):
        payload = data[start : start + length]
        covered = sum((length + 4 + 3) & ~3 for _, _, length in attributes(payload))
        nested = length >= 4 and covered == (length + 3) & ~3 and length % 4 == 0
        found.append((kind, tree(payload) if nested else payload))
    return found
