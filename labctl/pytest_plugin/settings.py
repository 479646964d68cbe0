"""Values of the command line and the ini file, the session's seed, and the private network of ordinary users."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.errors import LabctlError
from labctl.scenario.model import LARGEST_SEED

SEED_VARIABLE = "LABCTL_SEED"
_SEED: pytest.StashKey[int] = pytest.StashKey()


def seed_of(config: pytest.Config) -> int:
    """Return the session's seed: --labctl-seed, else LABCTL_SEED, else random; the same in every worker.

    From the first call to the end of the session, LABCTL_SEED carries it to labs and programs. UsageError if it is not
    a number from 0 to LARGEST_SEED.
    """
    seed = config.stash.get(_SEED, None)
    if seed is None:
        config.stash[_SEED] = seed = _chosen_seed(config)
        patch = pytest.MonkeyPatch()
        patch.setenv(SEED_VARIABLE, str(seed))
        config.add_cleanup(patch.undo)
    return seed


def _chosen_seed(config: pytest.Config) -> int:
    handed_over = getattr(config, "workerinput", {}).get("labctl_seed")
    given = config.getoption("--labctl-seed")
    if handed_over is not None:
        return int(handed_over)
    if given is None:
        given = os.environ.get(SEED_VARIABLE)
        where = SEED_VARIABLE
    else:
        where = "--labctl-seed"
    if given is None:
        import secrets

        return secrets.randbits(63)
    if not str(given).isdecimal() or int(given) > LARGEST_SEED:
        raise pytest.UsageError(f"{where} {given}: is not a seed. Give a whole number from 0 to {LARGEST_SEED}.")
    return int(given)


def hand_over_seed(node: object) -> None:
    """Put the seed into `workerinput` of `node`, a WorkerController of xdist."""
    config = getattr(node, "config")  # noqa: B009  # xdist may not be installed, so it has no type here
    getattr(node, "workerinput")["labctl_seed"] = seed_of(config)  # noqa: B009  # the same


def on_github() -> bool:
    """Whether this is a job on a runner of GitHub's kind, which takes results."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def artifacts_root(config: pytest.Config) -> Path | None:
    """Return the directory of artifacts: --labctl-artifacts, else below pytest's temporary directory; None without
    either.
    """
    if chosen := chosen_artifacts_root(config):
        return chosen
    temporary = temporary_root(config)
    return temporary / "labctl" if temporary is not None else None


def temporary_root(config: pytest.Config) -> Path | None:
    """Make and return pytest's temporary directory.

    None without one (`-p no:tmpdir`), or if it cannot be made: full disk, or below another user's directory.
    """
    factory = getattr(config, "_tmp_path_factory", None)  # pytest's `tmp_path_factory`, where there is no fixture
    try:
        root: Path | None = factory.getbasetemp() if factory is not None else None
    except OSError:
        return None
    return root


def chosen_artifacts_root(config: pytest.Config) -> Path | None:
    """Return the value of --labctl-artifacts, or None."""
    given = config.getoption("--labctl-artifacts")
    return config.invocation_params.dir / given if given else None


def html_root(config: pytest.Config) -> Path | None:
    """Return the value of --labctl-html, or None."""
    given = config.getoption("--labctl-html")
    return config.invocation_params.dir / given if given else None


def as_seen_from(directory: Path, path: Path) -> Path:
    """Return the path relative to that directory, for messages."""
    return path.relative_to(directory) if path.is_relative_to(directory) else path


def enter() -> None:
    """Move this process into a private network (unless it is root's), before it has threads and workers. UsageError.

    The user is called root inside. pytest names its temporary directory after the user, and must not take root's, so
    LOGNAME gets the user's name (getpass.getuser).
    """
    from labctl.api.lab import enter_private_network

    user = _user()
    try:
        entered = enter_private_network()
    except LabctlError as error:
        raise pytest.UsageError(f"labctl_private_network: {error}") from error
    if entered and not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        os.environ["LOGNAME"] = user


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody of that number is in /etc/passwd
        return f"user-{os.geteuid()}"
