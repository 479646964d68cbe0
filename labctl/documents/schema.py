"""Declare the mappings of a file once: for the reader that reports all mistakes, and for the JSON Schema.

::

    class Ready(Shape):
        '''The condition under which a program is ready.'''

        listening = optional(Parsed(parse_listening), "A listening socket: tcp/8000.")
        line = optional(REGEX, "A regular expression that matches a line of its output.")

        RULES = (ExactlyOne("listening", "line"),)

        def problem(self) -> str: ...     # the reason why the values do not fit together, or ""

A mistake that JSON Schema can express is marked `in_schema`: a document has such a mistake if and only if the published
schema refuses it.

In a scenario, a text with `${name}` in it may replace a number, a duration and the like: reading a file leaves it as it
is, and a second reading, with `final`, follows after the substitution of variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, overload

from labctl.documents.diagnostics import Hint, Mistake, describe, suggest, suggestion
from labctl.patterns import check_pattern
from labctl.structs import Struct, field

T = TypeVar("T")
U = TypeVar("U")
T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)
S = TypeVar("S", bound="Shape")

KeyPath = tuple[str | int, ...]
Schema = dict[str, Any]
_LISTED = 12  # keys, at most, that a message lists beside the parts of a file that have an unknown one
_REQUIRED: Any = object()
# `${name}`, but not `$${`, which stands for a literal `${` (labctl.scenario.state).
_TEMPLATE: Schema = {"type": "string", "pattern": r"(^|[^$])\$\{[^{}\n]*\}"}
_TEMPLATE_FORM = _TEMPLATE["pattern"]
_WHOLE_FORM = r"^\s*-?[0-9]{1,19}\s*$"
_DURATION_UNITS = "ns|us|µs|ms|s|min|m|h"
_DURATION_FORM = rf"^\s*(([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*({_DURATION_UNITS})\s*)+$|^0$"


class Problem(Struct, frozen=True):
    """A mistake at a path of the document, or, with `key`, at the key there.

    `in_schema`: whether the JSON Schema refuses it, too.
    """

    path: KeyPath
    message: str
    hint: Hint = ""
    key: bool = False
    in_schema: bool = True

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        return f"{where}: {self.message}" if where else self.message


def is_template(value: object) -> bool:
    """Return whether `value` is a text with `${name}` in it, which is replaced when the step runs."""
    return isinstance(value, str) and "${" in value and re.search(_TEMPLATE_FORM, value) is not None


class Unusable(Exception):
    """The value cannot be used; the reason is among the problems."""


class Reading(Struct):
    """The mistakes of one reading; `final`: variables are substituted, so `${name}` is ordinary text."""

    final: bool = False
    problems: list[Problem] = field(default_factory=list)

    def wrong(
        self, path: KeyPath, message: str, hint: Hint = "", *, key: bool = False, in_schema: bool = True
    ) -> Unusable:
        """Add a mistake; the caller raises the result if it cannot use the value."""
        self.problems.append(Problem(path, message, hint, key, in_schema))
        return Unusable()

    def is_open(self, value: object) -> bool:
        """Return whether the value is known only when the step runs."""
        return not self.final and is_template(value)


class Schemas(Struct, frozen=True):
    """The JSON Schemas of shapes, by name; `templates`: whether `${name}` may replace a value in them."""

    definitions: dict[str, Schema] = field(default_factory=dict)
    templates: bool = False

    def or_template(self, *schemas: Schema) -> Schema:
        """Return a schema that accepts any of the schemas, and `${name}` where that is allowed."""
        choices = [*schemas, dict(_TEMPLATE)] if self.templates else list(schemas)
        return choices[0] if len(choices) == 1 else {"anyOf": choices}


class Reader(Protocol[T_co]):
    """Reads one kind of value."""

    def read(self, value: object, at: Reading, path: KeyPath) -> T_co:
        """Return the value. Raises Unusable, with the reason among the problems."""
        ...

    def schema(self, into: Schemas) -> Schema:
        """Return its JSON Schema; add shapes in it to the definitions."""
        ...


class Text:
    """A text; a number becomes its text, unless `strict`."""

    def __init__(self, *, at_least: int = 0, strict: bool = False) -> None:
        self._at_least = at_least
        self._strict = strict

    def read(self, value: object, at: Reading, path: KeyPath) -> str:
        if isinstance(value, bool) or not isinstance(value, str if self._strict else str | int | float):
            shown = str(value).lower() if isinstance(value, bool) else value
            hint = f'put it in quotes: "{shown}"' if isinstance(value, bool | int | float) else ""
            raise at.wrong(path, f"expected text, got {describe(value)}", hint)
        text = str(value)
        if len(text) < self._at_least:
            raise at.wrong(path, "must not be empty")
        return text

    def schema(self, into: Schemas) -> Schema:
        text: Schema = {"type": "string" if self._strict else ["string", "number"]}
        return {**text, "minLength": self._at_least} if self._at_least else text


class Parsed:
    """A text that `parse` accepts; the value is the text itself. `parse` raises ValueError (or Mistake)."""

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
    """A whole number within bounds. `fix` is the hint for every other value."""

    def __init__(self, at_least: int | None = None, at_most: int | None = None, *, fix: str = "") -> None:
        self._at_least = at_least
        self._at_most = at_most
        self._fix = fix

    def read(self, value: object, at: Reading, path: KeyPath) -> int:
        if at.is_open(value):
            return cast(int, value)
        number = _whole(value)
        if number is None:
            raise at.wrong(path, f"expected a whole number, got {describe(value)}", self._fix)
        in_schema = not isinstance(value, str)  # JSON Schema has no bounds for a number written as a text
        if self._at_least is not None and number < self._at_least:
            raise at.wrong(path, f"must be at least {self._at_least}, got {describe(value)}", in_schema=in_schema)
        if self._at_most is not None and number > self._at_most:
            raise at.wrong(path, f"must be at most {self._at_most}, got {describe(value)}", in_schema=in_schema)
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
    """A text, or false for none; `what` describes the text in messages."""

    def __init__(self, what: str) -> None:
        self._what = what

    def read(self, value: object, at: Reading, path: KeyPath) -> str | bool:
        if value is False or isinstance(value, str):
            return value
        hint = "omit the key for an automatic one" if value is True else ""
        raise at.wrong(path, f"expected {self._what}, or false, got {describe(value)}", hint)

    def schema(self, into: Schemas) -> Schema:
        return {"anyOf": [{"type": "string"}, {"const": False}]}


class ListOf(Generic[T]):
    """A list; with `or_one`, one element may stand for a list of one.

    `fix_for_text` is the hint for a text instead, `fix_for_mapping` that for a mapping.
    """

    def __init__(
        self,
        of: Reader[T],
        at_least: int = 0,
        at_most: int | None = None,
        *,
        or_one: bool = False,
        fix_for_text: str = "",
        fix_for_mapping: str = "begin each entry with `- `",
    ) -> None:
        self._of = of
        self._at_least = at_least
        self._at_most = at_most
        self._or_one = or_one
        self._fix_for_text = fix_for_text
        self._fix_for_mapping = fix_for_mapping

    def read(self, value: object, at: Reading, path: KeyPath) -> list[T]:
        if self._or_one and not isinstance(value, list) and value is not None:
            return [self._of.read(value, at, path)]
        if not isinstance(value, list):
            hint = self._fix_for_mapping if isinstance(value, dict) else ""
            if isinstance(value, str | int | float):
                hint = self._fix_for_text or f"write a list: [{value}]"
            raise at.wrong(path, f"expected a list, got {describe(value)}", hint)
        self._count(len(value), at, path)
        values: list[T] = []
        for index, part in enumerate(value):
            try:
                values.append(self._of.read(part, at, (*path, index)))
            except Unusable:
                continue  # read the other elements all the same
        # Elements with a path of their own remain valid without their neighbours; the path of others is their index.
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
        # A list is always the list, even if an element may be a list, too: `exec: [ls, /tmp]` is two commands.
        return {"anyOf": [{"not": {"type": "array"}, **of}, many]} if self._or_one else many

    def _count(self, count: int, at: Reading, path: KeyPath) -> None:
        if count < self._at_least or (self._at_most is not None and count > self._at_most):
            limit = self._at_least if count < self._at_least else self._at_most
            how = "" if self._at_least == self._at_most else "at least " if count < self._at_least else "at most "
            raise at.wrong(path, f"expected {how}{limit} {'entry' if limit == 1 else 'entries'}, got {count}")


class OrList(Generic[T, U]):
    """A value, or a list; `otherwise` is the mistake for a mapping, and for a text of several words."""

    def __init__(self, one: Reader[T], several: Reader[list[U]], otherwise: Mistake | None = None) -> None:
        self._one = one
        self._several = several
        self._otherwise = otherwise

    def read(self, value: object, at: Reading, path: KeyPath) -> T | list[U]:
        is_otherwise = isinstance(value, dict) or (isinstance(value, str) and " " in value and not at.is_open(value))
        if is_otherwise and self._otherwise is not None:
            raise at.wrong(path, str(self._otherwise), self._otherwise.what_to_try)
        return self._several.read(value, at, path) if isinstance(value, list) else self._one.read(value, at, path)

    def schema(self, into: Schemas) -> Schema:
        one, several = self._one.schema(into), self._several.schema(into)
        return {"anyOf": [*(one["anyOf"] if set(one) == {"anyOf"} else [one]), several]}


class MapOf(Generic[T]):
    """A mapping of names to values of one kind."""

    def __init__(self, of: Reader[T]) -> None:
        self._of = of

    def read(self, value: object, at: Reading, path: KeyPath) -> dict[str, T]:
        if not isinstance(value, dict):
            hint = "write each name as a key, `NAME: ...`, without `- `" if isinstance(value, list) else ""
            raise at.wrong(path, f"expected a mapping, got {describe(value)}", hint)
        values: dict[str, T] = {}
        for key, part in value.items():
            try:
                values[key] = self._of.read(part, at, (*path, key))
            except Unusable:
                continue
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
    """A text or a number, unchanged; with `flags`, also true and false."""

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

    `short` is the key that a bare text or number stands for, or the key by type of the bare value; `otherwise` is the
    mistake for every other value. With `or_nothing`, a key without a value stands for an empty mapping.
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


class PlacedText(Struct, frozen=True, gc=False):
    """A text and its path in the document."""

    text: str
    at_path: KeyPath


class Placed:
    """A text that keeps its path."""

    def __init__(self, of: Reader[str]) -> None:
        self._of = of

    def read(self, value: object, at: Reading, path: KeyPath) -> PlacedText:
        return PlacedText(self._of.read(value, at, path), path)

    def schema(self, into: Schemas) -> Schema:
        return self._of.schema(into)


class TextOr(Generic[T]):
    """A text (or number), or a mapping; `otherwise` is the mistake for every other value."""

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
    """A key of a shape: the reader of its value, the default, and the description."""

    def __init__(self, reader: Reader[T], default: T, about: str, name: str) -> None:
        self.reader = reader
        self.default = default
        self.about = about
        self.name = name  # in the file

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    def takes_nothing(self, value: object) -> bool:
        """Return whether the value is that of `key:` alone, which equals a missing key."""
        return value is None and not self.required and not isinstance(self.reader, Anything)

    def schema(self, into: Schemas) -> Schema:
        """Return the JSON Schema of its value, with the description."""
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
    """Declare a required key; `name` is its name in the file if Python does not allow that name."""
    return Key(reader, _REQUIRED, about, name)


def optional(reader: Reader[T], about: str, *, name: str = "") -> Key[T | None]:
    """Declare a key whose default is None."""
    return Key(cast("Reader[T | None]", reader), None, about, name)


def defaulted(reader: Reader[T], default: T, about: str, *, name: str = "") -> Key[T]:
    """Declare a key with a default."""
    return Key(reader, default, about, name)


class Rule(Protocol):
    """A condition on the keys of a mapping."""

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        """Return the mistake in the given keys, and the key that it is about; "" for neither."""
        ...

    def schema(self) -> Schema:
        """Return the condition in JSON Schema."""
        ...


class ExactlyOne:
    """Requires exactly one of the keys."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        present = [name for name in self.names if name in given]
        if len(present) == 1:
            return "", ""
        *most, last = [f"`{name}`" for name in present or self.names]
        return f"{'takes only one of' if present else 'needs'} {', '.join(most)} or {last}", ""

    def schema(self) -> Schema:
        return {"oneOf": [_given(name) for name in self.names]}


class Needs(Struct, frozen=True):
    """Requires one of the keys `wanted` beside any of the keys `where`; always, if `where` is empty."""

    wanted: tuple[str, ...]
    message: str
    where: tuple[str, ...] = ()

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        applies = not self.where or any(name in given for name in self.where)
        return (self.message if applies and not any(name in given for name in self.wanted) else ""), ""

    def schema(self) -> Schema:
        wanted = _any_given(self.wanted)
        return {"if": _any_given(self.where), "then": wanted} if self.where else wanted


class Excludes(Struct, frozen=True):
    """Refuses the key `one` beside any of the keys `others`."""

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
    """Allows the key `one` only if `other` has one of these values."""

    one: str
    other: str
    values: tuple[str, ...]
    message: str

    def problem(self, given: Mapping[str, object]) -> tuple[str, str]:
        return (self.message, self.one) if self.one in given and given.get(self.other) not in self.values else ("", "")

    def schema(self) -> Schema:
        has_value = {"required": [self.other], "properties": {self.other: {"enum": list(self.values)}}}
        return {"if": _given(self.one), "then": has_value}


def _places_of(key: str, shape: type[Shape]) -> Iterator[str]:
    """The names of the shapes below this one that have the key."""
    for each in shape.__subclasses__():
        if key in each.KEYS and (name := vars(each).get("PLURAL")):
            yield name
        yield from _places_of(key, each)


def _key_above(unknown: str, beside: Mapping[str, object], known: Collection[str]) -> str:
    """Return the last known key before the unknown one; "" if there is none."""
    names = list(beside)
    return next((name for name in reversed(names[: names.index(unknown)]) if name in known), "")


class Shape:
    """A parsed mapping; subclasses declare its keys. Immutable."""

    KEYS: ClassVar[Mapping[str, Key[Any]]] = {}
    REQUIRED: ClassVar[tuple[str, ...]] = ()
    RULES: ClassVar[tuple[Rule, ...]] = ()
    PLURAL: ClassVar[str] = ""  # what messages call several of them

    def __init__(self, values: Mapping[str, Any], path: KeyPath = ()) -> None:
        self.values = values  # of the given keys, by their names in the file
        self.at_path = path  # in its document

    def __init_subclass__(cls) -> None:
        own = {key.name: key for key in vars(cls).values() if isinstance(key, Key)}
        cls.KEYS = {**cls.KEYS, **own}
        cls.REQUIRED = tuple(name for name, key in cls.KEYS.items() if key.required)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and type(self) is type(other) and self.values == other.values

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.values)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"

    @property
    def given(self) -> frozenset[str]:
        """The names of the keys in the file."""
        return frozenset(self.values)

    def problem(self) -> str:
        """Return a mistake in the values together that no schema can express, or ""."""
        return ""

    @classmethod
    def read(cls, value: object, at: Reading, path: KeyPath = ()) -> Self:
        """Read the mapping, without its invalid values. Raises Unusable if a required value is missing or invalid."""
        if not isinstance(value, dict):
            raise at.wrong(path, f"expected a mapping, got {describe(value)}")
        for name in cls.REQUIRED:
            if name not in value:
                at.wrong((*path, name), f"the key `{name}` is missing", key=True)
        keys = cls.KEYS
        given = {name: part for name, part in value.items() if name not in keys or not keys[name].takes_nothing(part)}
        values: dict[str, Any] = {}
        known = True
        for name, part in given.items():
            if name not in cls.KEYS:
                hint = "put a text with a colon in quotes" if " " in name else cls._instead_of(name, value)
                at.wrong((*path, name), f"unknown key `{name}`", hint, key=True)
                known = False
                continue
            try:
                values[name] = cls.KEYS[name].reader.read(part, at, (*path, name))
            except Unusable:
                continue
        for rule in cls.RULES if known else ():
            message, one = rule.problem(given)
            if message:
                at.wrong((*path, one) if one else path, message)
                break
        if any(name not in values for name in cls.REQUIRED):
            raise Unusable
        shape = cls(values, path)
        if len(values) == len(given) and (wrong := shape.problem()):
            at.wrong(path, wrong, in_schema=False)
        return shape

    @classmethod
    def _instead_of(cls, unknown: str, beside: Mapping[str, object]) -> Callable[[], str]:
        """Return the hint for an unknown key, computed when it is printed.

        It is the key above, if that has no value; what the word means here; who else has such a key; or the keys.
        """

        def compute() -> str:
            from labctl.documents.other_words import meaning

            if (above := _key_above(unknown, beside, cls.KEYS)) and beside[above] is None:
                return f"indent it if it belongs to `{above}`"
            if known := meaning(unknown, [base.__name__ for base in cls.__mro__]):
                return f"did you mean `{known}`?" if known in cls.KEYS else known
            places = list(dict.fromkeys(_places_of(unknown, Shape)))
            near = suggest(unknown, cls.KEYS, near_only=bool(places) and len(cls.KEYS) > _LISTED)
            if not places:
                return near
            named = " and ".join(filter(None, (", ".join(places[:-1]), places[-1])))
            return f"`{unknown}` is a key of {named}" + (f"; {near}" if near else "")

        return compute

    @classmethod
    def schema(cls, into: Schemas) -> Schema:
        """Add its JSON Schema to the definitions; return a reference to it."""
        name = cls.__name__.removeprefix("_")
        if name not in into.definitions:
            whole: Schema = {"type": "object"}
            into.definitions[name] = whole  # before the keys: a shape may contain itself
            if cls.__doc__:
                whole["description"] = cls.__doc__
            whole["properties"] = {name: key.schema(into) for name, key in cls.KEYS.items()}
            if cls.REQUIRED:
                whole["required"] = list(cls.REQUIRED)
            if cls.RULES:
                whole["allOf"] = [rule.schema() for rule in cls.RULES]
            whole["additionalProperties"] = False
        return {"$ref": f"#/$defs/{name}"}


TEXT = Text()
STRICT_TEXT = Text(strict=True)
REGEX = Parsed(check_pattern)
_LIST_OR_SHELL = "write a list, [ls, -l], or use `shell:` for the text of a shell command"
ARGV = ListOf(TEXT, at_least=1, fix_for_text=_LIST_OR_SHELL, fix_for_mapping=_LIST_OR_SHELL)


def _given(name: str) -> Schema:
    """Return the condition that the key has a value."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _any_given(names: Iterable[str]) -> Schema:
    choices = [_given(name) for name in names]
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _or_null(schema: Schema) -> Schema:
    """Return the schema that accepts null as well."""
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
