"""Declarations of the mappings in a file: read with every mistake reported, and turned into JSON Schema.

::

    class Ready(Shape):
        '''How a program shows that it is ready.'''

        listening = optional(Parsed(parse_listening), "A socket that listens: tcp/8000.")
        line = optional(REGEX, "A regular expression that a line of its output matches.")

        RULES = (ExactlyOne("listening", "line"),)

        def problem(self) -> str: ...     # what is wrong with the values together, or ""

One declaration serves both validators: a mistake that JSON Schema can express is marked `in_schema`, and a test holds
that a document has such a mistake exactly when its published schema refuses the document.

In a scenario, a string with `${name}` in it may stand where a number, a duration or the like is required: it passes
untouched when the file is loaded, and is read again, with `final`, after the variables were substituted.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, overload

from labctl.documents.diagnostics import Hint, Mistake, describe, suggestion
from labctl.patterns import check_pattern
from labctl.structs import Struct, field

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)
S = TypeVar("S", bound="Shape")

KeyPath = tuple[str | int, ...]
Schema = dict[str, Any]
_REQUIRED: Any = object()
# `${name}`, but not `$${`, which stands for a literal `${` (labctl.scenario.variables).
_TEMPLATE: Schema = {"type": "string", "pattern": r"(^|[^$])\$\{[^{}\n]*\}"}
_TEMPLATE_FORM = re.compile(_TEMPLATE["pattern"])
_WHOLE_FORM = r"^\s*-?[0-9]{1,19}\s*$"
_DURATION_UNITS = "ns|us|µs|ms|s|min|m|h"
_DURATION_FORM = rf"^\s*(([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*({_DURATION_UNITS})\s*)+$|^0$"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, at a path of the document; `key` when the key is meant and not its value.

    `in_schema`: whether the JSON Schema refuses it, too.
    """

    path: KeyPath
    message: str
    hint: Hint = dataclasses.field(default="", compare=False)
    key: bool = False
    in_schema: bool = True

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        return f"{where}: {self.message}" if where else self.message


def is_template(value: object) -> bool:
    """Whether `value` is a text with `${name}` in it: it gets its meaning only when the step is run."""
    return isinstance(value, str) and "${" in value and _TEMPLATE_FORM.search(value) is not None


class Unusable(Exception):
    """The value cannot be used at all; the reason was noted."""


class Reading(Struct):
    """One reading: `final` where a text with `${name}` in it is a text like any other, and the mistakes so far."""

    final: bool = False
    problems: list[Problem] = field(default_factory=list)

    def wrong(
        self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False, in_schema: bool = True
    ) -> Unusable:
        """Notes a mistake; to be raised where nothing can be made of the value."""
        self.problems.append(Problem(path, message, hint, key, in_schema))
        return Unusable()

    def is_open(self, value: object) -> bool:
        """Whether the value is decided only when the step is run."""
        return not self.final and is_template(value)


class Schemas(Struct, frozen=True):
    """The JSON Schemas of shapes, by name; `templates`: whether `${name}` may stand for a value in them."""

    definitions: dict[str, Schema] = field(default_factory=dict)
    templates: bool = False

    def or_template(self, *schemas: Schema) -> Schema:
        """What fits one of the schemas or, where that may be, is decided only when the step is run."""
        choices = [*schemas, dict(_TEMPLATE)] if self.templates else list(schemas)
        return choices[0] if len(choices) == 1 else {"anyOf": choices}


class Reader(Protocol[T_co]):
    """Reads one kind of value."""

    def read(self, value: object, at: Reading, path: KeyPath) -> T_co:
        """The value; Unusable, with the reason noted, when it is none."""
        ...

    def schema(self, into: Schemas) -> Schema:
        """Its JSON Schema; the shapes in it are put into the definitions."""
        ...


class Text:
    """A text; a number is taken as it would be printed, unless `strict`."""

    def __init__(self, *, at_least: int = 0, strict: bool = False) -> None:
        self._at_least = at_least
        self._strict = strict

    def read(self, value: object, at: Reading, path: KeyPath) -> str:
        if isinstance(value, bool) or not isinstance(value, str if self._strict else str | int | float):
            quoted = isinstance(value, bool | int | float)
            shown = str(value).lower() if isinstance(value, bool) else value
            raise at.wrong(
                path, f"expected text, got {describe(value)}", f'put it in quotes: "{shown}"' if quoted else ""
            )
        text = str(value)
        if len(text) < self._at_least:
            raise at.wrong(path, "must not be empty")
        return text

    def schema(self, into: Schemas) -> Schema:
        text: Schema = {"type": "string" if self._strict else ["string", "number"]}
        return {**text, "minLength": self._at_least} if self._at_least else text


class Parsed:
    """A text that `parse` accepts; the text itself is the value. `parse` raises ValueError (or Mistake)."""

    def __init__(self, parse: Callable[[str], object]) -> None:
        self._parse = parse

    def read(self, value: object, at: Reading, path: KeyPath) -> str:
        text = TEXT.read(value, at, path)
        if not at.is_open(text):
            try:
                self._parse(text)
            except ValueError as error:
                hint = error.what_to_try if isinstance(error, Mistake) else ""
                raise at.wrong(path, str(error), hint, in_schema=False) from error
        return text

    def schema(self, into: Schemas) -> Schema:
        return TEXT.schema(into)


class Duration:
    """`200ms`, `2s`, `1m`: the value is seconds."""

    def read(self, value: object, at: Reading, path: KeyPath) -> float:
        from labctl.units import duration_s

        if at.is_open(value):
            return cast(float, value)
        try:
            return duration_s(value)
        except ValueError as error:
            has_form = isinstance(value, str) and re.search(_DURATION_FORM, value) is not None
            raise at.wrong(path, str(error), in_schema=not has_form) from error

    def schema(self, into: Schemas) -> Schema:
        return into.or_template({"type": "string", "pattern": _DURATION_FORM}, {"const": 0})


class Whole:
    """A whole number within bounds."""

    def __init__(self, at_least: int | None = None, at_most: int | None = None) -> None:
        self._at_least = at_least
        self._at_most = at_most

    def read(self, value: object, at: Reading, path: KeyPath) -> int:
        if at.is_open(value):
            return cast(int, value)
        number = _whole(value)
        if number is None:
            raise at.wrong(path, f"expected a whole number, got {describe(value)}")
        written = not isinstance(value, str)  # JSON Schema has no bounds for numbers that are written as a text
        if self._at_least is not None and number < self._at_least:
            raise at.wrong(path, f"must be at least {self._at_least}, got {describe(value)}", in_schema=written)
        if self._at_most is not None and number > self._at_most:
            raise at.wrong(path, f"must be at most {self._at_most}, got {describe(value)}", in_schema=written)
        return number

    def schema(self, into: Schemas) -> Schema:
        whole: Schema = {"type": "integer"}
        if self._at_least is not None:
            whole["minimum"] = self._at_least
        if self._at_most is not None:
            whole["maximum"] = self._at_most
        return into.or_template(whole, {"type": "string", "pattern": _WHOLE_FORM})


class Flag:
    """True or false."""

    def read(self, value: object, at: Reading, path: KeyPath) -> bool:
        if at.is_open(value):
            return cast(bool, value)
        known = {"true": True, "false": False}.get(value) if isinstance(value, str) else value
        if not isinstance(known, bool):
            raise at.wrong(path, f"expected true or false, got {describe(value)}")
        return known

    def schema(self, into: Schemas) -> Schema:
        return into.or_template({"type": "boolean"}, {"enum": ["true", "false"]})


class OneOf(Generic[E]):
    """One of the values of an enumeration."""

    def __init__(self, choices: type[E]) -> None:
        self._choices = choices

    def read(self, value: object, at: Reading, path: KeyPath) -> E:
        if at.is_open(value):
            return cast(E, value)
        words = [choice.value for choice in self._choices]
        if not isinstance(value, str) or value not in words:
            hint = suggestion(value, words, near_only=True) if isinstance(value, str) else ""
            raise at.wrong(path, f"expected one of {', '.join(words)}, got {describe(value)}", hint)
        return self._choices(value)

    def schema(self, into: Schemas) -> Schema:
        return into.or_template({"type": "string", "enum": [choice.value for choice in self._choices]})


class OrFalse:
    """A text, or false for none; `what` it is, for the message."""

    def __init__(self, what: str) -> None:
        self._what = what

    def read(self, value: object, at: Reading, path: KeyPath) -> str | bool:
        if value is False or isinstance(value, str):
            return value
        hint = "leave it out to have one given" if value is True else ""
        raise at.wrong(path, f"expected {self._what}, or false; got {describe(value)}", hint)

    def schema(self, into: Schemas) -> Schema:
        return {"anyOf": [{"type": "string"}, {"const": False}]}


class ListOf(Generic[T]):
    """A list of so many; with `or_one`, one element may stand for a list of one.

    `fix_for_text` is what to try where a text stands in place of the list.
    """

    def __init__(
        self,
        of: Reader[T],
        at_least: int = 0,
        at_most: int | None = None,
        *,
        or_one: bool = False,
        fix_for_text: str = "",
    ) -> None:
        self._of = of
        self._at_least = at_least
        self._at_most = at_most
        self._or_one = or_one
        self._fix_for_text = fix_for_text

    def read(self, value: object, at: Reading, path: KeyPath) -> list[T]:
        if self._or_one and not isinstance(value, list) and value is not None:
            return [self._of.read(value, at, path)]
        if not isinstance(value, list):
            hint = self._fix_for_text if isinstance(value, str) else ""
            raise at.wrong(path, f"expected a list, got {describe(value)}", hint)
        self._count(len(value), at, path)
        values: list[T] = []
        for index, part in enumerate(value):
            try:
                values.append(self._of.read(part, at, (*path, index)))
            except Unusable:
                continue  # noted; the others are looked at all the same
        # Elements that know their place can do without their neighbours; the place of others is their index.
        if len(values) < (self._at_least if isinstance(self._of, Of | TextOr | Placed) else len(value)):
            raise Unusable
        return values

    def schema(self, into: Schemas) -> Schema:
        of = self._of.schema(into)
        many: Schema = {"type": "array", "items": of}
        if self._at_least:
            many["minItems"] = self._at_least
        if self._at_most is not None:
            many["maxItems"] = self._at_most
        # A list is the list, also where one of it may be written as a list: `exec: [ls, /tmp]` is two commands.
        return {"anyOf": [{"not": {"type": "array"}, **of}, many]} if self._or_one else many

    def _count(self, count: int, at: Reading, path: KeyPath) -> None:
        entries = f"has {count} {'entry' if count == 1 else 'entries'}, must have"
        if self._at_least == self._at_most != count:
            raise at.wrong(path, f"{entries} {self._at_least}")
        if count < self._at_least:
            raise at.wrong(path, f"{entries} at least {self._at_least}")
        if self._at_most is not None and count > self._at_most:
            raise at.wrong(path, f"{entries} at most {self._at_most}")


class MapOf(Generic[T]):
    """A mapping of names to values of one kind."""

    def __init__(self, of: Reader[T]) -> None:
        self._of = of

    def read(self, value: object, at: Reading, path: KeyPath) -> dict[str, T]:
        if not isinstance(value, dict):
            raise at.wrong(path, f"expected a mapping, got {describe(value)}")
        values: dict[str, T] = {}
        for key, part in value.items():
            try:
                values[key] = self._of.read(part, at, (*path, key))
            except Unusable:
                continue  # noted
        return values

    def schema(self, into: Schemas) -> Schema:
        return {"type": "object", "additionalProperties": self._of.schema(into)}


class Anything:
    """Any value."""

    def read(self, value: object, at: Reading, path: KeyPath) -> Any:
        return value

    def schema(self, into: Schemas) -> Schema:
        return {}


class Scalar:
    """A text or a number, as it stands in the file; true and false too, unless they are excluded."""

    def __init__(self, *, flags: bool = True) -> None:
        self._flags = flags

    def read(self, value: object, at: Reading, path: KeyPath) -> str | int | float | bool:
        if not isinstance(value, str | int | float) or (isinstance(value, bool) and not self._flags):
            raise at.wrong(path, f"expected a text or a number, got {describe(value)}")
        return value

    def schema(self, into: Schemas) -> Schema:
        return {"type": ["string", "number", "boolean"] if self._flags else ["string", "number"]}


class Of(Generic[S]):
    """A mapping of a shape.

    `short` is the key that a bare text or number stands for, or the key by type of the bare value; `otherwise` is
    raised for every other value. With `or_nothing`, a key with nothing behind it stands for an empty mapping.
    """

    def __init__(
        self,
        shape: type[S],
        short: str | Mapping[type, str] = "",
        *,
        otherwise: Mistake | None = None,
        or_nothing: bool = False,
    ) -> None:
        self._shape = shape
        self._short = dict.fromkeys((str, int, float), short) if isinstance(short, str) else short
        self._otherwise = otherwise
        self._or_nothing = or_nothing

    def read(self, value: object, at: Reading, path: KeyPath) -> S:
        if short := self._short.get(type(value)):
            return self._shape({short: self._shape.KEYS[short].reader.read(value, at, path)}, path)
        if value is None and self._or_nothing:
            return self._shape({}, path)
        if self._otherwise is not None and not isinstance(value, dict):
            raise at.wrong(path, str(self._otherwise), self._otherwise.what_to_try)
        return self._shape.read(value, at, path)

    def schema(self, into: Schemas) -> Schema:
        keys = dict.fromkeys(key for key in self._short.values() if key)
        choices = [*(self._shape.KEYS[key].reader.schema(into) for key in keys), self._shape.schema(into)]
        if self._or_nothing:
            choices.append({"type": "null"})
        return choices[0] if len(choices) == 1 else {"anyOf": choices}


class PlacedText(Struct, frozen=True):
    """A text, and where its document has it."""

    text: str
    at_path: KeyPath


class Placed:
    """A text that keeps its place."""

    def __init__(self, of: Reader[str]) -> None:
        self._of = of

    def read(self, value: object, at: Reading, path: KeyPath) -> PlacedText:
        return PlacedText(self._of.read(value, at, path), path)

    def schema(self, into: Schemas) -> Schema:
        return self._of.schema(into)


class TextOr(Generic[T]):
    """A text in place of a mapping (a number is taken for one), or the mapping; `otherwise` is for the rest."""

    def __init__(self, long: Reader[T], otherwise: Mistake) -> None:
        self._long = long
        self._otherwise = otherwise

    def read(self, value: object, at: Reading, path: KeyPath) -> PlacedText | T:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return PlacedText(str(value), path)
        if not isinstance(value, dict):
            raise at.wrong(path, str(self._otherwise), self._otherwise.what_to_try)
        return self._long.read(value, at, path)

    def schema(self, into: Schemas) -> Schema:
        return {"anyOf": [TEXT.schema(into), self._long.schema(into)]}


class Key(Generic[T]):
    """A key of a shape: how its value is read, what it is when it is not given, and what it means."""

    def __init__(self, reader: Reader[T], default: T, about: str, name: str) -> None:
        self.reader = reader
        self.default = default
        self.about = about
        self.name = name  # in the file

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    def takes_nothing(self, value: object) -> bool:
        """Whether the value is `key:` with nothing behind it, which is as if the key were not given."""
        return value is None and not self.required and not isinstance(self.reader, Anything)

    def schema(self, into: Schemas) -> Schema:
        """The JSON Schema of its value, with what it means."""
        schema = self.reader.schema(into)
        if not self.required:
            schema = _or_null(schema)
            if isinstance(self.default, str | int) and self.default != "":
                schema["default"] = self.default
        return {**schema, "description": self.about}

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Shape, owner: type) -> T: ...
    def __get__(self, instance: Shape | None, owner: type) -> Self | T:
        return self if instance is None else instance.values.get(self.name, self.default)

    def __set__(self, instance: Shape, value: T) -> None:
        raise AttributeError(f"{self.name} cannot be changed")


def required(reader: Reader[T], about: str, *, name: str = "") -> Key[T]:
    """A key that must be given; `name` is its name in the file where Python does not allow it."""
    return Key(reader, _REQUIRED, about, name)


def optional(reader: Reader[T], about: str, *, name: str = "") -> Key[T | None]:
    """A key that is None when it is not given."""
    return Key(cast("Reader[T | None]", reader), None, about, name)


def defaulted(reader: Reader[T], default: T, about: str, *, name: str = "") -> Key[T]:
    """A key with a value of its own when it is not given."""
    return Key(reader, default, about, name)


class Rule(Protocol):
    """What holds between the keys of a mapping."""

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        """What is wrong with the keys that are given, and the key that it is wrong with; "" for neither."""
        ...

    def schema(self) -> Schema:
        """The same in JSON Schema."""
        ...


@dataclass(frozen=True, slots=True, init=False)
class ExactlyOne:
    """One of the keys, and no other of them."""

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        there = [name for name in self.names if name in given]
        if len(there) == 1:
            return "", ""
        *most, last = [f"`{name}`" for name in there or self.names]
        return f"{'takes only one of' if there else 'needs'} {', '.join(most)} or {last}", ""

    def schema(self) -> Schema:
        return {"oneOf": [_given(name) for name in self.names]}


class Needs(Struct, frozen=True):
    """One of the keys `wanted`, wherever one of the keys `where` is given; always, when there are none of these."""

    wanted: tuple[str, ...]
    message: str
    where: tuple[str, ...] = ()

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        is_wanted = not self.where or any(name in given for name in self.where)
        return (self.message if is_wanted and not any(name in given for name in self.wanted) else ""), ""

    def schema(self) -> Schema:
        wanted = _any_given(self.wanted)
        return {"if": _any_given(self.where), "then": wanted} if self.where else wanted


class Excludes(Struct, frozen=True):
    """The key `one` beside any of the keys `others`."""

    one: str
    others: tuple[str, ...]
    message: str

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        return (
            (self.message, self.one) if self.one in given and any(name in given for name in self.others) else ("", "")
        )

    def schema(self) -> Schema:
        return {"not": {"allOf": [_given(self.one), _any_given(self.others)]}}


class OnlyWith(Struct, frozen=True):
    """The key `one` only where `other` has one of these values."""

    one: str
    other: str
    values: tuple[str, ...]
    message: str

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        return (self.message, self.one) if self.one in given and given.get(self.other) not in self.values else ("", "")

    def schema(self) -> Schema:
        has_value = {"required": [self.other], "properties": {self.other: {"enum": list(self.values)}}}
        return {"if": _given(self.one), "then": has_value}


class Shape:
    """A mapping that was read; subclasses declare its keys. Immutable."""

    KEYS: ClassVar[Mapping[str, Key[Any]]] = {}
    RULES: ClassVar[tuple[Rule, ...]] = ()

    def __init__(self, values: Mapping[str, Any], path: KeyPath = ()) -> None:
        self.values = values  # those given, by their names in the file
        self.at_path = path  # where its document has it, for `Document.position` and `Document.diagnostic`

    def __init_subclass__(cls) -> None:
        own = {key.name: key for key in vars(cls).values() if isinstance(key, Key)}
        cls.KEYS = {**cls.KEYS, **own}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and type(self) is type(other) and self.values == other.values

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.values)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"

    @property
    def given(self) -> frozenset[str]:
        """The names of the keys that stand in the file."""
        return frozenset(self.values)

    def problem(self) -> str:
        """What is wrong with the values together that no schema can express, or ""."""
        return ""

    @classmethod
    def read(cls, value: object, at: Reading, path: KeyPath = ()) -> Self:
        """The shape that the mapping has, without what is wrong in it. Unusable when nothing can be made of it."""
        if not isinstance(value, dict):
            raise at.wrong(path, f"expected a mapping, got {describe(value)}")
        for name, key in cls.KEYS.items():
            if key.required and name not in value:
                at.wrong((*path, name), f"the key `{name}` is missing", key=True)
        keys = cls.KEYS
        given = {name: part for name, part in value.items() if name not in keys or not keys[name].takes_nothing(part)}
        values: dict[str, Any] = {}
        known = True
        for name, part in given.items():
            if name not in cls.KEYS:
                hint = "a text with a colon in it needs quotes" if " " in name else suggestion(name, cls.KEYS)
                at.wrong((*path, name), f"unknown key `{name}`", hint, key=True)
                known = False
                continue
            try:
                values[name] = cls.KEYS[name].reader.read(part, at, (*path, name))
            except Unusable:
                continue  # noted
        for rule in cls.RULES if known else ():
            message, one = rule.problem(given)
            if message:
                at.wrong((*path, one) if one else path, message)
                break
        if any(key.required and name not in values for name, key in cls.KEYS.items()):
            raise Unusable
        shape = cls(values, path)
        if len(values) == len(given) and (wrong := shape.problem()):
            at.wrong(path, wrong, in_schema=False)
        return shape

    @classmethod
    def schema(cls, into: Schemas) -> Schema:
        """A reference to its JSON Schema, which is put into the definitions."""
        name = cls.__name__.removeprefix("_")
        if name not in into.definitions:
            whole: Schema = {"type": "object"}
            into.definitions[name] = whole  # first of all: a shape may hold itself
            if cls.__doc__:
                whole["description"] = cls.__doc__
            whole["properties"] = {name: key.schema(into) for name, key in cls.KEYS.items()}
            needed = [name for name, key in cls.KEYS.items() if key.required]
            if needed:
                whole["required"] = needed
            if cls.RULES:
                whole["allOf"] = [rule.schema() for rule in cls.RULES]
            whole["additionalProperties"] = False
        return {"$ref": f"#/$defs/{name}"}


TEXT = Text()
STRICT_TEXT = Text(strict=True)


REGEX = Parsed(check_pattern)


def _given(name: str) -> Schema:
    """That the key stands in the file with something behind it."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _any_given(names: Iterable[str]) -> Schema:
    choices = [_given(name) for name in names]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _or_null(schema: Schema) -> Schema:
    """The schema that accepts null as well."""
    if not schema:
        return {}
    if "anyOf" in schema:
        choices = [*schema["anyOf"]]
        return {**schema, "anyOf": choices if {"type": "null"} in choices else [*choices, {"type": "null"}]}
    if "type" in schema and not {"enum", "const", "pattern"} & set(schema):
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**schema, "type": [*types, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return int(value) if re.search(_WHOLE_FORM, value) else None
