"""The capabilities(7) of this process, and those that making a lab without a user namespace needs."""

from __future__ import annotations

from labctl.errors import MachineError

CAP_DAC_OVERRIDE = 1  # linux/capability.h
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_SYS_CHROOT = 18
CAP_SYS_ADMIN = 21
CAP_BPF = 39
BPF_PRIVILEGE = "CAP_BPF and CAP_PERFMON are required (root)"
NEEDED = (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_CHROOT, CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE)


def needs_user_namespace(euid: int, effective: int) -> bool:
    """Whether a user with these effective capabilities (a bit mask) needs a user namespace to make a lab."""
    return euid != 0 or any(not effective >> capability & 1 for capability in NEEDED)


def effective_capabilities() -> int:
    """Return the calling process's effective capabilities as a bit mask (proc_pid_status(5), CapEff)."""
    return int(status_field("CapEff"), 16)


def status_field(name: str) -> str:
    """Return a field of this process's proc_pid_status(5); "" if the kernel lacks it. MachineError without /proc."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key == name:
                    return value.strip()
    except FileNotFoundError as error:
        raise MachineError("machine: cannot read /proc: it is not mounted. Try: mount -t proc proc /proc") from error
    return ""
