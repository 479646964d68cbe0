"""`${name}` in the strings of a scenario, and the store that the names lead to.

`$${` stands for a literal `${` (for the shell's own variables in `shell:`). PURE but for the store's lock.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from labctl.documents.schema import is_template

__all__ = [
    "Variables", "as_text", "has_references", "is_name", "is_template", "references", "references_within", "substitute",
]  # fmt: skip

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}\n]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
NAME_RULE = "use letters, digits and `_`, and no digit first"


def is_name(text: str) -> bool:
    """Whether `text` may be a variable's name: letters, digits and `_`, as in the call language."""
    return bool(_NAME.match(text))


def references(text: str) -> Iterator[tuple[str, int]]:
    """The names that `text` refers to, each with the offset of its `${`."""
    for match in _REFERENCE.finditer(text):
        if match.group(1) is not None:
            yield match.group(1).strip(), match.start()


def references_within(
    data: object, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, int]]:
    """Every reference in the strings of nested `data`: (path of the string, name, offset in it)."""
    if isinstance(data, str):
        for name, offset in references(data):
            yield path, name, offset
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from references_within(value, (*path, key))
    elif isinstance(data, list):
        for position, value in enumerate(data):
            yield from references_within(value, (*path, position))


def as_text(value: object) -> str:
    """A variable's value as it stands in a text; bytes are taken as UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is True or value is False:
        return "true" if value else "false"
    return str(value)


def substitute(data: Any, lookup: Callable[[str], object]) -> Any:
    """`data` with every `${name}` replaced by what `lookup` gives for it (KeyError passes through).

    A string that is nothing but one `${name}` becomes the number itself where the variable is a number, so that
    `json: {port: "${port}"}` compares numbers.
    """
    if isinstance(data, str):
        whole = _REFERENCE.fullmatch(data)
        if whole is not None and whole.group(1) is not None:
            value = lookup(whole.group(1).strip())
            return value if isinstance(value, int | float) and not isinstance(value, bool) else as_text(value)
        return _REFERENCE.sub(
            lambda match: "${" if match.group(1) is None else as_text(lookup(match.group(1).strip())), data
        )
    if isinstance(data, dict):
        return {key: substitute(value, lookup) for key, value in data.items()}
    if isinstance(data, list):
        return [substitute(value, lookup) for value in data]
    return data


def has_references(data: object) -> bool:
    """Whether `substitute` would change anything (an escaped `$${` counts)."""
    if isinstance(data, str):
        return "${" in data and _REFERENCE.search(data) is not None
    if isinstance(data, dict):
        return any(has_references(value) for value in data.values())
    if isinstance(data, list):
        return any(has_references(value) for value in data)
    return False


class Variables:
    """A running scenario's variables; safe to use from the branches of `parallel`.

    `inside` gives a layer for the body of a `repeat`: its own names hide those below, everything else is written below.
    """

    def __init__(self, values: Mapping[str, object], below: Variables | None = None) -> None:
        self._values = dict(values)
        self._below = below
        self._lock: threading.Lock = threading.Lock() if below is None else below._lock

    def get(self, name: str) -> object:
        """The value of `name`; KeyError(name) when it has not been set."""
        with self._lock:
            return self._find(name)[name]

    def set(self, name: str, value: object) -> None:
        with self._lock:
            self._owner(name)[name] = value

    def inside(self, values: Mapping[str, object]) -> Variables:
        """A layer with `values` of its own on top of these."""
        return Variables(values, self)

    def _find(self, name: str) -> dict[str, object]:
        layer: Variables | None = self
        while layer is not None:
            if name in layer._values:
                return layer._values
            layer = layer._below
        raise KeyError(name)

    def _owner(self, name: str) -> dict[str, object]:
        layer = self
        while layer._below is not None and name not in layer._values:
            layer = layer._below
        return layer._values

    # The mapping's spelling of the same, for the call language.
    def __getitem__(self, name: str) -> object:
        return self.get(name)

    def __setitem__(self, name: str, value: object) -> None:
        self.set(name, value)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        with self._lock:
            try:
                self._find(name)
            except KeyError:
                return False
            return True

    def snapshot(self) -> dict[str, object]:
        """A copy of all that is visible from this layer."""
        with self._lock:
            return self._flat()

    def _flat(self) -> dict[str, object]:
        return {**(self._below._flat() if self._below is not None else {}), **self._values}
