"""Keys of switches, their ports and VLANs in a topology file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from labctl.documents import Document, suggest
from labctl.topology.draft import DraftEnd, DraftForwarding, DraftVlan, Mistakes, Place
from labctl.topology.schema import BridgeFile, EndFile, LinkFile, StpFile, StpProtocol
from labctl.topology.switching import (
    HELLO_TIME,
    MAX_AGE,
    NO_PORT,
    NO_SWITCHING,
    VLAN_MAX,
    Options,
    Port,
    Switching,
)

PORT_KEYS = ("vlan", "trunk", "native", "isolated", "learning", "flood", "cost")
_OPTION_KEYS = PORT_KEYS[3:]
ALL = "all"
_NO_RSTP = (
    "Linux bridges have no RSTP: a program, mstpd, would have to run it, and the kernel leaves the protocol to "
    "programs only for bridges of the machine's own network namespace"
)
# Linux's limits in seconds (net/bridge/br_private_stp.h).
_TIMES = {"hello_time": (1.0, 10.0), "forward_delay": (2.0, 30.0), "max_age": (6.0, 40.0)}


def switching_of(model: BridgeFile, place: Place, mistakes: Mistakes) -> Switching:
    """Return the options of a switch; its forwarding entries follow when ports have names."""
    options: list[tuple[str, int]] = []
    if model.ageing is not None:
        options.append(("ageing_time", round(model.ageing * 100)))
    if model.snooping:
        # Without a querier, hosts do not repeat their reports, and the bridge floods. It waits for one response time.
        options += [("mcast_query_response_interval", 100), ("mcast_querier", 1), ("mcast_snooping", 1)]
    if model.stp is not None and model.stp.enable:
        options += _stp_options(model.stp, place.at("stp"), mistakes)
    return Switching(tuple(options)) if options else NO_SWITCHING


def _stp_options(model: StpFile, place: Place, mistakes: Mistakes) -> Options:
    if model.protocol is StpProtocol.RSTP:
        mistakes.add(place, _NO_RSTP, "write `stp: true`; a broken ring then heals within 4 to 10 s")
    times = {"hello_time": HELLO_TIME, "max_age": MAX_AGE}  # `forward_delay` follows from the tree
    for key, (least, most) in _TIMES.items():
        given: float | None = getattr(model, key)
        if given is None:
            continue
        if not least <= given <= most:
            mistakes.add(place.at(key), f"`{key}` must be from {least:g}s to {most:g}s")
        times[key] = round(given * 100)
    priority = () if model.priority is None else (("priority", model.priority),)
    return (*priority, *times.items(), ("stp_state", 1))


def forwarding_of(model: BridgeFile, document: Document) -> tuple[DraftForwarding, ...]:
    """Return the static forwarding entries of a switch, as they are written."""
    return tuple(DraftForwarding(of, port.text, Place(document, port.at_path)) for of, port in model.fdb.items())


class PortReader:
    """Reads the settings of ports, with the VLANs that all files of a topology declare."""

    def __init__(self, vlans: Mapping[str, DraftVlan], mistakes: Mistakes) -> None:
        self._vlans = vlans
        self._mistakes = mistakes

    def of_link(
        self,
        ends: tuple[DraftEnd, DraftEnd],
        models: tuple[EndFile, EndFile],
        are_switches: tuple[bool, bool],
        link: LinkFile,
        place: Place,
    ) -> tuple[Port, Port]:
        """Return the ports at both ends of a link; NO_PORT on a host or a router.

        The link's keys apply to each port, those at a host or a router to the switch's port at the other end.
        """
        common = _values(link)
        values = [_values(model) for model in models]
        if not any(are_switches):
            for given, at in ((common, place), *((own, end.place) for own, end in zip(values, ends, strict=True))):
                for key in given:
                    message = f"`{key}` is for a switch's port, and this link joins {ends[0].node} and {ends[1].node}"
                    hint = (
                        "write `interfaces: {eth0.10: {vlan: 10, on: eth0}}` for a VLAN interface"
                        if key == "vlan"
                        else ""
                    )
                    self._mistakes.add(at and at.at(key), message, hint, key=True)
                    return NO_PORT, NO_PORT
            return NO_PORT, NO_PORT
        ports = []
        for near, far in ((0, 1), (1, 0)):
            own = values[near] if are_switches[near] else {}
            theirs = {} if are_switches[far] else values[far]
            places: dict[str, Place | None] = {**dict.fromkeys(common, place), **dict.fromkeys(theirs, ends[far].place)}
            places |= dict.fromkeys(own, ends[near].place)
            ports.append(self._port({**common, **theirs, **own}, places) if are_switches[near] else NO_PORT)
        return ports[0], ports[1]

    def of_member(self, model: EndFile, place: Place) -> Port:
        """Return the port of a network's switch for a member."""
        values = _values(model)
        return self._port(values, dict.fromkeys(values, place)) if values else NO_PORT

    def _port(self, values: Mapping[str, Any], at: Mapping[str, Place | None]) -> Port:
        if not values:
            return NO_PORT
        options = tuple((key, int(values[key])) for key in _OPTION_KEYS if key in values)
        numbers = {
            key: self._numbers(values[key], at[key], key) for key in ("vlan", "trunk", "native") if key in values
        }
        if "vlan" in numbers and ("trunk" in numbers or "native" in numbers):
            other = "trunk" if "trunk" in numbers else "native"
            message = f"a port has either `vlan` (without tags) or `{other}`"
            self._add(at["vlan"], "vlan", message, "on a trunk, `native` is the VLAN without tags")
            return NO_PORT
        if "native" in numbers and "trunk" not in numbers:
            self._add(at["native"], "native", "`native` needs `trunk`", "write `vlan` for a port without tags")
            return NO_PORT
        untagged = next(iter((*numbers.get("vlan", ()), *numbers.get("native", ()))), 0)
        tagged = tuple(sorted({*numbers.get("trunk", ())} - {untagged}))
        return Port(untagged, tagged, options)

    def _numbers(self, written: Any, place: Place | None, key: str) -> list[int]:
        """Return the numbers of VLANs; of one that is wrong, none."""
        found: list[int] = []
        for one in written if isinstance(written, list) else [written]:
            text = str(one).strip()
            if text in self._vlans:
                found.append(self._vlans[text].number)
            elif key == "trunk" and text == ALL:
                found += [vlan.number for vlan in self._vlans.values()]
                if not self._vlans:
                    self._add(place, key, "`all` stands for the VLANs of `vlans`, and there are none")
            elif key == "trunk" and _range(text):
                found += _range(text)
            elif text.isascii() and text.isdigit() and 1 <= int(text) <= VLAN_MAX:
                found.append(int(text))
            elif text.isascii() and text.lstrip("-").isdigit():
                self._add(place, key, f"a VLAN has a number from 1 to {VLAN_MAX}, not {text}")
            elif key == "trunk" and re.fullmatch("[0-9]+-[0-9]+", text):
                self._add(place, key, f"`{text}` is not a range of VLANs", f"write FIRST-LAST, from 1 to {VLAN_MAX}")
            else:
                hint = suggest(text, self._vlans) if self._vlans else "declare it: `vlans: {red: 10}`"
                self._add(place, key, f"there is no VLAN `{text}`", hint)
        return found

    def _add(self, place: Place | None, key: str, message: str, hint: str = "") -> None:
        self._mistakes.add(place and place.at(key), message, hint)


def _range(text: str) -> list[int]:
    """Return the numbers of `10-12`; none for another text."""
    first, dash, last = text.partition("-")
    if not (dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
        return []
    return list(range(int(first), int(last) + 1)) if 1 <= int(first) <= int(last) <= VLAN_MAX else []


def _values(model: EndFile | LinkFile) -> dict[str, Any]:
    return {key: model.values[key] for key in PORT_KEYS if key in model.values}
