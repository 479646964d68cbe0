"""The host's side of a calling process: reads requests, makes the calls, answers. Forked by the keeper, never exec'd.

Keep its imports few: they are loaded in the keeper, before it forks.
"""

from __future__ import annotations

import fcntl
import os
import resource
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
    decode_call,
    encode_answer,
    frame,
)

MOST_CALLS = 100_000  # of one `until`
MOST_BYTES = 64 * 1024 * 1024  # gathered by one `until`
_CHANNEL = 1023  # below the usual soft limit of descriptors, above what scenarios use


def serve(channel_fd: int) -> NoReturn:
    """Be a calling process: never returns; the process ends when the owner closes its end of the channel.

    The channel moves to a high number and every other descriptor but 0, 1 and 2 is closed, so that the first socket is
    descriptor 3 and a lowered RLIMIT_NOFILE does not disturb the channel. SIGPIPE is ignored, so that EPIPE is seen;
    SIGUSR1 interrupts a blocked call (EINTR), SIGUSR2 is handled with SA_RESTART, every other signal has its default
    action.
    """
    status = 1
    try:
        _set_signals()
        channel = _move(channel_fd)
        while (request := _read_message(channel)) is not None:
            try:
                _answer(channel, request)
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:  # noqa: BLE001  # nobody above would see it: the process has no stderr
                _send(channel, Impossible(f"a fault of labctl's, please report it: {type(error).__name__}: {error}"))
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the owner has gone
    finally:
        os._exit(status)


def _set_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number, interrupts in ((signal.SIGUSR1, True), (signal.SIGUSR2, False)):
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, interrupts)


def _move(channel_fd: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_CHANNEL, soft - 1) if soft != resource.RLIM_INFINITY else _CHANNEL
    if channel_fd == wanted:
        channel = channel_fd
    else:
        channel = os.dup2(channel_fd, wanted, inheritable=False)
    os.closerange(3, channel)
    os.closerange(channel + 1, 2**31 - 1)  # close_range(2): one system call, however large the table
    fcntl.fcntl(channel, fcntl.F_SETFL, fcntl.fcntl(channel, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    return channel


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
    rest = memoryview(frame(encode_answer(answer)))
    while rest:
        rest = rest[os.write(channel, rest) :]


def _answer(channel: int, request: bytes) -> None:
    call = decode_call(request)
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
    """Make the call until it gives one of `call.until`, fails otherwise, or there have been too many."""
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
        if size_bytes > MOST_BYTES or count == MOST_CALLS:
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
