"""What this kernel was built with, and how to get a part that it lacks.

Kernels that distributions build have most parts as modules: under /lib/modules, loaded when they are first needed. A
part may be missing in three ways: its module is not loaded and must not be by this user, its module's package is not
installed, or the kernel was built without it. `labctl doctor` and refusals of the kernel give the same remedy.
"""

from __future__ import annotations

import os
from pathlib import Path


def remedy(module: str, option: str) -> str:
    """What to try where the kernel lacks that module, which the option (without CONFIG_) builds."""
    release = os.uname().release
    set_to = _kernel_option(option, release)
    if set_to in ("", "n") and _module_is_there(module, release):
        set_to = "m"
    match set_to:
        case "m":
            if _module_is_there(module, release):
                return f"Try: sudo modprobe {module}"
            ubuntu = f"Ubuntu: sudo apt-get install linux-modules-extra-{release}"
            fedora = "Fedora, RHEL: sudo dnf install kernel-modules-extra"
            return f"Its module {module} is not installed. {ubuntu}; {fedora}"
        case "y":
            return "The kernel has it, but does not let this user (or this container) use it. Try as root."
        case _:
            return f"This kernel ({release}) was built without CONFIG_{option}; another kernel is needed."


def remedy_for_qdisc(module: str) -> str:
    """What to try where the kernel lacks a queueing discipline: `sch_netem` is built by CONFIG_NET_SCH_NETEM."""
    return remedy(module, f"NET_{module.upper()}")


def _kernel_option(option: str, release: str) -> str:
    """`y`, `m`, `n`, or "" when the kernel does not tell how it was built."""
    import gzip

    text = ""
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        text = _text(f"/boot/config-{release}")
    if not text:
        return ""
    for line in text.splitlines():
        if line.startswith(f"CONFIG_{option}="):
            return line.rpartition("=")[2]
    return "n"


def _module_is_there(module: str, release: str) -> bool:
    return bool(module) and f"/{module}.ko" in _text(f"/lib/modules/{release}/modules.dep")


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
