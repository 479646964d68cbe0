"""The client of an agent: begin a call on a host, wait for its result."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable
from typing import Protocol

from labctl.clock import monotonic
from labctl.errors import LabctlError, LabError
from labctl.lab.agent.messages import (
    LENGTH_BYTES,
    Answer,
    Begun,
    CallResult,
    Impossible,
    SystemCall,
    decode_answer,
    encode,
)

_RECEIVED_BYTES = 1 << 16  # the memory of a larger buffer would be mapped and unmapped for each answer
_END_TIMEOUT_S = 5.0  # between the end of its channel, or SIGKILL, and its exit status
_SEND_TIMEOUT_S = 10.0  # a stopped agent (SIGSTOP) does not read a long request


class AgentEnded(LabError):
    """The agent has ended, so that it makes no more calls; the message shows how it ended."""


class CallImpossible(LabctlError):
    """The agent cannot form the call: a name that its /etc/hosts lacks, an argument of the wrong kind."""


class ProcessHandle(Protocol):
    """What an agent's client needs of `Process`."""

    @property
    def node(self) -> str:
        """The host's name."""

    @property
    def pid(self) -> int:
        """Process ID on its host."""

    def wait(self, timeout_s: float | None) -> int | None:
        """As Popen.returncode; None if it has not ended within `timeout_s`."""

    def signal(self, number: int) -> None:
        """Send a signal."""

    def close(self) -> None:
        """Close the descriptors."""


class AgentClient:
    """The client of an agent, which makes one call at a time. Owns `process` and `channel`.

    For one thread at a time. `name` is the agent's name on its host, "" for the default agent.
    """

    def __init__(self, process: ProcessHandle, channel: socket.socket, name: str = "") -> None:
        self.process = process
        self.name = name
        self._channel: socket.socket | None = channel
        self._received = bytearray()
        self._pending: PendingCall | None = None
        self._is_closed = False
        channel.settimeout(_SEND_TIMEOUT_S)

    def __repr__(self) -> str:
        state = "closed" if self._channel is None else f"in {self._pending.text}" if self._pending else "idle"
        return f"<AgentClient {self.title}, pid {self.process.pid}, {state}>"

    @property
    def title(self) -> str:
        """`server` or `server/worker`."""
        return f"{self.process.node}/{self.name}" if self.name else self.process.node

    @property
    def pending(self) -> PendingCall | None:
        """The call that has not returned yet, if any."""
        return self._pending

    def fileno(self) -> int:
        """Return a descriptor that is readable when the agent has answered or ended. RuntimeError if it is closed."""
        return self._open_channel().fileno()

    def begin(self, call: SystemCall) -> PendingCall:
        """Request a call. AgentEnded; RuntimeError while a call is pending."""
        if self._pending is not None:
            raise RuntimeError(f"{self!r} cannot begin {call.name}: one call at a time")
        channel = self._open_channel()
        self._pending = PendingCall(self, call)
        try:
            channel.sendall(encode(call))
        except (BrokenPipeError, ConnectionResetError) as error:
            self._pending = None
            raise self._ended(call.name) from error
        except TimeoutError as error:
            self._pending = None
            raise AgentEnded(f"{self.title}: its calling process takes no request; is it paused?") from error
        return self._pending

    def call(self, call: SystemCall, timeout_s: float | None) -> CallResult | None:
        """`begin` and `wait` in one."""
        return self.begin(call).wait(timeout_s)

    def disconnect(self) -> None:
        """Let the agent end by itself, unless it is blocked in a call; `close` waits for that. Idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """End the agent, at once if it is blocked in a call. Idempotent."""
        self.disconnect()
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._pending is not None or self.process.wait(1.0) is None:
                self.process.signal(signal.SIGKILL)
                self.process.wait(_END_TIMEOUT_S)
        finally:
            self.process.close()

    def _open_channel(self) -> socket.socket:
        if self._channel is None:
            raise RuntimeError(f"{self!r} is closed")
        return self._channel

    def _next_answer(self, until: float | None, during: Callable[[], str]) -> Answer | None:
        """The next message; None if it has not come by `until` (seconds, CLOCK_MONOTONIC)."""
        channel = self._open_channel()
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        while (payload := self._take_message()) is None:
            left_ms = None if until is None else max(until - monotonic(), 0) * 1000
            if not poller.poll(left_ms):
                return None
            try:
                data = channel.recv(_RECEIVED_BYTES)
            except ConnectionResetError as error:
                raise self._ended(during()) from error
            if not data:
                raise self._ended(during())
            self._received += data
        return decode_answer(payload)

    def _take_message(self) -> bytes | None:
        if len(self._received) < LENGTH_BYTES:
            return None
        end = LENGTH_BYTES + int.from_bytes(self._received[:LENGTH_BYTES], "big")
        if len(self._received) < end:
            return None
        payload = bytes(self._received[LENGTH_BYTES:end])
        del self._received[:end]
        return payload

    def _forget(self) -> None:
        self._pending = None

    def _ended(self, during: str) -> AgentEnded:
        self._pending = None
        status = self.process.wait(_END_TIMEOUT_S)
        who = f"{self.title}: its calling process (pid {self.process.pid})"
        if status is None:
            return AgentEnded(f"{who} stopped answering during {during}")
        if status < 0:
            return AgentEnded(f"{who} was killed by {_signal_name(-status)} during {during}")
        return AgentEnded(f"{who} exited with status {status} during {during}")


class PendingCall:
    """A call that the agent was asked to make. `text` shows it as C code, as far as it is known."""

    def __init__(self, agent: AgentClient, call: SystemCall) -> None:
        self.call = call
        self.text = f"{call.name}(...)"
        self.started_ns: int | None = None
        self._agent = agent
        self._result: CallResult | None = None

    def wait_begun(self, timeout_s: float | None) -> bool:
        """Wait until the agent is about to enter the kernel; False after `timeout_s`. CallImpossible, AgentEnded."""
        until = None if timeout_s is None else monotonic() + timeout_s
        while self.started_ns is None:
            answer = self._agent._next_answer(until, lambda: self.text)
            if answer is None:
                return False
            self._take(answer)
        return True

    def wait(self, timeout_s: float | None) -> CallResult | None:
        """The result; None if the call has not returned within `timeout_s` and is still pending.

        Raises: CallImpossible, AgentEnded.
        """
        until = None if timeout_s is None else monotonic() + timeout_s
        while self._result is None:
            answer = self._agent._next_answer(until, lambda: self.text)
            if answer is None:
                return None
            self._take(answer)
        return self._result

    def _take(self, answer: Answer) -> None:
        match answer:
            case Begun(started_ns, text):
                self.started_ns, self.text = started_ns, text
            case Impossible(reason):
                self._agent._forget()
                raise CallImpossible(reason)
            case CallResult():
                self._result = answer
                self._agent._forget()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
