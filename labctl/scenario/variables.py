"""`${name}` in the strings of a scenario, and the values of the variables.

`$${` is a literal `${` (for variables of the shell in `shell:`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from labctl.documents.schema import is_template

__all__ = [
    "Variables", "as_text", "has_references", "is_name", "is_template", "references", "references_within", "substitute",
]  # fmt: skip

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}\n]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
NAME_RULE = "use letters, digits and `_`, and no digit first"


def is_name(text: str) -> bool:
    """Return whether `text` is a valid variable name, as in the call language."""
    return bool(_NAME.match(text))


def references(text: str) -> Iterator[tuple[str, int]]:
    """Yield the names that `text` refers to, each with the offset of its `${`."""
    for match in _REFERENCE.finditer(text):
        if match.group(1) is not None:
            yield match.group(1).strip(), match.start()


def references_within(
    data: object, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str, int]]:
    """Yield every reference in the strings of nested `data`: (path of the string, name, offset in it)."""
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
    """Return the value of a variable as text; bytes are decoded as UTF-8."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is True or value is False:
        return "true" if value else "false"
    return str(value)


def substitute(data: Any, variables: Variables) -> Any:
    """Replace every `${name}` in nested `data` by its value (KeyError passes through).

    A string that is exactly one `${name}` becomes a number if the variable is one, so that `json: {port: "${port}"}`
    compares numbers.
    """
    if isinstance(data, str):
        whole = _REFERENCE.fullmatch(data)
        if whole is not None and whole.group(1) is not None:
            value = variables[whole.group(1).strip()]
            return value if isinstance(value, int | float) and not isinstance(value, bool) else as_text(value)
        return _REFERENCE.sub(
            lambda match: "${" if match.group(1) is None else as_text(variables[match.group(1).strip()]), data
        )
    if isinstance(data, dict):
        return {key: substitute(value, variables) for key, value in data.items()}
    if isinstance(data, list):
        return [substitute(value, variables) for value in data]
    return data


def has_references(data: object) -> bool:
    """Return whether `substitute` would change anything (an escaped `$${` counts)."""
    if isinstance(data, str):
        return "${" in data and _REFERENCE.search(data) is not None
    if isinstance(data, dict):
        return any(has_references(value) for value in data.values())
    if isinstance(data, list):
        return any(has_references(value) for value in data)
    return False


class Variables:
    """The variables of a running scenario, in layers. Thread-safe: each operation on a dict is atomic.

    `inside` adds a layer for the body of a `repeat`: its own names hide those below; every other name is set in the
    lowest layer.
    """

    def __init__(self, values: Mapping[str, object], below: Variables | None = None) -> None:
        self._layers: tuple[dict[str, object], ...] = (dict(values), *(below._layers if below else ()))

    def __getitem__(self, name: str) -> object:
        for layer in self._layers:
            if name in layer:
                return layer[name]
        raise KeyError(name)

    def __setitem__(self, name: str, value: object) -> None:
        layer = next((layer for layer in self._layers if name in layer), self._layers[-1])
        layer[name] = value

    def inside(self, values: Mapping[str, object]) -> Variables:
        """Return these variables with another layer on top."""
        return Variables(values, self)
