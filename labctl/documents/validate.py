"""Data to a pydantic model, with every mistake at its place and in plain words.

Pydantic tells what is wrong by a path into the data; here that path becomes a line and a column. What is wrong is then
taken out and validation repeated, so that the caller gets a model of all that is right and can check what the models
cannot (names that exist, addresses that fit) in the same pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from labctl.documents.document import Document, KeyPath
from labctl.documents.plain_words import allowed_keys, rewrite
from labctl.documents.source import Diagnostic, describe, in_file_order, suggest
from labctl.documents.tree import Value

_ROUNDS = 12  # each takes out at least one part; mistakes hidden by others come to light

_MISMATCHES = frozenset(
    {
        "string_type", "int_type", "int_from_float", "float_type", "bool_type", "list_type", "tuple_type", "dict_type",
        "mapping_type", "model_type", "model_attributes_type", "none_required", "set_type", "is_instance_of",
    }
)  # fmt: skip


class FileModel(BaseModel):
    """Base of the models of files: no unknown keys, no guessing of types (so `list`, `Literal`; no tuple, no Enum).

    `path` leads to the place in the document that the model was made from; `validate` fills it in.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    _path: KeyPath = PrivateAttr(default=())

    @property
    def path(self) -> KeyPath:
        """Where in its document this was written, for `Document.position` and `Document.diagnostic`."""
        return self._path


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _Finding:
    """One of pydantic's errors, at a path of the document."""

    path: KeyPath
    kind: str
    message: str
    hint: str = ""
    key: bool = False  # the key is meant, not the value
    drop: KeyPath = ()  # what to take out before the next round
    expected: str = ""  # of a mismatch of types


def validate(document: Document, model: type[M], path: KeyPath = ()) -> tuple[M | None, list[Diagnostic]]:
    """The model of the document's part at `path`, and every mistake in it, in file order.

    The model is None only when not enough is right to make one; with mistakes, what was wrong is missing from it.
    """
    part = document.tree(path).data
    pruned: set[KeyPath] = set()
    found: dict[_Finding, None] = {}
    for _ in range(_ROUNDS):
        data, origins = _without(part, pruned)
        try:
            result = model.model_validate(data)
        except ValidationError as error:
            findings = _findings(error, model, data, origins)
            # At or above what was taken out, an error may be there only because it was.
            touched = _above(pruned)
            found.update((finding, None) for finding in findings if finding.path not in touched)
            drops = {finding.drop for finding in findings} - pruned
            if () in drops or not drops:
                break
            pruned |= drops
        else:
            _set_paths(result, path, (), origins)
            return result, _diagnostics(document, path, found)
    return None, _diagnostics(document, path, found)


def _diagnostics(document: Document, path: KeyPath, findings: Iterable[_Finding]) -> list[Diagnostic]:
    return list(
        in_file_order(
            document.diagnostic((*path, *finding.path), finding.message, finding.hint, key=finding.key)
            for finding in findings
        )
    )


_Origins = dict[KeyPath, list[int]]  # path in the original data of a list that lost elements -> the indexes it kept


def _without(data: Value, pruned: set[KeyPath], path: KeyPath = ()) -> tuple[Value, _Origins]:
    """A copy of the data without the parts at those paths, and what that did to the indexes of lists."""
    if not pruned:
        return data, {}
    origins: _Origins = {}

    def copy(value: Value, path: KeyPath) -> Value:
        if isinstance(value, dict):
            return {key: copy(part, (*path, key)) for key, part in value.items() if (*path, key) not in pruned}
        if isinstance(value, list):
            kept = [index for index in range(len(value)) if (*path, index) not in pruned]
            if len(kept) < len(value):
                origins[path] = kept
            return [copy(value[index], (*path, index)) for index in kept]
        return value

    return copy(data, path), origins


def _above(paths: Iterable[KeyPath]) -> set[KeyPath]:
    """The paths and all that they lie below."""
    return {path[:length] for path in paths for length in range(len(path) + 1)}


def _findings(error: ValidationError, model: type[BaseModel], data: Value, origins: _Origins) -> list[_Finding]:
    findings: list[_Finding] = []
    for detail in error.errors(include_url=False):
        findings.append(_finding(detail, model, data, origins))
    return _join_branches(findings)


def _finding(detail: ErrorDetails, model: type[BaseModel], data: Value, origins: _Origins) -> _Finding:
    kind, loc = detail["type"], detail["loc"]
    is_key = bool(loc) and loc[-1] == "[key]"
    path = _original(_data_path(loc[:-1] if is_key else loc, data), origins)
    if kind == "extra_forbidden":
        word = str(loc[-1])
        hint = suggest(word, allowed_keys(model, loc[:-1]))
        return _Finding(path, kind, f"unknown key `{word}`", hint, key=True, drop=path)
    if kind == "missing":
        name = str(loc[-1])
        # The key that is missing names what the next round must not complain of again.
        return _Finding(path, kind, f"the key `{name}` is missing", key=True, drop=path)
    message, hint, expected = rewrite(detail)
    mismatch = expected if kind in _MISMATCHES else ""
    return _Finding(path, kind, message, hint, key=is_key, drop=path, expected=mismatch)


def _join_branches(findings: list[_Finding]) -> list[_Finding]:
    """One error where a field may be of several types and each type has complained.

    A mismatch at a path with other errors at or below it came from a branch that was not meant.
    """
    joined: list[_Finding] = []
    expected_at: dict[tuple[KeyPath, bool], list[_Finding]] = {}
    meant = _above(finding.path for finding in findings if not finding.expected)
    meant |= _above(finding.path[:-1] for finding in findings if finding.path)
    for finding in findings:
        if not finding.expected:
            joined.append(finding)
        elif finding.path not in meant:
            expected_at.setdefault((finding.path, finding.key), []).append(finding)
    for group in expected_at.values():
        first = group[0]
        choices = list(dict.fromkeys(finding.expected for finding in group))
        if len(choices) > 1:
            got = first.message.rpartition(", got ")[2]
            message = f"expected {', '.join(choices[:-1])} or {choices[-1]}, got {got}"
            first = _Finding(first.path, first.kind, message, key=first.key, drop=first.drop, expected=message)
        joined.append(first)
    return joined


def _data_path(loc: Sequence[str | int], data: Value) -> KeyPath:
    """The part of pydantic's path that exists in the data: it also names branches of unions, which are left out."""
    best: KeyPath = ()
    best_rank = (-1, False)

    def follow(index: int, value: Value, path: KeyPath, last_used: bool) -> None:
        nonlocal best, best_rank
        if index == len(loc):
            if (len(path), last_used) > best_rank:
                best, best_rank = path, (len(path), last_used)
            return
        element = loc[index]
        if isinstance(value, dict) and isinstance(element, str) and element in value:
            follow(index + 1, value[element], (*path, element), True)
        elif isinstance(value, list) and isinstance(element, int) and 0 <= element < len(value):
            follow(index + 1, value[element], (*path, element), True)
            return
        follow(index + 1, value, path, False)

    follow(0, data, (), False)
    return best


def _original(path: KeyPath, origins: _Origins) -> KeyPath:
    original: KeyPath = ()
    for element in path:
        if isinstance(element, int) and original in origins:
            element = origins[original][element]
        original = (*original, element)
    return original


def _set_paths(value: object, base: KeyPath, path: KeyPath, origins: _Origins) -> None:
    """Tell every FileModel in the value where it came from; `path` is relative to `base`, both in the document."""
    if isinstance(value, FileModel):
        value._path = (*base, *path)
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            _set_paths(getattr(value, name), base, (*path, field.alias or name), origins)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _set_paths(part, base, (*path, str(key)), origins)
    elif isinstance(value, list | tuple):
        kept = origins.get(path)
        for index, part in enumerate(value):
            original = kept[index] if kept is not None and index < len(kept) else index
            _set_paths(part, base, (*path, original), origins)


__all__ = ["FileModel", "describe", "validate"]
