"""Why a call or a step failed: sentences that join calls, packets, drops, states, queues and listeners of all hosts.

Each sentence follows from events. What is concluded from counters, samples or silence ends with `(inferred)`. Without
root the kernel reports no drops, so more is inferred. Where the events show no cause there is no sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from labctl.structs import replace
from labctl.timeline.event_text import header_text
from labctl.timeline.events import Call, Flow, Mark, Packet, Step, Timeline
from labctl.timeline.evidence import Evidence, Listening, endpoint
from labctl.timeline.local_sockets import explain_local
from labctl.timeline.packet_loss import (
    INFERRED,
    down,
    drop_text,
    filtering,
    losing,
    neighbour,
    no_way,
    rejecting,
    why_lost,
)

SENTENCES_MAX = 6
PACKETS_SHOWN = 8  # of a failure
ATTEMPTS_MAX = 2  # failed connections that are explained of a step whose calls are not known
_CONNECTS = ("connect",)
_RECEIVES = frozenset({"recv", "recvfrom", "recvmsg", "read", "readv"})
_SENDS = frozenset({"send", "sendto", "sendmsg", "write", "writev"})
_BUFFER = re.compile(r'^(\d+, )(?:"(?:[^"\\]|\\.)*"(?:\.\.\.)?|0x[0-9a-f]+)(, )')
_ACCEPTS = frozenset({"accept", "accept4"})
_UNREACHED = frozenset({"EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "ECONNREFUSED", "EACCES", "EPERM", ""})
_BROKEN = frozenset({"ECONNRESET", "EPIPE", "ECONNABORTED"})
_UDP_PAYLOAD_MAX = 65507  # bytes; of IPv4 (udp(7))
_UNREAD_AT_CLOSE = "TCP_ABORT_ON_CLOSE"  # enum sk_rst_reason, since Linux 6.10
_PRIVILEGED_PORTS = 1024  # below it: ip(7)


def explain(timeline: Timeline, failing: Call | Step | None = None) -> tuple[str, ...]:
    """Return the causes of a failure as sentences, the nearest first; () if the events show none.

    `failing` is the call that failed or did not return, or the step; None: anything that failed.
    """
    evidence = Evidence(timeline)
    match failing:
        case Call():
            found = _of_call(evidence, failing)
        case Step():
            found = _of_step(evidence, failing)
        case None:
            found = _of_span(evidence, "", timeline.started_ns, timeline.ended_ns)
    return tuple(dict.fromkeys(found))[:SENTENCES_MAX]


def failing_call(timeline: Timeline, step: Step) -> Call | None:
    """Return the last call of a calls step: the one that failed, did not return, or returned something unexpected."""
    calls = [event for event in timeline.events if isinstance(event, Call) and event.step == step.index]
    return max(calls, key=lambda call: call.at_ns, default=None)


def last_packets(timeline: Timeline, host: str) -> tuple[str, ...]:
    """Return the last packets of TCP and UDP, and ICMP errors, of the host ("": of all), a line each."""
    names = {address: node.name for node in timeline.nodes for address in node.addresses}
    packets = [
        event
        for event in timeline.events
        if isinstance(event, Packet)
        and host in ("", event.host, event.receiver)
        and (event.header.protocol in ("tcp", "udp") or event.header.quoted is not None)
    ]
    lines = []
    for packet in packets[-PACKETS_SHOWN:]:
        at_ms = (packet.at_ns - timeline.started_ns) / 1e6
        header = replace(packet.header, options="")
        text = header_text(header, names, packet.relative_seq, packet.relative_ack)
        notes = (", again" if packet.is_retransmission else "") + ("" if packet.receiver else ", did not arrive")
        lines.append(f"{at_ms:.1f} ms {text}{notes}")
    return tuple(lines)


def _of_step(ev: Evidence, step: Step) -> list[str]:
    call = failing_call(ev.timeline, step) if step.kind == "calls" else None
    if call is not None:
        return _of_call(ev, call)
    return _of_span(ev, step.host, step.at_ns, ev.until(step))


def _of_span(ev: Evidence, host: str, since_ns: int, until_ns: int) -> list[str]:
    """Explain what failed between two moments on a host ("": any): connections and datagrams, then ended programs."""
    found: list[str] = []
    attempts, recovered = _failed_attempts(ev, host, since_ns, until_ns)
    for node, flow in attempts[-ATTEMPTS_MAX:]:
        what = f"{node} to {endpoint(ev.name(flow.target, node), flow.target_port)}: "
        sentences = _outcome(ev, node, flow, since_ns, until_ns)
        found += [what + sentences[0], *sentences[1:]] if sentences else []
    if not found:
        found += _resets(ev, host, since_ns, until_ns)[-ATTEMPTS_MAX:]
    if not found:
        found += _not_accepted(ev, host, since_ns, until_ns)[-ATTEMPTS_MAX:]
    if not found:
        found += _not_read(ev, host, since_ns, until_ns)[-ATTEMPTS_MAX:]
    if not found:
        failed = [
            call
            for call in ev.calls
            if since_ns <= call.at_ns <= until_ns and host in ("", call.host) and (call.errno or call.until_ns is None)
        ]
        for call in reversed(failed):
            if call.name in _CONNECTS and ev.connection(call) in recovered:
                continue
            if sentences := _of_call(ev, call):
                found += [f"{call.program} on {call.host}, {_shown(call)}: {sentences[0]}", *sentences[1:]]
                break
    ends = [_ended(ev, mark) for mark in ev.ends if since_ns <= mark.at_ns <= until_ns and mark.exit_status]
    return found + [end for end in ends if not any(end in sentence for sentence in found)]


def _failed_attempts(
    ev: Evidence, host: str, since_ns: int, until_ns: int
) -> tuple[list[tuple[str, Flow]], set[Flow | None]]:
    """Return the connections that were tried and not established, and the datagrams that an ICMP error answered.

    The second result are attempts after which the host reached another address of the same node and port: programs try
    the addresses of a name in turn.
    """
    found: dict[Flow, str] = {}
    recovered: set[Flow | None] = set()
    for packet in ev.packets:
        flow = packet.header.flow
        if not since_ns <= packet.at_ns <= until_ns or flow is None:
            continue
        if packet.header.flags == ("SYN",) and host in ("", packet.host) and ev.way(packet)[0] is packet:
            found.setdefault(flow, packet.host)
        elif packet.header.flags == ("SYN", "ACK") and ev.has_arrived(packet):
            reached = flow.reverse
            node = found.pop(reached, "")
            for other in [other for other, by in found.items() if by == node and other.target != reached.target]:
                if (ev.name(other.target), other.target_port) == (ev.name(reached.target), reached.target_port):
                    del found[other]
                    recovered.add(other)
        elif packet.header.quoted is not None and packet.receiver and host in ("", packet.receiver):
            found.setdefault(packet.header.quoted, packet.receiver)
    for node, flow in _stopped_inside(ev, host, since_ns, until_ns):
        found.setdefault(flow, node)
    return [(node, flow) for flow, node in found.items()], recovered


def _stopped_inside(ev: Evidence, host: str, since_ns: int, until_ns: int) -> list[tuple[str, Flow]]:
    """Return the connections of which no SYN left the host, although the kernel began to connect them."""
    begun: dict[Flow, str] = {}
    for state in ev.states:
        flow = state.socket.flow
        if flow is None or not since_ns <= state.at_ns <= until_ns or host not in ("", state.host):
            continue
        if state.new == "SYN_SENT":
            begun[flow] = state.host
        elif state.old == "SYN_SENT" and state.new != "CLOSE":
            begun.pop(flow, None)
    left = {packet.header.flow for packet in ev.packets if since_ns <= packet.at_ns <= until_ns}
    return [(node, flow) for flow, node in begun.items() if flow not in left]


def _resets(ev: Evidence, host: str, since_ns: int, until_ns: int) -> list[str]:
    """Explain the RSTs that ended established connections of a host ("": of any)."""
    found: list[str] = []
    for packet in ev.packets:
        flow = packet.header.flow
        if not since_ns <= packet.at_ns <= until_ns or flow is None or "RST" not in packet.header.flags:
            continue
        mine = flow.reverse
        if not packet.receiver or host not in ("", packet.receiver) or not ev.has_arrived(packet):
            continue
        answers = [each for each in ev.sent(flow, 0, packet.at_ns) if "SYN" in each.header.flags]
        if not answers or (packet.host and packet.host != ev.name(flow.source)):
            continue
        end = endpoint(ev.name(mine.target, packet.receiver), mine.target_port)
        lead = f"{packet.receiver} to {end}: {packet.host} sent RST {ev.moment(packet.at_ns)}"
        found.append(_chain(lead, _why_reset(ev, mine, packet.host, packet.at_ns)))
    return found


def _not_accepted(ev: Evidence, host: str, since_ns: int, until_ns: int) -> list[str]:
    """Explain the connections of a host ("": of any) that the peer's program had not accepted when the span ended."""
    found: list[str] = []
    for packet in ev.packets:
        flow = packet.header.flow
        is_answer = packet.header.flags == ("SYN", "ACK") and since_ns <= packet.at_ns <= until_ns
        if flow is None or not is_answer or host not in ("", packet.receiver) or not ev.has_arrived(packet):
            continue
        peer, mine = ev.name(flow.source), flow.reverse
        if any(each.header.payload_bytes or "FIN" in each.header.flags for each in ev.sent(flow, 0, until_ns)):
            continue
        if any(each.host == peer and each.socket.flow == flow and each.socket.inode for each in ev.samples):
            continue  # only a socket that accept has returned has an inode: the sample of the listener is older
        listeners = [
            each
            for each in ev.samples
            if (each.host, each.state) == (peer, "LISTEN")
            and each.socket.flow is not None
            and each.socket.flow.source_port == mine.target_port
            and packet.at_ns <= each.at_ns <= until_ns
        ]
        if not listeners or not listeners[-1].receive_queue:
            continue
        queue = f"accept queue {listeners[-1].receive_queue} of {listeners[-1].send_queue}"
        asked = sum(each.header.payload_bytes for each in ev.sent(mine, 0, until_ns) if not each.is_retransmission)
        sent = f", and {asked} bytes wait there unread" if asked else ""
        to = endpoint(ev.name(mine.target, packet.receiver), mine.target_port)
        found.append(
            f"{packet.receiver} to {to}: the kernel of {peer} has made the connection, but no program has accepted it"
            f" ({queue}){sent}{INFERRED}"
        )
    return found


# -- calls


def _of_call(ev: Evidence, call: Call) -> list[str]:
    if local := explain_local(ev, call):
        return local
    if call.name in _CONNECTS and call.errno in _UNREACHED | _BROKEN and call.result != 0:
        return _of_connect(ev, call)
    match call.errno:
        case "EADDRINUSE":
            return _address_in_use(ev, call)
        case "EADDRNOTAVAIL":
            return _address_not_available(ev, call)
        case "EACCES" if call.name == "bind":
            port = (call.address or ("", 0))[1]
            return [f"port {port} is below {_PRIVILEGED_PORTS}, which needs CAP_NET_BIND_SERVICE"] if port else []
        case "EMSGSIZE":
            return _message_too_long(ev, call)
    if call.errno in _BROKEN:
        return _broken(ev, call)
    if call.name in _ACCEPTS and call.result in (None, -1):
        return _nothing_to_accept(ev, call)
    if call.name in _RECEIVES | _SENDS:
        return _of_transfer(ev, call)
    return []


def _of_connect(ev: Evidence, call: Call) -> list[str]:
    flow = ev.connection(call) or (call.socket.flow if call.socket is not None else None)
    if flow is None or not flow.target_port:
        address = call.address
        if address is None:
            return []
        flow = Flow("tcp", "", 0, *address)
    return _outcome(ev, call.host, flow, call.at_ns, ev.until(call), call.errno)


def _of_transfer(ev: Evidence, call: Call) -> list[str]:
    flow = ev.connection(call) or (call.socket.flow if call.socket is not None else None)
    if flow is None:
        return []
    if flow.protocol == "udp":
        return _of_datagrams(ev, call, flow)
    if not flow.source or not flow.target:
        return []
    if call.name in _SENDS:
        has_waited = call.result is None or call.errno in ("EAGAIN", "ETIMEDOUT")
        return _not_sent(ev, call.host, flow, ev.until(call)) if has_waited else []
    if call.result is None or call.result < 0:
        return _not_received(ev, call, flow)
    return _end_of_file(ev, call, flow) if call.result == 0 else _pieces(ev, call, flow)


# -- connections that are not established, datagrams that are refused


def _outcome(ev: Evidence, host: str, flow: Flow, since_ns: int, until_ns: int, errno: str = "") -> list[str]:
    """Explain what became of the first packets of `host` to the target of `flow`."""
    sent = [each for each in ev.sent(flow, since_ns, until_ns) if each.host in ("", host)]
    if flow.protocol == "tcp":
        sent = [each for each in sent if each.header.flags == ("SYN",)]
    if not sent or sent[0].header.flow is None:
        return _nothing_left(ev, host, flow, since_ns, until_ns, errno)
    own = sent[0].header.flow
    sent = [each for each in sent if each.header.flow == own]
    target = ev.name(own.target, host)
    what = "SYN" if flow.protocol == "tcp" else "datagram"
    tries = what if len(sent) == 1 else f"{what} (sent {len(sent)} times)"
    answers = ev.sent(own.reverse, since_ns, until_ns)
    resets = [each for each in answers if "RST" in each.header.flags]
    if resets:
        who = resets[0].host or target
        if errno != "ECONNREFUSED" and not any(map(ev.has_arrived, resets)):
            chain = f"{tries} reached {target}, which answered RST; that reached {ev.reached(resets[0])} only"
            return [_chain(chain, why_lost(ev, resets, since_ns, until_ns))]
        why = _not_listening(ev, target, own, sent[0].at_ns) if who == target else [f"not {target} itself"]
        return [_chain(f"{tries} reached {target}; {who} answered RST", why)]
    if errors := ev.errors_about(own, since_ns, until_ns):
        return _refused_by_icmp(ev, sent[0], tries, errors[0])
    if flow.protocol != "tcp":
        return []
    accepted = [each for each in answers if each.header.flags == ("SYN", "ACK")]
    if not accepted:
        return _unanswered(ev, host, sent, tries, since_ns, until_ns)
    if not any(ev.has_arrived(each) for each in accepted):
        chain = f"{tries} reached {target}, which answered SYN ACK; that reached {ev.reached(accepted[0])}"
        return [_chain(chain, why_lost(ev, accepted, since_ns, until_ns))]
    return []


def _not_listening(ev: Evidence, host: str, flow: Flow, at_ns: int) -> list[str]:
    """Return why nothing takes a packet of this flow on its host: nothing listens, or elsewhere, or not yet."""
    port, is_tcp = flow.target_port, flow.protocol == "tcp"
    verb = "listens on" if is_tcp else "has a UDP socket bound to"
    nothing = f"nothing listens on {port}" if is_tcp else f"no UDP socket is bound to {port}"
    known = [each for each in ev.listening if each.host == host and each.protocol == flow.protocol]
    open_then = [each for each in known if each.until_ns is None or each.until_ns > at_ns]
    here = [each for each in open_then if each.port == port and each.takes(flow.target)]
    if here:
        late = [each for each in here if each.is_exact and each.since_ns > at_ns]
        if late:
            return [
                f"nothing listened on {port} yet",
                f"{host} began to {(late[0].since_ns - at_ns) / 1e6:.1f} ms later",
            ]
        if ":" in here[0].address and ":" not in flow.target:
            return [nothing + " for IPv4", f"{host} {verb} {here[0]} for IPv6 only"]
        return rejecting(ev.state(host), "target") or [f"although it {verb} {here[0]}{INFERRED}"]
    found = [nothing]
    closed = [each for each in known if each.port == port and each.until_ns is not None and each.until_ns <= at_ns]
    if closed and closed[-1].until_ns is not None:
        when = f"closed its socket {ev.moment(closed[-1].until_ns)}"
        found.append(f"{host} {when if closed[-1].is_exact else 'listened there before'}")
    elsewhere = list(dict.fromkeys(map(str, (each for each in open_then if each.port == port))))
    if elsewhere:
        family = ", which is IPv4" if elsewhere == [f"0.0.0.0:{port}"] and ":" in flow.target else ""
        found.append(f"{host} {verb} {', '.join(elsewhere)} only{family}")
    elif not closed and (bound := _bound_only(ev, host, flow, at_ns)):
        found.append(bound)
    else:
        found += _elsewhere(ev, host, verb, flow, open_then)
    ended = [mark for mark in ev.ends if mark.host == host and mark.at_ns <= at_ns]
    if ended:
        found.append(_ended(ev, ended[-1]))
    return found


def _bound_only(ev: Evidence, host: str, flow: Flow, at_ns: int) -> str:
    """Return that a process has bound the port and not listened there; "" if none has."""
    for call in ev.calls:
        own = None if call.socket is None else call.socket.flow
        if own is None or (call.host, call.name, call.result) != (host, "bind", 0) or call.at_ns >= at_ns:
            continue
        if own.source_port == flow.target_port and own.protocol == flow.protocol == "tcp":
            return f"{host} has bound {endpoint(own.source, own.source_port)} but has not called listen"
    return ""


def _elsewhere(ev: Evidence, host: str, verb: str, flow: Flow, known: Sequence[Listening]) -> list[str]:
    """Return what listens instead: other ports of the host, or that port of another host."""
    others = sorted({each.port for each in known})
    found = []
    if others and len(others) <= 3:
        found.append(f"{host} {verb} {' and '.join(map(str, others))}")
    elif not others and ev.state(host) is not None and flow.protocol == "tcp":
        found.append(f"{host} has no listening socket")
    hosts = {
        each.host
        for each in ev.listening
        if each.host != host and (each.port, each.protocol) == (flow.target_port, flow.protocol)
    }
    if hosts:
        found.append(f"{' and '.join(sorted(hosts))} {verb} {flow.target_port}")
    return found


def _refused_by_icmp(ev: Evidence, packet: Packet, tries: str, error: Packet) -> list[str]:
    flow = packet.header.flow
    assert flow is not None
    target = ev.name(flow.target, packet.host)
    who = error.host or ev.name(error.header.flow.source if error.header.flow else "")
    lead = f"{tries} reached {target}" if who == target else f"{tries} for {target} reached {who}"
    why: list[str] = []
    if who == target and "port unreachable" in error.header.summary:
        why = rejecting(ev.state(who), "target") if flow.protocol == "tcp" else []
        why = why or _not_listening(ev, target, flow, packet.at_ns)
    else:
        why = no_way(ev, who, flow, error.at_ns) or rejecting(ev.state(who), "router")
    return [_chain(f"{lead}; {who} answered ICMP {error.header.summary}", why)]


def _unanswered(ev: Evidence, host: str, sent: Sequence[Packet], tries: str, since_ns: int, until_ns: int) -> list[str]:
    """Explain SYNs without an answer: the last node that they reached, and what it did with them."""
    last = sent[-1]
    flow = last.header.flow
    assert flow is not None
    target = ev.name(flow.target, host)
    if not ev.has_arrived(last):
        where = ev.reached(last)
        chain = f"{tries} left {host} but reached no node" if where == host else f"{tries} reached {where} only"
        return [_chain(chain, why_lost(ev, sent, since_ns, until_ns))]
    lead = f"{tries} reached {target}, which did not answer"
    if full := _full_accept_queue(ev, target, flow, since_ns, until_ns):
        return [f"{lead}: {full[0]}", *full[1:]]
    return [_chain(lead, why_lost(ev, sent, since_ns, until_ns))]


def _full_accept_queue(ev: Evidence, target: str, flow: Flow, since_ns: int, until_ns: int) -> list[str]:
    """Return that the accept queue of the listener was full in this time: a sample shows it; [] if none does."""
    sample = ev.sample_of_listener(target, flow.target, flow.target_port, since_ns, until_ns)
    if sample is None or sample.receive_queue <= sample.send_queue:  # it takes one more than the backlog (listen(2))
        return []
    overflows = ev.counted(target, "TcpExtListenOverflows", since_ns, until_ns)
    moved = f"; TcpExtListenOverflows grew by {overflows}" if overflows else ""
    size = f"({sample.receive_queue} of {sample.send_queue})"
    return [
        f"the accept queue of {endpoint(flow.target, flow.target_port)} was full {size}{moved}{INFERRED}",
        f"{target} has to call accept, or listen with a larger backlog",
    ]


def _nothing_left(ev: Evidence, host: str, flow: Flow, since_ns: int, until_ns: int, errno: str) -> list[str]:
    """Explain why no packet for the target left the host."""
    target = ev.name(flow.target, host)
    to = endpoint(flow.target, flow.target_port)
    if not ev.has_packets and errno == "ECONNREFUSED":
        return ["; ".join(_not_listening(ev, target, flow, since_ns))]
    asked = ev.unanswered_neighbours(host, since_ns, until_ns)
    if asked:
        return [neighbour(ev, host, address, times) for address, times in asked.items()]
    drops = ev.drops_of((), flow, since_ns, until_ns)
    if drops:
        return [drop_text(ev, drops[0])]
    if errno == "ENETUNREACH":
        return no_way(ev, host, flow, until_ns) or [f"{host} has no route to {flow.target}"]
    state = ev.state(host)
    if cause := down(state):
        return [f"no packet for {to} left {host}: {cause}"]
    if not ev.has_packets:
        quiet = _full_accept_queue(ev, target, flow, since_ns, until_ns)
        return quiet or list(filter(None, [filtering(ev.state(target), "target") or filtering(state, "source")]))
    if why := filtering(state, "source") or losing(state):
        return [f"no packet for {to} left {host}: {why}"]
    if way := no_way(ev, host, flow, until_ns):
        return way
    return [f"no packet for {to} left {host}, which may reach {target} by no interface{INFERRED}"] if errno else []


# -- addresses


def _address_in_use(ev: Evidence, call: Call) -> list[str]:
    address = call.address
    own = None if call.socket is None else call.socket.flow
    port = address[1] if address is not None else own.source_port if own is not None else 0
    protocol = own.protocol if own is not None else "tcp"
    if not port:
        return []
    holders = []
    for each in ev.calls:
        flow = None if each.socket is None else each.socket.flow
        if each.at_ns >= call.at_ns or each.host != call.host or each.name != "bind" or each.result != 0:
            continue
        if (
            flow is not None
            and (flow.source_port, flow.protocol) == (port, protocol)
            and not _is_closed(ev, each, call)
        ):
            who = f"{each.program} (pid {each.pid})" if each.pid != call.pid else "the same process"
            holders.append(f"{who} on {call.host} has bound {endpoint(flow.source, port)} {ev.moment(each.at_ns)}")
    if holders:
        return holders[-1:]
    closed = {
        (each.host, each.socket.cookie): each.at_ns
        for each in ev.states
        if each.new == "CLOSE" and each.at_ns < call.at_ns
    }
    last = {
        sample.socket.flow: sample
        for sample in ev.samples
        if sample.host == call.host
        and sample.socket.flow is not None
        and (sample.socket.flow.source_port, sample.socket.flow.protocol) == (port, protocol)
        and closed.get((sample.host, sample.socket.cookie), 0) < sample.at_ns
    }
    found = list(last.values())
    found = [sample for sample in found if sample.at_ns >= call.at_ns] or found  # earlier ones may have been closed
    waiting = [sample for sample in found if sample.state == "TIME_WAIT"]
    if waiting and len(waiting) == len(found) and waiting[0].socket.flow is not None:
        flow = waiting[0].socket.flow
        ends = f"{endpoint(flow.source, flow.source_port)} - {endpoint(flow.target, flow.target_port)}"
        return [f"the connection {ends} of {call.host} is in TIME_WAIT; SO_REUSEADDR before bind allows the address"]
    listening = [each for each in found if each.state == "LISTEN" and each.socket.flow is not None]
    for sample in listening[:1]:
        since = [one.since_ns for one in ev.listening if one.host == sample.host and one.port == port and one.is_exact]
        when = f" since {_at(ev, since[0])}" if since and since[0] < call.at_ns else ""
        if (flow := sample.socket.flow) is not None:
            return [f"another socket of {call.host} listens on {endpoint(flow.source, port)}{when}"]
    return [f"{call.host} has {each.socket.flow} in state {each.state}" for each in found[:1]]


def _is_closed(ev: Evidence, bound: Call, before: Call) -> bool:
    return any(
        call.name == "close"
        and call.result == 0
        and (call.host, call.pid, call.fd) == (bound.host, bound.pid, bound.fd)
        for call in ev.calls
        if bound.at_ns < call.at_ns < before.at_ns
    )


def _address_not_available(ev: Evidence, call: Call) -> list[str]:
    address = call.address
    own = ev.addresses(call.host)
    if address is None or not own or call.name != "bind":
        return []
    owner = ev.owner(address[0])
    whose = f"it is {owner}'s; " if owner and owner != call.host else ""
    return [f"{address[0]} is no address of {call.host}: {whose}{call.host} has {', '.join(own)}"]


def _message_too_long(ev: Evidence, call: Call) -> list[str]:
    flow = None if call.socket is None else call.socket.flow
    size = _size_argument(call)
    if size is None:
        return []
    if flow is not None and flow.protocol == "udp" and size > _UDP_PAYLOAD_MAX:
        return [f"{size} bytes are more than the largest datagram of UDP, {_UDP_PAYLOAD_MAX} bytes"]
    state = ev.state(call.host)
    mtu = min((each.mtu for each in state.interfaces if each.name != "lo"), default=0) if state is not None else 0
    if mtu and size + 28 > mtu:
        return [f"{size} bytes and headers exceed the MTU of {mtu} bytes, and the socket does not allow fragments"]
    return []


def _size_argument(call: Call) -> int | None:
    """Return the length that a send call was given."""
    parts = call.arguments.split('"')[-1].split(", ")
    return next((int(part) for part in parts if part.isdecimal()), None)


# -- established connections


def _broken(ev: Evidence, call: Call) -> list[str]:
    """Explain ECONNRESET and EPIPE: which host sent RST, and why."""
    flow = ev.connection(call)
    if flow is None:
        return []
    shut = [
        each
        for each in ev.calls_on(flow, call.host)
        if each.name == "shutdown" and each.result == 0 and each.at_ns < call.at_ns and "SHUT_RD)" not in _shown(each)
    ]
    if call.errno == "EPIPE" and shut:
        return [
            f"{call.host} itself has ended its sending direction with {_shown(shut[-1])} {ev.moment(shut[-1].at_ns)}"
        ]
    peer = ev.name(flow.target, call.host)
    packets = ev.sent(flow.reverse, 0, ev.until(call))
    resets = [each for each in packets if "RST" in each.header.flags]
    if resets:
        who = resets[0].host or peer
        sent = f"{who} sent RST {ev.moment(resets[0].at_ns)}"
        return [_chain(sent, _why_reset(ev, flow, peer, resets[0].at_ns))] if who == peer else [f"{sent}, not {peer}"]
    fins = [each for each in packets if "FIN" in each.header.flags]
    if fins:
        return [f"{peer} had closed the connection (FIN {ev.moment(fins[0].at_ns)})"]
    why = [] if ev.has_packets else _why_reset(ev, flow, peer, ev.until(call))
    return [f"{peer} sent RST: {why[0]}{INFERRED}"] if why else []


def _why_reset(ev: Evidence, flow: Flow, peer: str, at_ns: int) -> list[str]:
    """Return why the peer sent RST at this moment: unread data at close, SO_LINGER, data after close, or its end."""
    before = [each for each in ev.calls_on(flow.reverse, peer) if each.at_ns <= at_ns]
    ended = [mark for mark in ev.ends if mark.host == peer and mark.at_ns <= at_ns]
    fins = [each for each in ev.sent(flow.reverse, 0, at_ns - 1) if "FIN" in each.header.flags]
    if fins:
        return [f"it had closed the connection (FIN {ev.moment(fins[0].at_ns)}) and takes no more data"]
    if ev.has_packets:
        data = [each for each in ev.sent(flow, 0, at_ns) if not each.is_retransmission and ev.has_arrived(each)]
        arrived = sum(each.header.payload_bytes for each in data)
    else:
        arrived = sum(each.data_bytes for each in ev.calls_on(flow, ev.name(flow.source)) if each.name in _SENDS)
    unread = arrived - sum(each.data_bytes for each in before if each.name in _RECEIVES)
    with_unread = f" with {unread} unread bytes" if unread > 0 else ""
    if any(each.name == "setsockopt" and "SO_LINGER" in each.arguments for each in before):
        return ["its SO_LINGER makes close discard the connection"]
    if with_unread and any(each.name == "close" for each in before):
        return [f"it closed the socket{with_unread}"]
    if any(each.reason == _UNREAD_AT_CLOSE and each.flow == flow.reverse for each in ev.resets):
        return [f"it closed the socket{with_unread if before else ' with unread data'}"]
    if ended:
        return [f"{ended[-1].program} {ended[-1].text}{with_unread}"]
    return [f"its process closed the socket, or ended,{with_unread}{INFERRED}"] if with_unread and before else []


def _not_received(ev: Evidence, call: Call, flow: Flow) -> list[str]:
    """Explain a recv that did not return, or had nothing: what the peer sent and does."""
    peer, until_ns = ev.name(flow.target, call.host), ev.until(call)
    incoming = [each for each in ev.sent(flow.reverse, 0, until_ns) if each.header.payload_bytes]
    lost = [each for each in incoming if not ev.has_arrived(each)]
    if lost and not any(ev.has_arrived(each) and each.at_ns > lost[-1].at_ns for each in incoming):
        lead = f"{peer} sent {lost[-1].header.payload_bytes} bytes, which reached {ev.reached(lost[-1])} only"
        return [_chain(lead, why_lost(ev, lost, lost[0].at_ns, until_ns))]
    outgoing = [each for each in ev.sent(flow, 0, until_ns) if each.header.payload_bytes]
    unheard = [each for each in outgoing if not ev.has_arrived(each)]
    found: list[str] = []
    if unheard and unheard[-1] is outgoing[-1]:
        lead = f"{outgoing[-1].header.payload_bytes} bytes of {call.host} reached {ev.reached(unheard[-1])} only"
        found.append(_chain(lead, why_lost(ev, unheard, unheard[0].at_ns, until_ns)))
    elif ev.has_packets and not incoming:
        found.append(f"{peer} has sent no data on this connection")
    elif incoming:
        size = sum(each.header.payload_bytes for each in incoming if not each.is_retransmission)
        read = sum(each.data_bytes for each in ev.calls_on(flow, call.host) if each.name in _RECEIVES)
        if size <= read:
            last = incoming[-1]
            found.append(f"{peer} sent {size} bytes, the last {ev.moment(last.at_ns)}; all have been read")
    return found + _not_closed(ev, flow, peer, until_ns) + _doing(ev, flow, peer, until_ns)


def _not_closed(ev: Evidence, flow: Flow, peer: str, until_ns: int) -> list[str]:
    """Return that the peer keeps its socket open after this end's FIN, and which process has not closed it."""
    fins = [each for each in ev.sent(flow, 0, until_ns) if "FIN" in each.header.flags and ev.has_arrived(each)]
    if not fins or any("FIN" in each.header.flags for each in ev.sent(flow.reverse, 0, until_ns)):
        return []
    found = [f"{peer} received FIN {ev.moment(fins[0].at_ns)} and has not closed its socket"]
    for call in ev.calls:
        is_accept = call.name in ("accept", "accept4") and (call.host, call.address) == (
            peer,
            (flow.source, flow.source_port),
        )
        if is_accept and not any(_closes(each, call) for each in ev.calls):
            found.append(f"{call.program} has not closed descriptor {call.result}, which its accept returned")
    return found


def _closes(call: Call, accept: Call) -> bool:
    """Whether the process that accepted a connection closes its descriptor."""
    same = (call.host, call.pid, call.name, call.fd) == (accept.host, accept.pid, "close", accept.result)
    return same and call.at_ns > accept.at_ns


def _doing(ev: Evidence, flow: Flow, peer: str, until_ns: int) -> list[str]:
    """Return what the peer's program does with the connection."""
    ended = [mark for mark in ev.ends if mark.host == peer and mark.at_ns <= until_ns]
    if ended:
        return [_ended(ev, ended[-1])]
    calls = ev.calls_on(flow.reverse, peer)
    waiting = [each for each in ev.blocked(peer, until_ns) if each in calls]
    if waiting:
        both = ": both ends wait for the other" if waiting[-1].name in _RECEIVES else ""
        return [f"{peer} waits in {_shown(waiting[-1], waits=True)} since {_at(ev, waiting[-1].at_ns)}{both}"]
    if calls:
        return [f"the last call of {peer} on it was {_shown(calls[-1])} {ev.moment(calls[-1].at_ns)}"]
    sample = ev.sample_of_listener(peer, flow.target, flow.target_port, 0, until_ns)
    if sample is not None and sample.receive_queue:
        size = f"accept queue {sample.receive_queue} of {sample.send_queue}"
        return [f"{peer} has not accepted the connection ({size}){INFERRED}"]
    return []


def _not_read(ev: Evidence, host: str, since_ns: int, until_ns: int) -> list[str]:
    """Explain the connections of a host ("": of any) whose peer had no room for more data when the span ended."""
    last: dict[Flow, Packet] = {}
    for packet in ev.packets:
        if since_ns <= packet.at_ns <= until_ns and packet.header.flow and "ACK" in packet.header.flags:
            last[packet.header.flow] = packet
    return [
        f"{packet.receiver} to {endpoint(ev.name(flow.source), flow.source_port)}: {reason}"
        for flow, packet in last.items()
        if host in ("", packet.receiver) and not packet.header.window and not {"RST", "FIN"} & set(packet.header.flags)
        for reason in _not_sent(ev, packet.receiver, flow.reverse, until_ns)[:1]
    ]


def _not_sent(ev: Evidence, host: str, flow: Flow, until_ns: int) -> list[str]:
    """Explain a send that did not return: a full receive window of the peer, or lost packets."""
    peer = ev.name(flow.target, host)
    incoming = [each for each in ev.sent(flow.reverse, 0, until_ns) if "ACK" in each.header.flags]
    if incoming and incoming[-1].header.window == 0:
        samples = [
            sample
            for sample in ev.samples
            if sample.host == peer and sample.socket.flow == flow.reverse and sample.at_ns <= until_ns
        ]
        unread = f", with {samples[-1].receive_queue} unread bytes" if samples and samples[-1].receive_queue else ""
        return [f"the receive window of {peer} is 0{unread}: it does not read", *_doing(ev, flow, peer, until_ns)]
    again = [each for each in ev.sent(flow, 0, until_ns) if each.is_retransmission]
    if again:
        lead = f"{host} has sent the same bytes {len(again) + 1} times without an acknowledgement"
        return [_chain(lead, why_lost(ev, again, again[0].at_ns, until_ns))]
    return []


def _end_of_file(ev: Evidence, call: Call, flow: Flow) -> list[str]:
    peer = ev.name(flow.target, call.host)
    fins = [each for each in ev.sent(flow.reverse, 0, ev.until(call)) if "FIN" in each.header.flags]
    if not fins:
        return []
    calls = [each for each in ev.calls_on(flow.reverse, peer) if each.name in ("close", "shutdown")]
    by = [each for each in calls if each.at_ns <= fins[0].at_ns + 1_000_000]
    how = f" by {_shown(by[-1])}" if by else ""
    return [f"{peer} has ended its sending direction{how}: FIN {ev.moment(fins[0].at_ns)}"]


def _pieces(ev: Evidence, call: Call, flow: Flow) -> list[str]:
    """Explain data that is not what was expected: what the peer sent until then, in which pieces."""
    peer = ev.name(flow.target, call.host)
    sends = [
        each.data_bytes
        for each in ev.calls_on(flow.reverse, peer)
        if each.name in _SENDS and each.data_bytes and each.at_ns <= ev.until(call)
    ]
    earlier = sum(
        each.data_bytes for each in ev.calls_on(flow, call.host) if each.name in _RECEIVES and each.at_ns < call.at_ns
    )
    if not sends or call.result is None:
        return []
    total = sum(sends)
    rest = total - earlier - call.data_bytes
    if len(sends) == 1 and rest <= 0:
        return []
    pieces = f"in {len(sends)} sends ({', '.join(map(str, sends[:5]))}{', ...' if len(sends) > 5 else ''})"
    left = f"; {rest} bytes are not read yet" if rest > 0 else ""
    return [f"{peer} had sent {total} bytes {pieces}{left}: TCP keeps no message boundaries"]


def _nothing_to_accept(ev: Evidence, call: Call) -> list[str]:
    own = None if call.socket is None else call.socket.flow
    if own is None or own.protocol != "tcp" or not own.source_port or not ev.has_packets:
        return []
    until_ns = ev.until(call)
    tried = [
        packet
        for packet in ev.packets
        if packet.header.flags == ("SYN",) and packet.at_ns <= until_ns and ev.way(packet)[0] is packet
    ]
    mine = [each for each in tried if each.header.flow and each.header.flow.target in ev.addresses(call.host)]
    for packet in reversed(mine):
        flow = packet.header.flow
        if flow is not None and flow.target_port == own.source_port:
            return _outcome(ev, packet.host, flow, ev.timeline.started_ns, until_ns)
    for packet in reversed(mine):
        flow = packet.header.flow
        if flow is not None:
            at = endpoint(flow.target, flow.target_port)
            return [f"no SYN for port {own.source_port} has been sent; {packet.host} sent one to {at}"]
    return [f"no SYN for {call.host} has been sent"]


# -- datagrams


def _of_datagrams(ev: Evidence, call: Call, flow: Flow) -> list[str]:
    """Explain a UDP call: refused or unreachable by ICMP, nothing sent to it, or lost on the way."""
    until_ns = ev.until(call)
    if call.errno in _UNREACHED and call.errno and flow.target_port:
        sends = [each for each in ev.calls if each.name in _SENDS | {"connect"} and each.host == call.host]
        begun_ns = max((each.at_ns for each in sends if each.at_ns <= call.at_ns), default=call.at_ns)
        return _outcome(ev, call.host, flow, min(begun_ns, call.at_ns), until_ns, call.errno)
    if call.name not in _RECEIVES or not flow.source_port or (call.result is not None and call.result >= 0):
        return []
    mine = Flow("udp", "", 0, "", flow.source_port)
    addresses = ev.addresses(call.host)
    sent = [
        each
        for each in ev.sent(mine, 0, until_ns)
        if each.header.flow is not None and (not addresses or each.header.flow.target in addresses)
    ]
    lost = [each for each in sent if not ev.has_arrived(each)]
    dropped = ev.drops_of(sent, Flow("udp", "", 0, addresses[0] if addresses else "", flow.source_port), 0, until_ns)
    if dropped:
        lead = f"{len(dropped)} of {len(sent)} datagrams reached {call.host}"
        header = dropped[0].header
        if dropped[0].reason == "NO_SOCKET" and header is not None and header.flow is not None:
            return [_chain(lead, _not_listening(ev, call.host, header.flow, dropped[0].at_ns))]
        return [f"{lead}: {drop_text(ev, dropped[0])}"]
    for error in ev.errors_about(mine, 0, until_ns):
        quoted, what = error.header.quoted, error.header.summary
        if error.host == call.host and quoted is not None and "port unreachable" in what:
            lead = f"a datagram reached {call.host}, which answered ICMP {what}"
            return [_chain(lead, _not_listening(ev, call.host, quoted, error.at_ns))]
    full = ev.counted(call.host, "UdpRcvbufErrors", 0, until_ns)
    if full:
        return [f"{call.host} dropped {full} datagrams: the receive buffer was full{INFERRED}"]
    if lost:
        flow_of = lost[-1].header.flow
        to = endpoint(flow_of.target, flow_of.target_port) if flow_of is not None else ""
        lead = f"a datagram to {to} reached {ev.reached(lost[-1])} only"
        return [_chain(lead, why_lost(ev, lost, lost[0].at_ns, until_ns))]
    if sent or not ev.has_packets:
        return []
    near = [
        each
        for each in ev.sent(Flow("udp", "", 0, "", 0), 0, until_ns)
        if each.header.flow is not None and each.header.flow.target in addresses
    ]
    found = [f"no datagram for port {flow.source_port} of {call.host} has been sent"]
    if near and near[-1].header.flow is not None:
        found[0] += f"; {near[-1].host} sent one to port {near[-1].header.flow.target_port}"
    return found


# -- text


def _chain(lead: str, reasons: Iterable[str]) -> str:
    """Return `lead: reason; reason`."""
    why = "; ".join(reasons)
    return f"{lead}: {why}" if why else lead


def _shown(call: Call, *, waits: bool = False) -> str:
    arguments = call.arguments
    if (
        waits or call.result is None
    ) and call.name in _RECEIVES:  # what a tracer read there came later, or has no meaning
        arguments = _BUFFER.sub(r"\1buf\2", arguments)
    text = f"{call.name}({arguments})"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _ended(ev: Evidence, mark: Mark) -> str:
    return f"{mark.program} on {mark.host} {mark.text} {ev.moment(mark.at_ns)}"


def _at(ev: Evidence, at_ns: int) -> str:
    return ev.moment(at_ns).removeprefix("at ")
