"""The file tree of a host: placed files, binds, private directories, and the directories in /run.

The host's init makes it in its own mount namespace, before the first program. Placed files are on a tmpfs of the host.
Where a directory of the machine gets more entries, an overlayfs joins the two, and nothing is written to the machine;
where the kernel refuses that, a directory with binds of the machine's entries does.

Every host's /run has the directories that systemd would make there for installed packages: the `d` and `D` lines of
tmpfiles.d(5), `RuntimeDirectory=` of services and the mkdir(1) of their `ExecStartPre=` (systemd.exec(5)), and home
directories of accounts, whether or not the service runs. Without them many servers do not start: sshd requires
/run/sshd, FRR /run/frr, mosquitto /run/mosquitto, BIRD /run/bird.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from functools import cache

from labctl.errors import KernelError
from labctl.kernel import mounts
from labctl.structs import Struct, field
from labctl.topology.model import OWN_DIRECTORIES, Bind, FileTree, PlacedFile, entries_of, lies_in

_HIDDEN_SOURCE = "A lab sees only those files of the machine's /tmp and /run that its file named when it was made."
UNMAPPED = 65534  # stat(2)'s id for one that the user namespace lacks (user_namespaces(7))


class _Layer(Struct):
    """The entries that this host adds to a directory of the machine."""

    lower: int  # descriptor of the machine's directory
    upper: str  # directory of the host
    work: str


class _Building(Struct):
    store: str
    own_devices: frozenset[int]  # st_dev of the host's own file systems
    owners: dict[str, tuple[int, int]] | None  # by the machine's directory, where stat(2) does not report them
    layers: dict[str, _Layer] = field(default_factory=dict)  # by the machine's directory
    backing: dict[str, str] = field(default_factory=dict)  # of private directories: where their content is for now
    binds: dict[str, str] = field(default_factory=dict)  # by path: the directory to bind there


def build_tree(
    tree: FileTree, private_places: Iterable[str], store: str, subject: str, *, rootless: bool, overlay: bool = True
) -> None:
    """Make the files, binds and private directories of `tree` in the calling process's mount namespace.

    Args:
        tree: the host's own files and directories.
        private_places: directories that are the host's own already.
        store: a path that does not exist; a tmpfs is mounted there for a moment.
        subject: the host, for error messages.
        rootless: the process is root in a user namespace only.
        overlay: whether to try overlayfs.

    Raises:
        KernelError: names `subject` and the path.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(os.umask, os.umask(0o022))
        os.makedirs(store)
        mounts.mount_tmpfs(store, "700")
        stack.callback(os.rmdir, store)
        stack.callback(mounts.detach, store)
        owners = {path: (uid, gid) for path, uid, gid in tree.owners} if rootless else None
        building = _Building(store, frozenset(os.stat(place).st_dev for place in ("/", *private_places)), owners)
        sources: dict[str, int] = {}
        for bind in tree.binds:
            with _failing_as(subject, f"bind {bind.source}"):
                sources[bind.path] = os.open(bind.source, os.O_PATH | os.O_CLOEXEC)
                stack.callback(os.close, sources[bind.path])
        for path in sorted(tree.private):
            with _failing_as(subject, f"make {path} private"):
                _make_private(building, path)
        for file in tree.files:
            with _failing_as(subject, f"place {file.path}"):
                _place(building, file)
        for bind in tree.binds:
            with _failing_as(subject, f"bind {bind.source} at {bind.path}"):
                _make_mount_point(building, bind, sources[bind.path])
        for layer in building.layers.values():
            stack.callback(os.close, layer.lower)
        targets = frozenset((*tree.private, *(one.path for one in tree.files), *(one.path for one in tree.binds)))
        for directory in sorted(building.layers):  # outer ones first
            with _failing_as(subject, f"give {directory} files of its own"):
                _join(directory, building.layers[directory], targets, rootless=rootless, overlay=overlay)
        for path in sorted({*building.binds, *sources}):
            with _failing_as(subject, f"mount {path}"):
                if path in building.binds:
                    mounts.bind(building.binds[path], path)
                else:
                    bind = next(one for one in tree.binds if one.path == path)
                    target, source = os.path.realpath(path), os.path.realpath(bind.source)
                    mounts.bind(f"/proc/self/fd/{sources[path]}", target, read_only=not bind.writable)
                    if lies_in(store, source):  # a bind includes the mounts below its source, the store too
                        mounts.detach(os.path.join(target, os.path.relpath(store, source)))


def _located(building: _Building, path: str) -> str:
    """Return the path at which to write `path` for now; makes the directories above it."""
    for private, backing in building.backing.items():
        if path != private and lies_in(path, private):
            target = backing + path[len(private) :]
            os.makedirs(os.path.dirname(target), exist_ok=True)
            return target
    above, name = os.path.split(path)
    missing = [name]
    while not os.path.isdir(above):
        above, name = os.path.split(above)
        missing.insert(0, name)
    directory = os.path.realpath(above)
    if os.stat(directory).st_dev in building.own_devices:
        target = os.path.join(directory, *missing)
    else:
        target = os.path.join(_layer(building, directory).upper, *missing)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    return target


def _layer(building: _Building, directory: str) -> _Layer:
    if directory not in building.layers:
        base = os.path.join(building.store, str(len(building.layers)))
        lower = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        layer = building.layers[directory] = _Layer(lower, f"{base}/upper", f"{base}/work")
        os.makedirs(layer.work)
        _make_alike(building, layer.upper, directory)
    return building.layers[directory]


def _make_alike(building: _Building, path: str, directory: str) -> None:
    """Make a directory with the mode and, where the lab has an id for it, the owner of the machine's directory."""
    info = os.stat(directory)
    uid, gid = info.st_uid, info.st_gid
    if building.owners is not None:
        machines_uid, machines_gid = building.owners.get(os.path.realpath(directory), (0, 0))
        uid, gid = machines_uid if uid == UNMAPPED else uid, machines_gid if gid == UNMAPPED else gid
    os.mkdir(path)
    _chown(path, uid, gid)
    os.chmod(path, stat.S_IMODE(info.st_mode))


def _chown(path: str, uid: int, gid: int) -> None:
    """Change the owner; files of ids that an ordinary user's lab lacks stay root's."""
    with contextlib.suppress(OSError):
        os.chown(path, uid, gid, follow_symlinks=False)


def _is_covered(building: _Building, path: str) -> bool:
    """Whether the path is in a private directory, which hides the machine's entries."""
    return any(lies_in(path, private) for private in building.backing)


def _make_private(building: _Building, path: str) -> None:
    if not _is_covered(building, path) and os.path.isdir(path):
        backing = os.path.join(building.store, f"private-{len(building.backing)}")
        _make_alike(building, backing, path)
        building.binds[os.path.realpath(path)] = backing
    else:
        backing = _located(building, path)
        os.makedirs(backing, exist_ok=True)
    building.backing[path] = backing


def _place(building: _Building, file: PlacedFile) -> None:
    owner = ids_of(file.owner) if file.owner else None
    if file.content is not None:
        _write(_located(building, file.path), file.content.encode(), 0o644 if file.mode is None else file.mode, owner)
        return
    for source, relative in entries_of(file.source):
        path = os.path.normpath(os.path.join(file.path, relative))
        info = os.stat(source) if not relative else os.lstat(source)
        mode = stat.S_IMODE(info.st_mode) if file.mode is None or relative else file.mode
        if stat.S_ISDIR(info.st_mode):
            there = os.path.isdir(path) and not _is_covered(building, path)
            if there and not relative and os.stat(path).st_dev not in building.own_devices:
                _layer(building, os.path.realpath(path))  # so that programs write to the host's layer
            elif path not in building.backing and not there:
                target = _located(building, path)
                os.makedirs(target, exist_ok=True)
                os.chmod(target, mode)
                _chown(target, *(owner or (0, 0)))
        elif stat.S_ISLNK(info.st_mode):
            target = _located(building, path)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            os.symlink(os.readlink(source), target)
            _chown(target, *(owner or (0, 0)))
        else:
            with open(source, "rb") as stream:
                _write(_located(building, path), stream.read(), mode, owner)


def _write(target: str, data: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)  # it may be a link to elsewhere
    with open(target, "xb") as file:
        file.write(data)
    _chown(target, *(owner or (0, 0)))
    os.chmod(target, mode)


def _make_mount_point(building: _Building, bind: Bind, source: int) -> None:
    is_directory = stat.S_ISDIR(os.stat(source).st_mode)
    there = os.path.lexists(bind.path) and os.path.isdir(bind.path) == is_directory
    if there and not _is_covered(building, bind.path):
        return
    target = _located(building, bind.path)
    if is_directory:
        os.makedirs(target, exist_ok=True)
    else:
        _write(target, b"", 0o644, None)


def _join(directory: str, layer: _Layer, targets: frozenset[str], *, rootless: bool, overlay: bool) -> None:
    """Mount the layer's entries over those of the machine in `directory`."""
    lower = f"/proc/self/fd/{layer.lower}"
    below = [path for path in mounts.mounted_below(directory) if not any(lies_in(path, target) for target in targets)]
    kept = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in below}
    try:
        if not os.access(lower, os.X_OK):  # a program of an ordinary user's lab cannot see the machine's entries
            mounts.bind(layer.upper, directory)
            return
        joined = overlay and mounts.mount_overlay(directory, lower, layer.upper, layer.work, in_user_namespace=rootless)
        if not joined:
            with os.scandir(lower) as entries:
                for entry in entries:
                    if not os.path.lexists(f"{layer.upper}/{entry.name}"):
                        _mirror(entry, f"{layer.upper}/{entry.name}")
            mounts.bind(layer.upper, directory)
            return
        for path, descriptor in kept.items():  # an overlay hides the mounts below it
            mounts.bind(f"/proc/self/fd/{descriptor}", path)
    finally:
        for descriptor in kept.values():
            os.close(descriptor)


def _mirror(entry: os.DirEntry[str], target: str) -> None:
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    if entry.is_dir():
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    mounts.bind(entry.path, target)


def ids_of(owner: str) -> tuple[int, int]:
    """Return the ids of USER or USER:GROUP in this machine's databases. OSError for unknown names."""
    import grp
    import pwd

    user, colon, group = owner.partition(":")
    try:
        if user.isdigit():
            uid, gid = int(user), int(user)
        else:
            entry = pwd.getpwnam(user)
            uid, gid = entry.pw_uid, entry.pw_gid
        if colon:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise OSError(0, f"this machine has no user or group `{owner}`") from None
    return uid, gid


@contextlib.contextmanager
def _failing_as(subject: str, attempted: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        detail = str(error) if error.errno else error.strerror or ""
        covered = any(lies_in(str(error.filename or ""), place) for place in OWN_DIRECTORIES)
        hint = _HIDDEN_SOURCE if error.errno == errno.ENOENT and covered else ""
        raise KernelError(subject, attempted, error.errno or 0, detail=detail, hint=hint) from error


TMPFILES = ("/etc/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")  # of equal names the first counts
UNITS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
PASSWD = "/etc/passwd"
GROUP = "/etc/group"
_NOT_MADE = ("/run/systemd", "/run/lab")  # programs detect systemd by the first; the second is labctl's


class RunDirectory(Struct, frozen=True):
    """A directory in /run."""

    path: str
    mode: int = 0o755
    owner: str = ""  # USER or USER:GROUP; "" for root


LOCK = RunDirectory("/run/lock", 0o1777)


def run_directories(
    tmpfiles: tuple[str, ...] = TMPFILES, units: tuple[str, ...] = UNITS, passwd: str = PASSWD
) -> tuple[RunDirectory, ...]:
    """Search this machine's packages for directories in /run; returns each after those above it."""
    found = {LOCK.path: LOCK}
    for text in _texts(tmpfiles, ".conf"):
        for line in text.splitlines():
            if directory := _of_tmpfiles(line.split()):
                found.setdefault(directory.path, directory)
    for text in _texts(units, ".service"):
        if "RuntimeDirectory=" in text or "mkdir" in text:
            for directory in _of_unit(text):
                found.setdefault(directory.path, directory)
    for line in _read(passwd).splitlines():
        fields = line.split(":")
        if len(fields) == 7 and (home := _directory(fields[5], "", fields[2], fields[3])):
            found.setdefault(home.path, home)
    return tuple(found[path] for path in sorted(found))


def owned_run_directories() -> tuple[tuple[RunDirectory, tuple[int, int] | None], ...]:
    """Return this machine's directories in /run, each with the ids of its owner; None for root and unknown owners.

    It remembers them until a package or an account is installed or removed: a search reads some 200 files, and the C
    library opens the databases anew for each name, and looks for nscd before.
    """
    return _owned_run_directories(tuple(map(_changed_ns, (*TMPFILES, *UNITS, PASSWD, GROUP))))


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@cache
def _owned_run_directories(changed_ns: tuple[int, ...]) -> tuple[tuple[RunDirectory, tuple[int, int] | None], ...]:
    owned = []
    for one in run_directories():
        ids = None
        if one.owner:
            with contextlib.suppress(OSError):
                ids = ids_of(one.owner)
        owned.append((one, ids))
    return tuple(owned)


def make_run_directories() -> None:
    """Make this machine's directories in the calling process's /run, as far as possible."""
    for one, ids in owned_run_directories():
        with contextlib.suppress(OSError):
            os.makedirs(one.path, exist_ok=True)
            os.chmod(one.path, one.mode)
            if ids is not None:
                _chown(one.path, *ids)


def _of_tmpfiles(words: list[str]) -> RunDirectory | None:
    """Return the directory in /run that a line of tmpfiles.d(5) makes; None for other lines."""
    if len(words) < 2 or words[0].rstrip("!-+=~^$") not in ("d", "D"):
        return None
    mode, user, group = (*(word.lstrip(":~") for word in words[2:5]), "-", "-", "-")[:3]
    return _directory(words[1], mode, "" if user == "-" else user, "" if group == "-" else group)


def _of_unit(text: str) -> Iterator[RunDirectory]:
    """Yield the directories in /run that systemd makes for a service."""
    settings: dict[str, str] = {}
    before: list[list[str]] = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        settings[key.strip()] = value.strip()
        if key.strip() == "ExecStartPre":
            before.append(value.strip().lstrip("-+!@:").split())
    mode, user, group = (settings.get(key, "") for key in ("RuntimeDirectoryMode", "User", "Group"))
    for name in settings.get("RuntimeDirectory", "").split():
        if directory := _directory(f"/run/{name.partition(':')[0]}", mode, user, group):
            yield directory
    chowns = [words for words in before if len(words) > 2 and os.path.basename(words[0]) == "chown"]
    for words in before:
        if words and os.path.basename(words[0]) == "mkdir":
            at = words.index("-m") if "-m" in words[:-1] else -1
            for path in words[1:]:
                owner = next((one[1] for one in chowns if path in one[2:]), "")
                user, _, group = owner.partition(":")
                if directory := _directory(path, words[at + 1] if at > 0 else "", user, group):
                    yield directory


def _directory(written: str, mode: str, user: str, group: str) -> RunDirectory | None:
    path = os.path.normpath(written.removeprefix("/var") if written.startswith("/var/run/") else written)
    if not path.startswith("/run/") or "%" in path or any(lies_in(path, place) for place in _NOT_MADE):
        return None
    digits = int(mode, 8) if mode and set(mode) <= set("01234567") else 0o755
    owner = "" if user in ("", "root") and group in ("", "root") else f"{user or 'root'}:{group}".rstrip(":")
    return RunDirectory(path, digits, owner)


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def _texts(places: Iterable[str], suffix: str) -> Iterator[str]:
    """Yield the texts of files with that suffix, ordered by name; of equal names that in the first directory."""
    files: dict[str, str] = {}
    for place in places:
        with contextlib.suppress(OSError):
            for name in os.listdir(place):
                if name.endswith(suffix):
                    files.setdefault(name, os.path.join(place, name))
    for name in sorted(files):
        yield _read(files[name])
