"""The errors that labctl raises.

::

    LabctlError                  every error that a user may want to catch
    ├── InputError               a file or the command line is wrong; exit status 2
    │   ├── DocumentError        lists every mistake in the file (documents/diagnostics.py)
    │   └── NotFound             no node or link has that name; a KeyError too
    ├── MachineError             this machine cannot do it: privilege, kernel feature; exit status 3
    │   └── LabImpossible        this machine can have labs, but not what this one asks for
    ├── LabError                 the lab itself failed; exit status 4
    │   ├── KernelError          the kernel refused an operation; carries `errno`
    │   ├── LabGone              the keeper has ended, and every process of the lab with it
    │   └── DeadlineExceeded     the lab did not answer in time
    ├── ProgramFailed            a program did not do what was asked; carries its output; exit status 1
    │   ├── ProgramNotReady      it was not ready in time, or ended before
    │   └── ProgramTimedOut      it did not end in time
    └── ScenarioFailed           a scenario did not pass; carries its `result` (api/lab.py); exit status 1

Misuse by a developer (a closed handle used again, an unknown enum) raises a plain RuntimeError or ValueError outside
this tree: it is a bug, not a condition to handle. One boundary maps a dependency's errors to these, `from exc`.

A message to a person has the form `object: cannot do X: reason. Try Y.`
"""

from __future__ import annotations

import errno as errno_module
import os

TYPE_CHECKING = False  # that of `typing`, whose import takes 6 ms, which every command would pay for
if TYPE_CHECKING:
    from collections.abc import Mapping


def _printable(text: str) -> str:
    from labctl.printable import printable  # here, because most processes raise nothing

    return printable(text)


class LabctlError(Exception):
    """Base of every error that labctl raises on purpose; `exit_status` is the exit status of the command line.

    The message may quote files, command lines and programs; it has no control characters.
    """

    exit_status = 4

    def __str__(self) -> str:
        return _printable(super().__str__())


class InputError(LabctlError):
    """A file or the command line is wrong; nothing was built."""

    exit_status = 2


class NotFound(InputError, KeyError):
    """The lab has no node, link or interface of that name; the message suggests the near miss."""

    def __str__(self) -> str:
        return _printable(str(self.args[0]))  # KeyError's is a repr


class MachineError(LabctlError):
    """This machine cannot do it; the message names the missing privilege or feature and the remedy."""

    exit_status = 3


class LabImpossible(MachineError):
    """This machine can have labs, but lacks something that this lab asks for (netem, `nat`, `limits`, ...)."""


class LabError(LabctlError):
    """The lab itself failed, not a program or an expectation in it."""

    exit_status = 4


class KernelError(LabError):
    """The kernel refused an operation.

    `subject` is the object (``link server:eth1 - gw:eth0``), `attempted` the verb phrase (``add address
    10.0.1.1/24``), `errno` what came back (0 where the kernel gave only `detail`), `hint` what to try.
    """

    def __init__(self, subject: str, attempted: str, errno: int, *, detail: str = "", hint: str = "") -> None:
        self.subject = subject
        self.attempted = attempted
        self.errno = errno
        self.detail = detail
        self.hint = hint
        super().__init__(subject, attempted, errno, detail, hint)

    def __str__(self) -> str:
        came_back = describe_errno(self.errno) if self.errno else self.detail
        if self.errno and self.detail:
            came_back = f"{came_back} ({self.detail})"
        text = f"{self.subject}: cannot {self.attempted}: {came_back}."
        return _printable(f"{text} {self.hint}" if self.hint else text)


class kernel_errors:  # as contextlib makes such a context, whose import takes 2 ms
    """Raise an OSError of the `with` block as KernelError; `hint` may depend on the errno."""

    def __init__(self, subject: str, attempted: str, *, hint: str | Mapping[int, str] = "") -> None:
        self._subject = subject
        self._attempted = attempted
        self._hint = hint

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            number = error.errno or 0
            hint = self._hint if isinstance(self._hint, str) else self._hint.get(number, "")
            raise KernelError(self._subject, self._attempted, number, hint=hint) from error


class LabGone(LabError):
    """The lab has ended, with all its processes and namespaces."""


class DeadlineExceeded(LabError):
    """The lab did not answer within the deadline. For a program that does not end, see ProgramTimedOut."""


class ProgramFailed(LabctlError):
    """A program did not do what was asked. `returncode` is as Popen's; None where it did not end by itself."""

    exit_status = 1

    def __init__(self, message: str, *, returncode: int | None = None, stdout: str = "", stderr: str = "") -> None:
        super().__init__(message)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr


class ProgramNotReady(ProgramFailed):
    """A program did not become ready in time, or ended before; labctl has ended it."""


class ProgramTimedOut(ProgramFailed):
    """A program did not end in time; labctl has ended it. `stdout`, `stderr`: what it had written."""


# Where two names are one number on Linux, errno(3) and the man pages of the socket calls use these.
_ERRNOS_OF_MAN_PAGES = {"ENOTSUP": "EOPNOTSUPP", "EWOULDBLOCK": "EAGAIN", "EDEADLOCK": "EDEADLK"}


def errno_name(number: int) -> str:
    """`ECONNREFUSED` for 111; the number as text where this kernel's errno has no name."""
    name = errno_module.errorcode.get(number, str(number))
    return _ERRNOS_OF_MAN_PAGES.get(name, name)


def describe_errno(number: int | None) -> str:
    """`ECONNREFUSED, Connection refused` for 111. None (an OSError without an errno) counts as 0."""
    number = number or 0
    return f"{errno_name(number)}, {os.strerror(number)}"
