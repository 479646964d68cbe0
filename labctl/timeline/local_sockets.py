"""Why a call on a socket of AF_UNIX failed: what calls of its host, and of others, did with the same path or name.

Sockets of AF_UNIX send no packets, and a path or an abstract name belongs to one host. So the calls that were recorded
are the only evidence: what was concluded from the absence of a call ends with `(inferred)`. Source: unix(7).
"""

from __future__ import annotations

import re

from labctl.timeline.events import Call
from labctl.timeline.evidence import Evidence
from labctl.timeline.packet_loss import INFERRED

_PATH = re.compile(r"\{AF_UNIX, (@?)\"?([^\"{}]*)\"?\}|(?<=, )(@?)\"?(/[^\"{},]*)\"?")
_BACKLOG = re.compile(r", (\d+)$")
_NAMES_MAX = 3


def path_of(call: Call) -> str:
    """Return the path or abstract name, `@name`, that the call names; "" if it names none."""
    found = _PATH.search(call.arguments)
    if found is None or "AF_INET" in call.arguments:
        return ""
    mark, name, other_mark, path = found.groups()
    return (mark or other_mark or "") + (name or path or "")


def explain_local(ev: Evidence, call: Call) -> list[str]:
    """Return why a call on a path or abstract name failed, or did not return; [] if the calls do not show it."""
    path = path_of(call)
    if not path:
        return []
    bound = [each for each in ev.calls if each.name == "bind" and each.result == 0 and path_of(each) == path]
    here = [each for each in bound if each.host == call.host and each.at_ns < call.at_ns]
    holders = [each for each in here if not _closed_ns(ev, each, call)]
    match call.name, call.errno:
        case "bind", "EADDRINUSE":
            return _in_use(ev, call, path, here, holders)
        case "connect" | "sendto" | "sendmsg", "ENOENT":
            return _missing(ev, call, path, bound)
        case "connect" | "sendto" | "sendmsg", "ECONNREFUSED":
            return _refused(ev, call, path, bound, here, holders)
        case "connect", "EAGAIN":
            return _full_queue(ev, call, path, holders)
        case "connect", "" if call.result is None:
            return _full_queue(ev, call, path, holders)
        case _:
            return []


def _in_use(ev: Evidence, call: Call, path: str, here: list[Call], holders: list[Call]) -> list[str]:
    if holders:
        who = "the same process" if holders[-1].pid == call.pid else f"{holders[-1].program} (pid {holders[-1].pid})"
        return [f"{who} on {call.host} has bound {path} {ev.moment(holders[-1].at_ns)}"]
    if path.startswith("@"):
        return []
    if here:
        return [f"{_stale(ev, path, here[-1], call)}; unlink it before bind"]
    return [
        f"the file {path} exists on {call.host}, and no recorded call has bound it{INFERRED}; unlink it before bind"
    ]


def _missing(ev: Evidence, call: Call, path: str, bound: list[Call]) -> list[str]:
    if elsewhere := _elsewhere(call, path, bound):
        return [f"{call.host} has no file {path}; {elsewhere}"]
    later = [each for each in bound if each.host == call.host and each.at_ns >= call.at_ns]
    if later:
        after_ms = (later[0].at_ns - call.at_ns) / 1e6
        return [f"nothing had bound {path} yet; {later[0].program} on {call.host} did {after_ms:.1f} ms later"]
    others = {path_of(each) for each in ev.calls if (each.host, each.name, each.result) == (call.host, "bind", 0)}
    names = sorted(others - {"", path})[:_NAMES_MAX]
    near = f"; {call.host} has bound {' and '.join(names)}" if names else ""
    return [f"no socket on {call.host} is bound to {path}{near}"]


def _refused(
    ev: Evidence, call: Call, path: str, bound: list[Call], here: list[Call], holders: list[Call]
) -> list[str]:
    if holders:
        holder = holders[-1]
        if _on_socket(ev, holder, call, "listen"):
            return []
        return [f"{holder.program} on {call.host} has bound {path} but has not called listen"]
    if here and not path.startswith("@"):
        return [_stale(ev, path, here[-1], call)]
    if here:
        return [
            f"{here[-1].program} on {call.host} closed the socket {path}, and an abstract name ends with its socket"
        ]
    if elsewhere := _elsewhere(call, path, bound):
        return [f"no socket on {call.host} has the name {path}; {elsewhere}"]
    if path.startswith("@"):
        return [f"no socket on {call.host} has the name {path}{INFERRED}"]
    return [f"the file {path} exists on {call.host}, but no process listens on it: its owner has ended{INFERRED}"]


def _stale(ev: Evidence, path: str, holder: Call, call: Call) -> str:
    closed_ns = _closed_ns(ev, holder, call)
    owner = f"{holder.program} on {call.host}"
    return f"the file {path} remains of a socket that {owner} bound, and that was closed {ev.moment(closed_ns)}"


def _elsewhere(call: Call, path: str, bound: list[Call]) -> str:
    """Return that another host has bound the path or name."""
    others = sorted({each.host for each in bound} - {call.host})
    if not others:
        return ""
    kind = "an abstract name" if path.startswith("@") else "a socket file"
    return f"{' and '.join(others)} bound it, but {kind} belongs to one host, and links do not carry AF_UNIX"


def _full_queue(ev: Evidence, call: Call, path: str, holders: list[Call]) -> list[str]:
    """Return how many connections wait for accept(2) at the listener."""
    if not holders:
        return []
    holder = holders[-1]
    listens = _on_socket(ev, holder, call, "listen")
    backlog = _BACKLOG.search(listens[-1].arguments) if listens else None
    if backlog is None:
        return []
    accepted = len(_on_socket(ev, holder, call, "accept", "accept4"))
    connected = sum(
        each.name == "connect" and each.result == 0 and each.host == call.host and path_of(each) == path
        for each in ev.calls
        if holder.at_ns < each.at_ns < call.at_ns
    )
    waiting = connected - accepted
    if waiting <= int(backlog[1]):  # it takes one more than the backlog
        return []
    last = f", and has accepted {accepted}" if accepted else " and has not called accept"
    return [
        f"the accept queue of {path} is full: {waiting} waiting for accept, with a backlog of {backlog[1]}",
        f"{holder.program} on {call.host} listens{last}",
    ]


def _on_socket(ev: Evidence, holder: Call, before: Call, *names: str) -> list[Call]:
    """Return the successful calls of these names on the socket that `holder` bound."""
    return [
        each
        for each in ev.calls
        if each.name in names
        and each.result is not None
        and each.result >= 0
        and (each.host, each.pid, each.fd) == (holder.host, holder.pid, holder.fd)
        and holder.at_ns < each.at_ns < before.at_ns
    ]


def _closed_ns(ev: Evidence, holder: Call, before: Call) -> int:
    """Return when the socket was closed, or its program ended; 0 if it was not."""
    closes = _on_socket(ev, holder, before, "close")
    ends = [
        mark.at_ns
        for mark in ev.ends
        if (mark.host, mark.program) == (holder.host, holder.program) and holder.at_ns < mark.at_ns < before.at_ns
    ]
    return min([each.at_ns for each in closes] + ends, default=0)
