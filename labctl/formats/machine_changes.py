"""Commands that would change the machine: a node of a lab uses the machine's files, a container has its own.

Startup scripts of containers install packages, write below /etc and create accounts. Such commands are left out of a
lab. What an unknown program does cannot be seen; this looks at well-known programs and at redirections.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection

# Directories that every node has for itself, and devices.
OWN = ("/tmp", "/run", "/var/run", "/var/tmp", "/dev", "/proc/self", "/proc/sys/net", "/run/lab")
_INSTALLERS = frozenset(
    {
        "apt",
        "apt-get",
        "aptitude",
        "dpkg",
        "apk",
        "yum",
        "dnf",
        "rpm",
        "pacman",
        "zypper",
        "snap",
        "pip",
        "pip3",
        "npm",
        "gem",
    }
)
_SYSTEM = frozenset(
    {
        "useradd",
        "adduser",
        "usermod",
        "userdel",
        "groupadd",
        "addgroup",
        "passwd",
        "chpasswd",
        "update-rc.d",
        "ldconfig",
    }
    | {
        "modprobe",
        "insmod",
        "rmmod",
        "reboot",
        "shutdown",
        "poweroff",
        "halt",
        "init",
        "crontab",
        "timedatectl",
        "date",
    }
    | {"hostnamectl", "update-alternatives", "swapoff", "swapon", "dd", "mkfs", "fdisk", "kill", "pkill", "killall"}
)
_WRITERS = frozenset(
    {"rm", "mv", "mkdir", "rmdir", "touch", "chmod", "chown", "chgrp", "tee", "truncate", "unlink", "rsync"}
)
_COPIERS = frozenset({"cp", "ln", "install"})  # they write to their last argument
_FETCHERS = frozenset({"wget", "git", "unzip", "tar", "make"})
_KEYWORDS = frozenset(
    {"do", "then", "else", "if", "while", "until", "{", "(", "!", "sudo", "nohup", "exec", "time", "env"}
)
_ASSIGNMENT = re.compile(r"\w+=.*")
_PARTS = re.compile(r"&&|\|\||[;|&\n(){}]")
_REDIRECTION = re.compile(r"(?<![<>&=-])[0-9&]?>>?\|?\s*(?P<path>[^\s&;|<>()]+)")


def change_of(text: str, own: Collection[str] = ()) -> str:
    """Return what a command or script of sh would change on the machine; "" if nothing is seen.

    `own` has further directories that belong to the node.
    """
    text = re.sub(r"\$\{(\w+)[^{}]*\}", r"$\1", text)
    plain = re.sub(r"'[^']*'|\"[^\"]*\"", lambda match: match.group() if "/" in match.group() else '""', text)
    for match in _REDIRECTION.finditer(plain):
        path = match["path"].strip("\"'")
        if not path.isdigit() and not _is_own(path, own):
            return f"it writes to {path}, a file of the machine"
    for part in _PARTS.split(text):
        if found := _change_of_simple(part, own):
            return found
    return ""


def _change_of_simple(part: str, own: Collection[str]) -> str:
    try:
        words = shlex.split(_REDIRECTION.sub(" ", part))
    except ValueError:
        words = part.split()
    while words and (words[0] in _KEYWORDS or _ASSIGNMENT.fullmatch(words[0])):
        words = words[1:]
    if not words:
        return ""
    program, arguments = words[0].rpartition("/")[2], words[1:]
    if program in ("sh", "bash") and arguments[:1] and "c" in arguments[0] and arguments[0].startswith("-"):
        return change_of(" ".join(arguments[1:2]), own)
    if program in _INSTALLERS:
        return "it installs software on the machine"
    if program in _SYSTEM:
        return f"`{program}` changes the machine"
    if program == "sysctl" and any("=" in word and not re.match(r"net[./]", word) for word in arguments):
        return "the setting belongs to the machine"
    paths = [word for word in arguments if not word.startswith("-")]
    if program in ("chmod", "chown", "chgrp"):
        paths = paths[1:]
    elif program in _COPIERS:
        paths = paths[-1:]
    elif program in ("sed", "perl"):
        paths = paths[1:] if any(word.startswith("-i") or word == "--in-place" for word in arguments) else []
    elif program in _FETCHERS:
        return f"`{program}` may write to files of the machine"
    elif program not in _WRITERS:
        return ""
    wrong = next((path for path in paths if not _is_own(path, own)), None)
    return f"it changes {wrong}, a file of the machine" if wrong else ""


def _is_own(path: str, own: Collection[str]) -> bool:
    if ".." in path.split("/"):
        return False
    return any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in (*OWN, *own))
