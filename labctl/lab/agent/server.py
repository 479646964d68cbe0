"""The agent: a process on a host that makes the socket calls of a scenario, one at a time.

The keeper forks it. It executes no program, so all that it needs is imported before the fork: its mounts may hide the
files.
"""

from __future__ import annotations

import os
import signal
from time import monotonic_ns
from typing import NoReturn

from labctl.kernel.socket_calls import Made
from labctl.lab.agent.addresses import CannotForm
from labctl.lab.agent.handlers import Gathers, Prepared, prepare
from labctl.lab.agent.messages import (
    LENGTH_BYTES,
    Answer,
    Begun,
    CallResult,
    Impossible,
    Stop,
    SystemCall,
    Value,
    decode,
    encode,
)

CALLS_MAX = 100_000  # of one `until`
GATHERED_MAX_BYTES = 64 * 1024 * 1024  # of one `until`


def serve(channel: int) -> NoReturn:
    """Make the calls that are requested on `channel` until the client closes its end; the process ends then.

    The process must have default signals and no other descriptors than 0, 1 and 2, so that its first socket is
    descriptor 3. It ignores SIGPIPE, so that a call returns EPIPE. SIGUSR1 interrupts a blocked call (EINTR); SIGUSR2
    is handled with SA_RESTART.
    """
    status = 1
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        for number, interrupts in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
            signal.signal(number, lambda *_: None)
            signal.siginterrupt(number, interrupts)
        while (request := _read_message(channel)) is not None:
            try:
                _answer(channel, request)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001  # the process has no stderr: the client reports it
                _send(channel, Impossible(f"a fault of labctl's, please report it: {type(error).__name__}: {error}"))
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the client has disconnected
    finally:
        os._exit(status)


def _read_message(channel: int) -> bytes | None:
    head = _read_exactly(channel, LENGTH_BYTES)
    return None if head is None else _read_exactly(channel, int.from_bytes(head, "big"))


def _read_exactly(channel: int, size: int) -> bytes | None:
    parts, missing = [], size
    while missing:
        part = os.read(channel, missing)
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _send(channel: int, answer: Answer) -> None:
    rest = memoryview(encode(answer))
    while rest:
        rest = rest[os.write(channel, rest) :]


def _answer(channel: int, request: bytes) -> None:
    call = decode(request, SystemCall)
    try:
        if call.name in ("close", "dup2") and channel in call.arguments:
            raise CannotForm(f"descriptor {channel} belongs to labctl in a calling process")
        prepared = prepare(call)
    except CannotForm as error:
        _send(channel, Impossible(str(error)))
        return
    _send(channel, Begun(monotonic_ns(), prepared.text(None)))
    _send(channel, repeat(prepared, call) if call.until else _once(prepared))


def _once(prepared: Prepared) -> CallResult:
    made = prepared.make()
    failed = made.returned == -1
    return CallResult(
        prepared.text(made),
        made.returned,
        made.errno,
        made.started_ns,
        made.ended_ns,
        made.returned if failed else prepared.number(made),
        prepared.failed if failed else prepared.values(made),
        "" if failed else prepared.summary(made),
    )


def repeat(prepared: Prepared, call: SystemCall) -> CallResult:
    """Make the call until it returns one of `call.until`, fails in another way, or was made too often."""
    gathered: list[Value] = []
    size_bytes = 0
    first_ns, count = 0, 0
    while True:
        made = prepared.make()
        count += 1
        first_ns = first_ns or made.started_ns
        stopped = any(_is(stop, made, prepared) for stop in call.until)
        if stopped or made.returned == -1:
            break
        data = prepared.data(made)
        gathered.append(prepared.values(made)[0])
        size_bytes += len(data or b"")
        if size_bytes > GATHERED_MAX_BYTES or count == CALLS_MAX:
            break
    failed = made.returned == -1
    values = prepared.failed if failed else prepared.values(made)
    total = _gather(prepared.gathers, gathered, values[0])
    return CallResult(
        prepared.text(made),
        made.returned,
        made.errno,
        first_ns,
        made.ended_ns,
        made.returned if failed else prepared.number(made),
        (total, *values[1:]),
        _describe(prepared.gathers, total, len(gathered)),
        count,
        stopped,
    )


def _is(stop: Stop, made: Made, prepared: Prepared) -> bool:
    if made.returned == -1:
        return stop.errno == made.errno or stop.number == -1
    if stop.errno is not None:
        return False
    if stop.data is not None:
        return prepared.data(made) == stop.data
    return prepared.number(made) == stop.number


def _gather(gathers: Gathers, gathered: list[Value], last: Value) -> Value:
    match gathers:
        case Gathers.SUM:
            return sum(value for value in gathered if isinstance(value, int))
        case Gathers.DATA:
            return b"".join(value for value in gathered if isinstance(value, bytes))
        case Gathers.LIST:
            return gathered
        case Gathers.LAST:
            return last


def _describe(gathers: Gathers, total: Value, calls: int) -> str:
    match total:
        case int() if gathers is Gathers.SUM:
            return f"{total} bytes in {calls} calls"
        case bytes():
            return f"{len(total)} bytes in {calls} calls"
        case list():
            return f"{total} in {calls} calls"
    return f"after {calls} calls"
