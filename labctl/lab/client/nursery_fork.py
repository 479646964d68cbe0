"""The nursery of a command that makes a lab for certain: a fork of the command, when it has imported what both need.

It saves a second start of the interpreter, and half of the nursery's imports. Only a process without threads may fork,
so this is for the first lines of a command, which imports its `nursery` module later, with the first lab.
"""

from __future__ import annotations

import _socket
import atexit
import os
import sys
from contextlib import ExitStack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enums of `signal`

_forked: list[tuple[int, int, int, int]] = []  # what `take` returns: this process forks once


def fork_ahead() -> None:
    """Fork the nursery, unless the system refuses, which the first lab reports. Return in the command only."""
    from labctl import unpatched
    from labctl.lab import protocol
    from labctl.plan import operations

    for module in (unpatched, protocol, operations):
        assert module  # imported once for both
    if None in (sys.stdin, sys.stdout, sys.stderr):
        return  # closed: their numbers would be those of other descriptors
    # A signal to the job reaches both at once; the child must not report it as the command does.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        with ExitStack() as ours, ExitStack() as theirs:  # `theirs` closes what only the nursery needs
            control, their_control = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            ours.callback(control.close)
            theirs.callback(their_control.close)
            errors = os.memfd_create("labctl-errors", os.MFD_CLOEXEC)
            ours.callback(os.close, errors)
            owner = os.pidfd_open(os.getpid())
            theirs.callback(os.close, owner)
            pid = os.fork()
            if not pid:
                _become_nursery(their_control.fileno(), owner, errors)
            pidfd = os.pidfd_open(pid)  # without one the nursery ends, since `ours` hangs up
            ours.pop_all()
        _forked.append((pid, pidfd, control.detach(), errors))
        atexit.register(_end)
        os.register_at_fork(after_in_child=_forked.clear)
    except OSError:
        return  # out of descriptors, perhaps
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take() -> tuple[int, int, int, int] | None:
    """Return the nursery's pid, pidfd, control socket and standard error, once; the caller owns the descriptors."""
    return _forked.pop() if _forked else None


def _end() -> None:
    """End the nursery of a command that has made no lab: its files have errors, for example."""
    if _forked:
        _, pidfd, *_ = _forked.pop()
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        except (ProcessLookupError, ChildProcessError):  # SIGCHLD is ignored
            return


def _become_nursery(control: int, owner: int, errors: int) -> None:
    """Run the nursery in this process, which was forked for it; never return."""
    try:
        os.dup2(errors, 2)  # a traceback is for the first lab's error message
        # Process group, signals and streams are as labctl.lab.client.nursery sets them for a new interpreter.
        os.setpgid(0, 0)
        for handled in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python ignores these two
            if signal.getsignal(handled) not in (signal.SIG_DFL, None):
                signal.signal(handled, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for standard, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            os.dup2(os.open(os.devnull, flags), standard)
        sys.stdin, sys.stdout = None, None
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        from labctl.lab.keeper import nursery

        high = [os.dup(descriptor) for descriptor in (control, owner)]
        while min(high) <= nursery.OWNER:
            high = [os.dup(descriptor) for descriptor in high]
        for descriptor, number in zip(high, (nursery.CONTROL, nursery.OWNER), strict=True):
            os.dup2(descriptor, number)
        nursery.run(dies_with_owner=True)
    except BaseException:  # noqa: BLE001 - the last frame of this process: it must not return to the command's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)
