"""What the owner of a lab puts into its requests of its own: environment, directories, users, sockets."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from labctl.errors import InputError
from labctl.lab import registry
from labctl.lab.protocol import Identity, Open, Pairs
from labctl.lab.starting import search_path
from labctl.typed import msgspec

if TYPE_CHECKING:
    from labctl.plan.operations import Plan


def open_request(plan: Plan, visible_paths: Iterable[str | os.PathLike[str]]) -> Open:
    """The request to make the lab of that plan, with this process's environment and directory."""
    from labctl.plan.codec import plan_to_json

    cwd = working_directory()
    visible = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *search_path(), cwd]
    visible += [os.path.abspath(path) for path in visible_paths]
    return Open(
        lab=plan.topology,
        topology=plan.topology,
        uid=os.geteuid(),
        plan=plan_to_json(plan),
        environment=portable_pairs(os.environ.items()),
        cwd=portable(cwd),
        hidden_paths=tuple(map(portable, registry.hidden_directories(visible))),
        visible_paths=tuple(map(portable, dict.fromkeys(visible))),
    )


def portable(text: str) -> str:
    """A text of this process's command line, environment or file system as a process in UTF-8 mode has it.

    The processes of a lab are in that mode, whatever the locale; the bytes are the same.
    """
    try:
        return os.fsencode(text).decode(errors="surrogateescape")
    except UnicodeEncodeError:  # from a file: characters that this locale does not have
        return text


def portable_pairs(pairs: Iterable[tuple[str, str]]) -> Pairs:
    """`portable` for an environment."""
    return tuple((portable(name), portable(value)) for name, value in pairs)


def with_ports(request: Open, plan: Plan, stack: ExitStack) -> tuple[Open, tuple[int, ...]]:
    """The request with what the plan has outside the lab, and the sockets for it, which `stack` closes."""
    if not any(node.nat or node.exposures or node.limits for node in plan.nodes):
        return request, ()
    from labctl.lab.ports import open_ports

    exposed, descriptors = open_ports(plan.nodes, stack)
    return msgspec.structs.replace(request, has_outside=True, exposed=exposed), descriptors


def working_directory() -> str:
    """This process's, `/` where it has been deleted."""
    with contextlib.suppress(FileNotFoundError):  # it has been deleted
        return os.getcwd()
    return "/"


def identity_of(user: str | None) -> tuple[Identity | None, Pairs]:
    """Who a user (a name or number of this machine) is, and the environment that goes with it. InputError.

    None for root, and for whoever this process runs as: that is whom a lab's programs run as anyway.
    """
    if user is None:
        return None, ()
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            uid = int(user)
            return (None if uid in (0, os.geteuid()) else (uid, uid, ())), ()
        raise InputError(f"user {user}: this machine has none of that name (see `getent passwd`).") from None
    if entry.pw_uid in (0, os.geteuid()):
        return None, ()
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    environment = (
        ("HOME", entry.pw_dir),
        ("USER", entry.pw_name),
        ("LOGNAME", entry.pw_name),
        ("SHELL", entry.pw_shell or "/bin/sh"),
    )
    return (entry.pw_uid, entry.pw_gid, groups), environment


def check_arguments(argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | None) -> None:
    """ValueError when execve(2) could not take them as they are."""
    if not argv:
        raise ValueError("argv is empty")
    if any("\0" in text for text in (*argv, *(env or {}), *(env or {}).values(), cwd or "")):
        raise ValueError(f"a null byte in the arguments, environment or directory of {argv[0]!r}")
