"""The topologies and scenarios that ship with labctl, found by name, in a checkout and in an installed wheel."""

from __future__ import annotations

import re
from pathlib import Path

_SUFFIXES = (".yaml", ".yml")
_LISTED = re.compile(r"^\| \[[^\]]+\]\(([\w./-]+)\.yaml\)", re.MULTILINE)
_HAS_STEPS = re.compile(r"^steps\s*:", re.MULTILINE)


def directory(kind: str) -> Path | None:
    """Where the shipped files of `kind` ("topologies" or "scenarios") are; None when this installation has none.

    The wheel has them as package data; in a checkout they lie beside the package.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "_shipped" / kind
    if installed.is_dir():
        return installed
    checkout = package.parent / kind
    return checkout if (package.parent / "pyproject.toml").is_file() and checkout.is_dir() else None


def scenarios() -> dict[str, Path]:
    """The shipped scenarios by name (`tcp-echo`, or `files/upload` for one in a folder), in the order of their README.

    That is the order in which they are best read; what the README does not list comes last, sorted.
    """
    found = {name: path for name, path in _files("scenarios").items() if _HAS_STEPS.search(_text(path))}
    root = directory("scenarios")
    listed = _LISTED.findall(_text(root / "README.md")) if root and (root / "README.md").is_file() else []
    return {name: found[name] for name in dict.fromkeys([*listed, *found]) if name in found}


def topologies() -> dict[str, Path]:
    """The shipped topologies by name, sorted."""
    return _files("topologies")


def scenario(name: str) -> Path | None:
    """The shipped scenario of that name; looks at one file only."""
    return _named("scenarios", name)


def topology(name: str) -> Path | None:
    """The shipped topology of that name."""
    return _named("topologies", name)


def tool(name: str) -> Path | None:
    """A script of tools/ that ships with the wheel, too; None when this installation lacks it."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "_shipped" / name, package.parent / "tools" / name)
    return next((path for path in places if path.is_file()), None)


def first_comment(path: Path) -> str:
    """The first sentence of the comment that a topology file begins with; "" when it begins with none."""
    words = []
    for line in _text(path).splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# ").rstrip())
    sentence = re.match(r".*?[.:](?=\s|$)", " ".join(words))
    return sentence.group()[:-1] + "." if sentence else " ".join(words)


def _named(kind: str, name: str) -> Path | None:
    root = directory(kind)
    if root is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name) or ".." in name:
        return None
    return next((path for suffix in _SUFFIXES if (path := root / f"{name}{suffix}").is_file()), None)


def _files(kind: str) -> dict[str, Path]:
    root = directory(kind)
    if root is None:
        return {}
    paths = sorted(path for suffix in _SUFFIXES for path in root.rglob(f"*{suffix}") if path.is_file())
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace")
