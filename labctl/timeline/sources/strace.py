"""System calls of programs from strace(1), which needs no privilege.

`command_line` makes the command that runs a program under strace; `StraceParser` turns what strace writes into calls.
strace is a daemon beside the program (`-DDD`), so that the program keeps its process ID, parent, exit status, signals
and descriptors. With `--seccomp-bpf`, only traced calls stop the program.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from labctl.lab.frames import TRACE_DESCRIPTOR
from labctl.structs import Struct
from labctl.timeline.call_table import (
    FILE_CALLS,
    KEPT_BYTES,
    MAY_BLOCK,
    RECEIVES,
    SENDS,
    SHOWN_BYTES,
    SHOWN_CHARACTERS,
    TRACED,
    WAIT_CALLS,
    WITHOUT_DESCRIPTOR,
    option_text,
)
from labctl.timeline.events import Call, Clock, Flow, Mark, SocketKey, Source
from labctl.timeline.recorder import clock_reading

if TYPE_CHECKING:
    from labctl.timeline.recording import Recording

_FORKS = frozenset({"clone", "clone3", "fork", "vfork"})
_EXECS = frozenset({"execve", "execveat"})
_WITHOUT_OUTPUT = f'exec "$@" {TRACE_DESCRIPTOR}>&-'  # a command of sh(1)
# strace prints when a call begins, decodes the arguments, and then begins to measure its duration.
DECODING_NS = 20_000
PROGRAM_NAME_BYTES = 15  # of a name in /proc/PID/comm (proc(5))


def command_line(*, seccomp: bool = True) -> list[str]:
    """Return the command that runs the program that follows it under strace, which writes to TRACE_DESCRIPTOR.

    `seccomp` makes calls that are not traced as fast as without strace, but if strace is killed, traced calls fail with
    ENOSYS from then on.
    """
    return [
        "strace",
        "-DDD",
        "-f",
        *(["--seccomp-bpf"] if seccomp else []),
        "--quiet=attach,personality",
        "--timestamps=unix,ns",
        "--syscall-times=ns",
        "-y",  # not -yy: it asks sock_diag(7) at each call, and the time of that is missing in those of the calls
        f"--string-limit={KEPT_BYTES}",
        # `?`: no error on a machine that lacks the call, as arm64 lacks poll and fork
        "--trace=" + ",".join(f"?{name}" for name in sorted(TRACED | _FORKS | _EXECS)),
        f"--output=/proc/self/fd/{TRACE_DESCRIPTOR}",
        "--",
        # strace opens the pipe by its path, and would leave the descriptor itself to the program.
        *("sh", "-c", _WITHOUT_OUTPUT, "sh"),
    ]


class _Process(Struct):
    """A process of the traced program; its threads share it."""

    pid: int
    name: str


class _Entry(Struct, frozen=True):
    """A call that has not returned."""

    at_ns: int
    name: str
    text: str  # its arguments so far


class _Arguments(Struct):
    """Arguments of a call, read from strace's text."""

    words: list[str]  # one for each argument, shortened, without what descriptors are
    files: list[tuple[int, str]]  # descriptors, each with what it is: a path, `socket:[32108534]`
    strings: list[tuple[int, str, str]]  # index of the argument, the text before the string, and the string as written
    length: int  # of the text, with the final parenthesis; 0: the text has no end


_LINE = re.compile(r"(\d+) +(\d+)\.(\d{9}) (.*)", re.DOTALL)
_CALL = re.compile(r"([a-z]\w*)\(")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>")
_UNFINISHED = " <unfinished ...>"
_TOKEN = re.compile(r'@?"(?:[^"\\]|\\.)*"(?:\.\.\.)?|<(?:->|[^<>])*>|[^"<()\[\]{},@]+|.', re.DOTALL)
_RETURN = re.compile(
    r"\s*= (?P<result>-?\d+|0x[0-9a-f]+|\?)(?P<file><(?:->|[^<>])*>)?(?: (?P<errno>E[A-Z0-9]+) \([^)]*\))?"
    r"(?: \((?P<value>.*)\))?(?: <(?P<seconds>\d+)\.(?P<fraction>\d{9})>)?\s*$",
    re.DOTALL,
)
_INET = re.compile(r'\{sa_family=AF_INET, sin_port=htons\((\d+)\), sin_addr=inet_addr\("([\d.]+)"\)\}')
_INET6 = re.compile(
    r"\{sa_family=AF_INET6, sin6_port=htons\((\d+)\), sin6_flowinfo=htonl\(\d+\), "
    r'inet_pton\(AF_INET6, "([^"]+)", &sin6_addr\), sin6_scope_id=(?:if_nametoindex\("([^"]*)"\)|(\d+))\}'
)
_UNIX = re.compile(r"\{sa_family=AF_UNIX, sun_path=(@?\"(?:[^\"\\]|\\.)*\")\}")
_SHORT_ADDRESS = re.compile(r"\{AF_INET6?, ([\d.]+|\[[^\]]*\]):(\d+)\}")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_PROTOCOLS = (("SOCK_STREAM", "tcp"), ("SOCK_DGRAM", "udp"))
_FILE_BEFORE = re.compile(r"(?:^|[^\w])(\d+)$")  # a descriptor, and only that
_UNIT = re.compile(r"\\(?:[0-7]{1,3}|x[0-9a-f]{2}|.)|.", re.DOTALL)  # of a string: what stands for one byte
_MESSAGE_BYTES = re.compile(r"msg_len=(\d+)")
_OPEN, _CLOSE = "([{", ")]}"
_ESCAPES = {"n": 10, "t": 9, "r": 13, "v": 11, "f": 12, "a": 7, "b": 8, "e": 27}


class StraceParser:
    """Makes events of what one strace writes, which arrives in pieces.

    Of each call there is an event when it has returned. A call that is in progress when the output so far ends has an
    event with `until_ns` None as well, of the same `key`.
    """

    def __init__(self, host: str, program: str, clock: Clock) -> None:
        """For a program that runs on `host`; `clock` converts strace's CLOCK_REALTIME."""
        self._host = host
        self._program = program
        self._clock = clock
        self._rest = ""  # a line without its end
        self._announced: dict[int, int] = {}  # by thread: when the call began of which there is an event already
        self._processes: dict[int, _Process] = {}  # by thread
        self._unfinished: dict[int, _Entry] = {}  # by thread
        self._held: dict[int, deque[tuple[int, str]]] = {}  # by thread: lines before that of the fork that made it
        self._returned_ns: dict[int, int] = {}  # by thread: when its last call returned
        self._ended: set[int] = set()
        self._flows: dict[int, Flow] = {}  # by inode: what calls have shown of the ends of Internet sockets

    def feed(self, data: bytes) -> list[Call | Mark]:
        """Return the events that `data`, the next part of the output, completes."""
        *lines, self._rest = (self._rest + data.decode("latin-1")).split("\n")
        events = [event for line in lines for event in self._line(line)]
        found = _LINE.match(self._rest)  # strace writes the arguments when the call begins
        begun = found and _CALL.match(found[4])
        if found is not None and begun and int(found[1]) in self._processes:
            at_ns = self._begins_ns(int(found[1]), self._at_ns(found))
            events += self._begun(int(found[1]), _Entry(at_ns, begun[1], found[4][begun.end() :]))
        return events

    def finish(self) -> list[Call | Mark]:
        """Return the last events: strace has closed its output. If processes go on, it was killed."""
        events: list[Call | Mark] = []
        while self._held:  # threads of which strace reported no beginning
            tid, lines = self._held.popitem()
            self._processes[tid] = _Process(tid, self._program)
            for at_ns, text in lines:
                events += self._event(tid, at_ns, text)
        running = self._processes.keys() - self._ended
        if running:
            text = (
                f"strace of {self._program} was ended: its traced system calls fail with ENOSYS (seccomp(2)) from here "
                "on, and this run cannot be trusted"
            )
            at_ns = _monotonic_ns()
            events.append(Mark(at_ns=at_ns, host=self._host, source=Source.MARKS, seq=0, text=text))
        return events

    def _line(self, line: str) -> Iterator[Call | Mark]:
        found = _LINE.match(line)
        if found is None:
            return
        tid, at_ns = int(found[1]), self._at_ns(found)
        if not self._processes.keys() - self._ended:  # the first process, or that of a service's next run
            self._processes[tid] = _Process(tid, self._program)
        if tid not in self._processes:
            self._held.setdefault(tid, deque()).append((at_ns, found[4]))
            return
        yield from self._event(tid, at_ns, found[4])

    def _event(self, tid: int, at_ns: int, text: str) -> Iterator[Call | Mark]:
        if text.startswith("+++"):
            if "superseded" not in text:
                self._ended.add(tid)
            return
        if text.startswith("---"):
            return
        resumed = _RESUMED.match(text)
        if resumed is not None:
            entry = self._unfinished.pop(tid, None)
            if entry is None or entry.name != resumed[1]:
                return
            entry = _Entry(entry.at_ns, entry.name, entry.text + text[resumed.end() :])
        else:
            begun = _CALL.match(text)
            if begun is None:
                return
            entry = _Entry(self._begins_ns(tid, at_ns), begun[1], text[begun.end() :])
        if entry.text.endswith(_UNFINISHED):
            entry = _Entry(entry.at_ns, entry.name, entry.text.removesuffix(_UNFINISHED))
            self._unfinished[tid] = entry
            yield from self._begun(tid, entry)
            return
        yield from self._returned(tid, entry)

    def _returned(self, tid: int, entry: _Entry) -> Iterator[Call | Mark]:
        arguments = _read(entry.text.replace(_UNFINISHED, ""))
        returned = _RETURN.match(entry.text.replace(_UNFINISHED, ""), arguments.length) if arguments.length else None
        if returned is None:
            return
        result = None if returned["result"] == "?" else int(returned["result"], 0)
        if entry.name in _FORKS:
            if result is not None and result > 0:
                yield from self._forked(tid, result, is_thread="CLONE_THREAD" in entry.text)
            return
        if entry.name in _EXECS:
            if result == 0:
                self._executed(tid, arguments)
            return
        call = self._call(tid, entry, returned, arguments)
        if call is not None:
            yield call

    def _begun(self, tid: int, entry: _Entry) -> Iterator[Call]:
        """The event of a call that may be in progress for long."""
        if entry.name not in MAY_BLOCK or self._announced.get(tid) == entry.at_ns:
            return
        call = self._call(tid, entry, None)
        if call is not None:
            self._announced[tid] = entry.at_ns
            yield call

    def _at_ns(self, line: re.Match[str]) -> int:
        return int(line[2]) * 10**9 + int(line[3]) - self._clock.offset_ns

    def _begins_ns(self, tid: int, at_ns: int) -> int:
        """When a call begins: not before the return of the thread's last one, which is known to DECODING_NS."""
        returned_ns = self._returned_ns.get(tid, 0)
        return returned_ns if 0 < returned_ns - at_ns <= DECODING_NS else at_ns

    def _forked(self, tid: int, child: int, *, is_thread: bool) -> Iterator[Call | Mark]:
        parent = self._processes[tid]
        self._ended.discard(child)
        if is_thread:
            self._processes[child] = parent
        else:
            # Until it executes a program, a child differs from its parent by its pid only.
            self._processes[child] = _Process(child, f"{parent.name.partition('[')[0]}[{child}]")
        for at_ns, text in self._held.pop(child, ()):
            yield from self._event(child, at_ns, text)

    def _executed(self, tid: int, arguments: _Arguments) -> None:
        if arguments.strings:
            path = os.fsdecode(_bytes(arguments.strings[0][2]))
            self._processes[tid].name = os.path.basename(path)[:PROGRAM_NAME_BYTES]

    def _call(
        self, tid: int, entry: _Entry, returned: re.Match[str] | None, arguments: _Arguments | None = None
    ) -> Call | None:
        """The event of a call that has returned, or (`returned` None) has not; None if it is on no socket."""
        if entry.name not in TRACED:
            return None
        arguments = arguments or _read(entry.text)
        process = self._processes[tid]
        files = dict(arguments.files)
        result = None if returned is None or returned["result"] == "?" else int(returned["result"], 0)
        made = returned["file"] if returned is not None else None
        if entry.name in FILE_CALLS | WAIT_CALLS and not _is_on_socket(entry.name, files):
            return None
        first = arguments.words[0] if arguments.words else ""
        fd = int(first) if first.isdecimal() and entry.name not in WITHOUT_DESCRIPTOR else None
        words = arguments.words
        if entry.name in ("setsockopt", "getsockopt") and len(words) > 3:
            value = next((_bytes(string) for index, _, string in arguments.strings if index == 3), b"")
            words = [*words[:3], option_text(words[2], value) or words[3], *words[4:]]
        shown = ", ".join(words)
        until_ns = None
        if returned is not None and (result is not None or returned["errno"]):
            took_ns = int(returned["seconds"] or 0) * 10**9 + int(returned["fraction"] or 0)
            until_ns = self._returned_ns[tid] = entry.at_ns + DECODING_NS + took_ns
        has_data = result is not None and result >= 0 and entry.name in SENDS | RECEIVES
        data = _data(arguments, entry.name) if has_data else b""
        moved = sum(map(int, _MESSAGE_BYTES.findall(entry.text))) if entry.name.endswith("mmsg") else result or 0
        return Call(
            at_ns=entry.at_ns,
            host=self._host,
            source=Source.SYSCALLS,
            seq=0,
            until_ns=until_ns,
            pid=process.pid,
            tid=tid,
            program=process.name,
            name=entry.name,
            arguments=shown,
            result=result,
            errno=(returned["errno"] or "") if returned is not None else "",
            value=(returned["value"] or "") if returned is not None else "",
            data=data[: max(moved, 0)],
            data_bytes=moved if has_data else 0,
            fd=fd,
            socket=self._socket(entry.name, result, _inode(files.get(fd or 0)), _inode(made and made[1:-1]), shown),
        )

    def _socket(self, name: str, result: int | None, inode: int, made: int, shown: str) -> SocketKey | None:
        """What is known of the socket `inode` that the call acts on, or makes; record what the call adds to that.

        `made` is the inode of a new socket; both are 0 for none.
        """
        has_failed = result in (None, -1)
        if name == "socket" and made and shown.startswith("AF_INET"):
            inode = made
            for kind, protocol in _PROTOCOLS:
                if kind in shown:
                    self._flows[made] = Flow(protocol, "", 0, "", 0)
        inode = inode or made
        if not inode:
            return None
        flow = self._flows.get(inode)
        found = _SHORT_ADDRESS.findall(shown)
        address = (found[-1][0].strip("[]").partition("%")[0], int(found[-1][1])) if found else None
        if flow is not None and name in ("accept", "accept4") and made:
            self._flows[made] = Flow(flow.protocol, flow.source, flow.source_port, *(address or ("", 0)))
        elif flow is not None and address is not None:
            if name in ("bind", "getsockname"):
                flow = Flow(flow.protocol, *address, flow.target, flow.target_port)
            else:  # connect and getpeername; sendto and the like, of one datagram
                flow = Flow(flow.protocol, flow.source, flow.source_port, *address)
            if name in ("connect", "getpeername") or (name in ("bind", "getsockname") and not has_failed):
                self._flows[inode] = flow
        return SocketKey(self._host, inode, 0, flow)


def _read(text: str) -> _Arguments:
    """Read arguments up to the parenthesis that closes them, or to the end of the text."""
    words: list[str] = []
    files: list[tuple[int, str]] = []
    strings: list[tuple[int, str, str]] = []
    word: list[str] = []
    depth = 0
    length = 0
    for token in _TOKEN.finditer(text):
        part = token[0]
        if part[0] == '"' or part[:2] == '@"':
            strings.append((len(words), word[-1] if word else "", part))
            part = _shortened(part)
        elif part[0] == "<" and len(part) > 1 and word and (descriptor := _FILE_BEFORE.search(word[-1])):
            files.append((int(descriptor[1]), part[1:-1]))
            continue
        elif part in _OPEN:
            depth += 1
        elif part in _CLOSE:
            if depth == 0:
                length = token.end()
                break
            depth -= 1
        elif part == "," and depth == 0:
            words.append(_compact("".join(word)))
            word = []
            continue
        word.append(part)
    last = "".join(word)
    if last.strip():
        words.append(_compact(last))
    return _Arguments(words, files, strings, length)


def _compact(word: str) -> str:
    """Write socket addresses short: `{AF_INET, 10.0.0.2:5000}`. Cut off what is very long."""
    word = word.strip()
    if "sa_family" in word:
        word = _INET.sub(r"{AF_INET, \2:\1}", word)
        word = _UNIX.sub(r"{AF_UNIX, \1}", word)
        word = _INET6.sub(_compact_inet6, word)
    return word if len(word) <= SHOWN_CHARACTERS else f"{word[:SHOWN_CHARACTERS]}..."


def _compact_inet6(found: re.Match[str]) -> str:
    port, address, interface, index = found.groups()
    scope = interface or (index if index != "0" else "")
    return f"{{AF_INET6, [{address}{'%' if scope else ''}{scope}]:{port}}}"


def _shortened(string: str) -> str:
    """Shorten a string of C to SHOWN_BYTES; dots follow if it was longer."""
    if len(string) <= SHOWN_BYTES:
        return string
    start, _, body = string.rpartition('"')[0].partition('"')
    units = _UNIT.findall(body)
    if len(units) <= SHOWN_BYTES:
        return string
    return f'{start}"{"".join(units[:SHOWN_BYTES])}"...'


def _bytes(string: str) -> bytes:
    """Return the bytes of a string of C, as strace writes them."""
    body = string.rpartition('"')[0].partition('"')[2]
    return bytes(_byte(unit) for unit in _UNIT.findall(body))


def _byte(unit: str) -> int:
    if unit[0] != "\\" or len(unit) == 1:
        return ord(unit) & 0xFF
    code = unit[1:]
    if code[0] in "01234567":
        return int(code, 8) & 0xFF
    if code[0] == "x" and len(code) == 3:
        return int(code[1:], 16)
    return _ESCAPES.get(code, ord(code) & 0xFF)


def _data(arguments: _Arguments, name: str) -> bytes:
    if name.endswith(("msg", "v")):
        return b"".join(_bytes(string) for _, before, string in arguments.strings if before.endswith("iov_base="))
    return b"".join(_bytes(string) for index, before, string in arguments.strings if index == 1 and not before.strip())


def _is_on_socket(name: str, files: dict[int, str]) -> bool:
    if name.startswith(("epoll_wait", "epoll_pwait")):
        return True
    return any(map(_inode, files.values()))


def _inode(file: str | None) -> int:
    """The inode of a socket, by what strace shows of a descriptor; 0 for other files."""
    found = _SOCKET.fullmatch(file) if file else None
    return int(found[1]) if found else 0


def _monotonic_ns() -> int:
    from time import monotonic_ns

    return monotonic_ns()


def tracer_of(recording: Recording, *, seccomp: bool = True) -> StraceTracer | None:
    """Return what traces programs for the recording; None if the kernel does (BPF), and without strace.

    The timeline then names what is missing.
    """
    if recording.traces_all_calls:
        return None
    if shutil.which("strace") is None:
        recording.note_missing("calls of programs: strace is not installed. Try the package `strace`.")
        return None
    offset_ns, bracket_ns = clock_reading()
    return StraceTracer(recording.add, Clock(offset_ns, bracket_ns), seccomp=seccomp)


class StraceTracer:
    """Traces the programs that are started with it (labctl.programs.program.Tracer) and adds their calls."""

    def __init__(self, add: Callable[[Call | Mark], None], clock: Clock, *, seccomp: bool = True) -> None:
        self._add = add
        self._clock = clock
        self._seccomp = seccomp

    @property
    def command(self) -> list[str]:
        """The command that runs the program that follows it."""
        return command_line(seccomp=self._seccomp)

    def consumer(self, host: str, program: str) -> Callable[[bytes], None]:
        """Return a function that takes the output of the command in pieces; b"" if it ended before the program."""
        parser = StraceParser(host, program, self._clock)

        def take(data: bytes) -> None:
            for event in parser.feed(data) if data else parser.finish():
                self._add(event)

        return take
