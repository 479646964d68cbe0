"""`labctl doctor`: check whether this machine can run labs; `--fix` changes the settings that prevent them, by sudo."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from labctl.cli import files
from labctl.errors import LabctlError, MachineError, describe_errno
from labctl.observe import machine
from labctl.observe.machine import Finding
from labctl.report.terminal import Ink, Look, Screen, cells, is_terminal, pad, standard_error, standard_output, wrap
from labctl.structs import Struct, replace, to_builtins

if TYPE_CHECKING:
    from labctl.observe.machine import Readings


# The checks that the summary always shows.
_SUMMARY = ("kernel", "python", "privilege", "a lab", "running", "descriptors")
_NAME_WIDTH = len("connection tracking")
NAMESPACES = 10_000  # for each limit that is 0: labs of 1,000 hosts, several at a time


class Fix(Struct, frozen=True):
    """A command for root, and what it changes."""

    change: str
    command: tuple[str, ...]


def fixes(readings: Readings, python: str, script: Path | None) -> tuple[Fix, ...]:
    """Return the changes that a machine with these readings needs; `script` is the shipped `allow-user-namespaces`.

    Nothing if labs can be created already. Settings hold until the machine reboots; the AppArmor profile stays.
    """
    found = []
    for kind in ("user", "net", "pid", "mnt", "uts", "ipc"):
        setting = f"user.max_{kind}_namespaces"
        if getattr(readings, f"max_{kind}_namespaces", None) == 0:
            found.append(
                Fix(f"allow {NAMESPACES:,} {kind} namespaces a user", ("sysctl", "-w", f"{setting}={NAMESPACES}"))
            )
    if readings.euid != 0 and readings.unprivileged_userns_clone == 0:
        command = ("sysctl", "-w", "kernel.unprivileged_userns_clone=1")
        found.append(Fix("allow user namespaces to ordinary users", command))
    if readings.euid != 0 and readings.apparmor_restrict_userns:
        if script is None:
            command = ("sysctl", "-w", "kernel.apparmor_restrict_unprivileged_userns=0")
            found.append(Fix("allow user namespaces to every program, AppArmor or not", command))
        else:
            change = f"add an AppArmor profile that allows user namespaces to {os.path.realpath(python)}"
            found.append(Fix(change, ("sh", str(script), "profile", python)))
    return tuple(found)


def apply_fixes() -> int:
    """Print and run the fixes, by sudo if labctl is not root. Return 0 if labs can run afterwards, else 3."""
    readings, _ = machine.privilege()
    screen = standard_output()
    found = fixes(readings, sys.executable, files.tool("allow-user-namespaces"))
    if not found:
        tried = machine.try_a_lab()
        if not tried.works:
            raise MachineError(
                f"labctl doctor: found no setting to fix, but labs cannot run: {tried.problem} {tried.remedy}"
            )
        screen.line("Nothing to fix: labs can run here.")
        return 0
    for fix in found:
        # The script calls sudo by itself, for what needs it.
        as_root = () if readings.euid == 0 or fix.command[0] == "sh" else ("sudo",)
        command = (*as_root, *fix.command)
        screen.line(f"To {fix.change}:")
        screen.line(f"  {shlex.join(command)}", Ink.STRONG)
        try:
            status = subprocess.run(command, check=False).returncode
        except OSError as error:
            raise MachineError(f"{command[0]}: cannot run it: {describe_errno(error.errno or 0)}.") from error
        if status:
            raise MachineError(
                f"{command[0]}: cannot {fix.change}: it exited with {status}. Ask an administrator to run: "
                f"{shlex.join(fix.command)}"
            )
    tried = machine.try_a_lab()
    screen.line(
        "Labs can run here now." if tried.works else f"Labs still cannot run here: {tried.problem} {tried.remedy}"
    )
    return 0 if tried.works else MachineError.exit_status


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    MISSING = "missing"  # something optional is missing
    FAILED = "failed"  # labs cannot run
    KNOWN = "known"  # a fact


class Check(Struct, frozen=True):
    """A check and its result."""

    group: str
    name: str
    state: State
    detail: str = ""
    problem: str = ""
    remedy: str = ""


PROGRAMS = {
    "ip": ("iproute2", "ip netns exec, ip -n on running labs"),
    "ss": ("iproute2", "shows the sockets of a node"),
    "tc": ("iproute2", "shows the queueing disciplines of a link"),
    "nsenter": ("util-linux", "the commands of labctl env"),
    "bash": ("bash", "labctl shell (otherwise sh)"),
    "ping": ("iputils-ping", "reachability (labctl ping does not need it)"),
    "curl": ("curl", "HTTP requests"),
    "tcpdump": ("tcpdump", "live view of packets"),
    "nft": ("nftables", "shows packet filters"),
    "iperf3": ("iperf3", "throughput"),
    "nc": ("netcat-openbsd", "TCP and UDP connections"),
}
STRACE = ("strace", "system calls: trace: true, and labctl trace without BPF")
_CHANGES_USER = ("tcpdump",)  # programs that call setgroups(2); tcpdump does it even with -Z root
_INSTALLERS = {"apt-get": "apt-get install", "dnf": "dnf install", "zypper": "zypper install", "apk": "apk add"}
_LIBPCAP = {"apt-get": "libpcap0.8", "zypper": "libpcap1"}  # the package; otherwise libpcap


def doctor(every: bool, fix: bool, format: str) -> int:
    """Run `labctl doctor`. Return 0 if labs can run, else 3."""
    if fix:
        return apply_fixes()
    screen = standard_output()
    progress = standard_error() if is_terminal(sys.stderr) else None
    checks = list(_checks(progress))
    if format == "json":
        screen.write_bytes(_json(checks))
    else:
        screen.write(all_checks(checks, screen.look) if every else summary(checks, screen.look))
    return MachineError.exit_status if any(check.state is State.FAILED for check in checks) else 0


def _checks(progress: Screen | None) -> Iterator[Check]:
    for group in (_machine, _labs, _kernel, _limits, _recordings, _programs):
        if progress is not None:
            progress.show_status([f"checking: {group.__name__.lstrip('_')}"])
        try:
            yield from group()
        finally:
            if progress is not None:
                progress.show_status([])


def _machine() -> Iterator[Check]:
    readings, in_user_namespace = machine.privilege()
    release = f"Linux {platform.release()} on {platform.machine()}"
    yield Check("machine", "kernel", State.KNOWN, release)
    yield Check("machine", "python", State.KNOWN, f"{platform.python_version()}, {sys.executable}")
    who = "root" if readings.euid == 0 else f"an ordinary user (uid {readings.euid})"
    how = "labs run in a user namespace" if in_user_namespace else "labs run with root's privilege"
    yield Check("machine", "privilege", State.KNOWN, f"{who}; {how}")
    yield _user_namespaces(readings)
    yield _users(readings.euid, in_user_namespace)
    if readings.apparmor_restrict_userns:
        remedy = "Try: labctl doctor --fix, or run as root."
        problem = "does not let ordinary users use user namespaces"
        yield Check("machine", "AppArmor", State.MISSING, "labs of ordinary users", problem, remedy)
    elif readings.apparmor_restrict_userns is not None:
        yield Check("machine", "AppArmor", State.OK, "does not restrict user namespaces")
    if readings.container or readings.seccomp:
        yield Check("machine", "confinement", State.KNOWN, "labctl runs in a container or under a system call filter")


def _user_namespaces(readings: machine.Readings) -> Check:
    use = "labs of ordinary users"
    if readings.max_user_namespaces is None:
        problem = "this kernel was built without CONFIG_USER_NS"
        return Check("machine", "user namespaces", State.MISSING, use, problem, "Run as root.")
    if readings.max_user_namespaces == 0:
        remedy = "Try: labctl doctor --fix (sudo sysctl user.max_user_namespaces=10000)"
        return Check("machine", "user namespaces", State.MISSING, use, "user.max_user_namespaces is 0", remedy)
    if readings.unprivileged_userns_clone == 0:
        remedy = "Try: labctl doctor --fix (sudo sysctl kernel.unprivileged_userns_clone=1)"
        return Check("machine", "user namespaces", State.MISSING, use, "ordinary users may not create any", remedy)
    return Check("machine", "user namespaces", State.OK, f"at most {readings.max_user_namespaces}")


def _users(euid: int, in_user_namespace: bool) -> Check:
    use = "programs that change their user (tcpdump, sshd, dnsmasq, PostgreSQL), `user:`"
    if not in_user_namespace:
        return Check("machine", "users in labs", State.OK, use)
    found = machine.users_in_labs(euid)
    return _of("machine", Finding("users in labs", found.works, use, found.problem, found.remedy), _optional(found))


def _optional(found: Finding) -> State:
    return State.OK if found.works else State.MISSING


def _labs() -> Iterator[Check]:
    found = machine.try_a_lab()
    state = State.OK if found.works else State.FAILED
    yield Check("labs", "a lab", state, found.detail, found.problem, found.remedy)
    from labctl.lab.client import registry, state_dir

    try:
        directory = state_dir.state_directory()
        yield Check("labs", "state directory", State.OK, str(directory))
        running = state_dir.labs()
        yield Check("labs", "running", State.KNOWN, ", ".join(running) or "none")
        for orphan in registry.orphans():
            yield Check("labs", f"lab {orphan.name}", State.MISSING, "", str(orphan), "Try: labctl gc")
    except LabctlError as error:
        remedy = "labctl run works without one; labctl up does not."
        yield Check("labs", "state directory", State.MISSING, "labs that stay", str(error), remedy)


def _kernel() -> Iterator[Check]:
    try:
        found = machine.probe_kernel()
    except MachineError as error:
        yield Check("kernel", "features", State.FAILED, "", str(error))
        return
    order = list(machine.FEATURES)
    for each in sorted(found, key=lambda finding: order.index(finding.name)):
        bad = State.FAILED if machine.FEATURES[each.name].needed else State.MISSING
        yield _of("kernel", each, State.OK if each.works else bad)


def _of(group: str, found: Finding, state: State) -> Check:
    return Check(group, found.name, state, found.detail, found.problem, found.remedy)


def _limits() -> Iterator[Check]:
    import resource

    from labctl.observe.machine import largest_lab, shared_limits

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    size = largest_lab()
    few = hard != resource.RLIM_INFINITY and hard < 1024
    yield Check(
        "limits",
        "descriptors",
        State.MISSING if few else State.OK,
        f"{soft} (at most {hard}): enough for a lab of {size.nodes} nodes (limited by {size.by})",
        "the limit is low" if few else "",
        "Try: ulimit -Hn 65536" if few else "",
    )
    found = machine.control_groups()
    yield _of("limits", found, _optional(found))
    for each in shared_limits():
        yield Check("shared by all labs", each.name, State.KNOWN, str(each))


def _recordings() -> Iterator[Check]:
    """What recordings of labs use; without it they name what they lack."""
    _, in_user_namespace = machine.privilege()
    if in_user_namespace:
        yield Check("recordings", "BPF", State.KNOWN, f"{machine.KERNEL_EVENTS}: in labs of root")
    else:
        found = machine.kernel_events()
        yield _of("recordings", found, _optional(found))
    manager = _package_manager()
    yield _program("recordings", "strace", *STRACE, manager)
    found = machine.packet_filters()
    remedy = "" if found.works else _installation(_LIBPCAP.get(manager, "libpcap"), manager)
    yield _of("recordings", replace(found, remedy=remedy), _optional(found))


def _package_manager() -> str:
    return next((name for name in _INSTALLERS if machine.program(name)), "")


def _installation(package: str, manager: str) -> str:
    return f"Try: sudo {_INSTALLERS[manager]} {package}" if manager else f"It is in the package {package}."


def _program(group: str, name: str, package: str, use: str, manager: str) -> Check:
    if machine.program(name):
        return Check(group, name, State.OK, use)
    return Check(group, name, State.MISSING, use, "is not installed", _installation(package, manager))


def _programs() -> Iterator[Check]:
    manager = _package_manager()
    _, in_user_namespace = machine.privilege()
    has_users = not in_user_namespace or machine.users_in_labs(os.geteuid()).works
    for name, (package, use) in PROGRAMS.items():
        if name in _CHANGES_USER and not has_users and machine.program(name):
            remedy = "It needs subordinate ids: see `users in labs`."
            yield Check("programs", name, State.MISSING, use, "cannot change its user in your labs", remedy)
        else:
            yield _program("programs", name, package, use, manager)


def summary(checks: Sequence[Check], look: Look) -> list[str]:
    """Return painted lines: the main facts, all problems with a remedy, and the verdict."""
    shown = [
        check
        for check in checks
        if check.name in _SUMMARY
        or check.state is State.FAILED
        or (check.state is State.MISSING and check.group not in ("kernel", "recordings", "programs"))
    ]
    return [*_check_lines(shown, look), "", *_verdict(checks, look), "All checks and remedies: labctl doctor --all"]


def all_checks(checks: Sequence[Check], look: Look) -> list[str]:
    """Return painted lines: all checks in groups, each problem with its remedy, and the verdict."""
    lines: list[str] = []
    for group in dict.fromkeys(check.group for check in checks):
        members = [check for check in checks if check.group == group]
        lines += [look.paint(group.capitalize(), Ink.STRONG), *_check_lines(members, look), ""]
    return [*lines, *_verdict(checks, look)]


def _check_lines(checks: Sequence[Check], look: Look) -> list[str]:
    marks = {
        State.OK: (look.glyphs.passed, Ink.GOOD),
        State.MISSING: (look.glyphs.skipped, Ink.ODD),
        State.FAILED: (look.glyphs.failed, Ink.BAD),
        State.KNOWN: (look.glyphs.separator, Ink.FAINT),
    }
    mark_width = max(cells(mark) for mark, _ in marks.values())
    indent = " " * (mark_width + _NAME_WIDTH + 5)
    room = look.width - len(indent)
    lines: list[str] = []
    for check in checks:
        mark, ink = marks[check.state]
        lead = f"  {look.paint(mark, ink)}{' ' * (mark_width - cells(mark))} {pad(check.name, _NAME_WIDTH)}  "
        text = ": ".join(filter(None, (check.detail, check.problem)))
        first, *rest = wrap("\n".join(filter(None, (text, check.remedy))), room, break_words=False)
        lines += [f"{lead}{first}".rstrip(), *(f"{indent}{line}" for line in rest)]
    return lines


def _verdict(checks: Sequence[Check], look: Look) -> list[str]:
    if any(check.state is State.FAILED for check in checks):
        verdict, ink = "Labs cannot run here: see the failed checks above.", Ink.BAD
    else:
        verdict, ink = "Labs can run here.", Ink.GOOD
    missing = [check for check in checks if check.state is State.MISSING]
    absent = [check.name for check in missing if check.group == "kernel" and machine.FEATURES[check.name].own]
    recordings = [check.name for check in missing if check.group == "recordings"]
    programs = [check.name for check in missing if check.group == "programs"]
    sentences = [verdict]
    if absent:
        sentences.append(f"Not available on this kernel (labs still work): {', '.join(absent)}.")
    if recordings:
        sentences.append(f"Not available to recordings of labs: {', '.join(recordings)}.")
    if programs:
        sentences.append(f"Optional programs that are not installed: {', '.join(programs)}.")
    first, *rest = [line for sentence in sentences for line in wrap(sentence, look.width, break_words=False)]
    return [look.paint(first, ink), *rest]


def _json(checks: list[Check]) -> bytes:
    import json

    report = {
        "can_run_labs": not any(check.state is State.FAILED for check in checks),
        "uid": os.getuid(),
        "checks": to_builtins(checks),
    }
    return (json.dumps(report, indent=2) + "\n").encode()
