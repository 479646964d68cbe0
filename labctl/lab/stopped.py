"""Whether the keeper of a lab is stopped, as /proc of the machine tells it (proc_pid_stat(5))."""

from __future__ import annotations

KEEPER = "labctl-keeper"
_STOPPED = "Tt"  # by a signal, by a tracer


def is_stopped(pid: int) -> bool:
    """Whether that process is stopped; False when it has ended."""
    return _stat(pid)[1] in _STOPPED


def stopped_below(boot: int) -> int:
    """The pid of the keeper that this boot has forked, or of boot while there is none, when it is stopped; else 0."""
    try:
        with open(f"/proc/{boot}/task/{boot}/children", encoding="ascii") as file:
            children = [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):  # ended; or a kernel without CONFIG_PROC_CHILDREN
        return 0
    keeper = next((child for child in children if _stat(child)[0] == KEEPER), boot)
    return keeper if is_stopped(keeper) else 0


def _stat(pid: int) -> tuple[str, str]:
    """A process's name and state; "" and "X" when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return "", "X"
    return head.partition("(")[2], rest.split()[0]
