"""What a mapping of a scenario file may be: declared once, read with every mistake told, turned into JSON Schema.

::

    class Ready(Shape):
        listening = optional(Parsed(parse_listening))     # its value has the type `str | None`
        line = optional(REGEX)

        def problem(self) -> str: ...                     # what is wrong with the whole, or ""

pydantic would do, and does for topology files, but its import alone costs a quarter of a short run's time (see
docs/decisions/0002). A string with `${name}` in it may stand where a number, a duration or the like is wanted: it
passes untouched when the file is loaded, and is read again, with `final`, when the variables have been put in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast, overload

from labctl.documents.source import Mistake, describe, suggest
from labctl.scenario.variables import is_template

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
E = TypeVar("E", bound=StrEnum)
S = TypeVar("S", bound="Shape")

KeyPath = tuple[str | int, ...]
Schema = dict[str, Any]
_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, at a path below the part that is read; `key` when the key is meant and not its value."""

    path: KeyPath
    message: str
    hint: str = ""
    key: bool = False

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        return f"{where}: {self.message}" if where else self.message


class Unusable(Exception):
    """The value cannot be used at all; why has been noted."""


@dataclass(slots=True)
class Reading:
    """One reading: `final` when variables have been put in, and the mistakes so far."""

    final: bool = False
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, path: KeyPath, message: str, hint: str = "", *, key: bool = False) -> Unusable:
        """Notes a mistake; to be raised where nothing can be made of the value."""
        self.problems.append(Problem(path, message, hint, key))
        return Unusable()

    def is_open(self, value: object) -> bool:
        """Whether the value is decided only when the step is run."""
        return not self.final and is_template(value)


class Reader(Protocol[T_co]):
    """Reads one kind of value."""

    def read(self, value: object, at: Reading, path: KeyPath) -> T_co:
        """The value; Unusable, with the reason noted, when it is none."""
        ...

    def schema(self, definitions: Schema) -> Schema:
        """Its JSON Schema; the shapes in it are put into `definitions`."""
        ...


class Text:
    """A text; a number is taken as it would be printed."""

    def __init__(self, *, often_a_number: bool = False) -> None:
        self._schema: Schema = {"type": ["string", "number"]} if often_a_number else {"type": "string"}

    def read(self, value: object, at: Reading, path: KeyPath) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            hint = f'put it in quotes: "{describe(value)}"' if isinstance(value, bool) else ""
            raise at.wrong(path, f"expected text, got {describe(value)}", hint)
        return str(value)

    def schema(self, definitions: Schema) -> Schema:
        return dict(self._schema)


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
                raise at.wrong(path, str(error), error.hint if isinstance(error, Mistake) else "") from error
        return text

    def schema(self, definitions: Schema) -> Schema:
        return {"type": "string"}


class Duration:
    """`200ms`, `2s`, `1m`: the value is seconds."""

    def read(self, value: object, at: Reading, path: KeyPath) -> float:
        from labctl.units import duration_s

        if at.is_open(value):
            return cast(float, value)
        try:
            return duration_s(value)
        except ValueError as error:
            raise at.wrong(path, str(error)) from error

    def schema(self, definitions: Schema) -> Schema:
        return {"type": "string"}


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
        if self._at_least is not None and number < self._at_least:
            raise at.wrong(path, f"must be at least {self._at_least}, got {describe(value)}")
        if self._at_most is not None and number > self._at_most:
            raise at.wrong(path, f"must be at most {self._at_most}, got {describe(value)}")
        return number

    def schema(self, definitions: Schema) -> Schema:
        whole: Schema = {"type": "integer"}
        if self._at_least is not None:
            whole["minimum"] = self._at_least
        if self._at_most is not None:
            whole["maximum"] = self._at_most
        return {"anyOf": [whole, {"type": "string"}]}


class Flag:
    """True or false."""

    def read(self, value: object, at: Reading, path: KeyPath) -> bool:
        if at.is_open(value):
            return cast(bool, value)
        if not isinstance(value, bool):
            known = {"true": True, "false": False}.get(value) if isinstance(value, str) else None
            if known is None:
                raise at.wrong(path, f"expected true or false, got {describe(value)}")
            return known
        return value

    def schema(self, definitions: Schema) -> Schema:
        return {"type": ["boolean", "string"]}


class OneOf(Generic[E]):
    """One of the values of an enumeration."""

    def __init__(self, choices: type[E]) -> None:
        self._choices = choices

    def read(self, value: object, at: Reading, path: KeyPath) -> E:
        if at.is_open(value):
            return cast(E, value)
        words = [choice.value for choice in self._choices]
        if not isinstance(value, str) or value not in words:
            near = suggest(value, words) if isinstance(value, str) else ""
            hint = near if near.startswith("did you mean") else ""
            raise at.wrong(path, f"expected one of {', '.join(words)}, got {describe(value)}", hint)
        return self._choices(value)

    def schema(self, definitions: Schema) -> Schema:
        return {"type": "string", "enum": [choice.value for choice in self._choices]}


class ListOf(Generic[T]):
    """A list of so many; a shorter name for one of one may be allowed."""

    def __init__(self, of: Reader[T], at_least: int = 0, at_most: int | None = None, *, or_one: bool = False) -> None:
        self._of = of
        self._at_least = at_least
        self._at_most = at_most
        self._or_one = or_one

    def read(self, value: object, at: Reading, path: KeyPath) -> list[T]:
        if self._or_one and isinstance(value, str | int | float):
            return [self._of.read(value, at, path)]
        if not isinstance(value, list):
            raise at.wrong(path, f"expected a list, got {describe(value)}")
        self._count(len(value), at, path)
        values: list[T] = []
        for index, part in enumerate(value):
            try:
                values.append(self._of.read(part, at, (*path, index)))
            except Unusable:
                continue  # noted; the others are looked at all the same
        if len(values) < self._at_least:
            raise Unusable
        return values

    def schema(self, definitions: Schema) -> Schema:
        of = self._of.schema(definitions)
        many: Schema = {"type": "array", "items": of}
        if self._at_least:
            many["minItems"] = self._at_least
        if self._at_most is not None:
            many["maxItems"] = self._at_most
        return {"anyOf": [of, many]} if self._or_one else many

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

    def schema(self, definitions: Schema) -> Schema:
        return {"type": "object", "additionalProperties": self._of.schema(definitions)}


class Anything:
    """Whatever it is."""

    def read(self, value: object, at: Reading, path: KeyPath) -> Any:
        return value

    def schema(self, definitions: Schema) -> Schema:
        return {}


class Scalar:
    """A text, a number, true or false."""

    def read(self, value: object, at: Reading, path: KeyPath) -> str | int | float | bool:
        if not isinstance(value, str | int | float):
            raise at.wrong(path, f"expected a text or a number, got {describe(value)}")
        return value

    def schema(self, definitions: Schema) -> Schema:
        return {"type": ["string", "number", "boolean"]}


class Of(Generic[S]):
    """A mapping of a shape; with `short`, a bare value stands for a mapping with that one key."""

    def __init__(self, shape: type[S], short: str = "") -> None:
        self._shape = shape
        self._short = short

    def read(self, value: object, at: Reading, path: KeyPath) -> S:
        if self._short and isinstance(value, str | int | float) and not isinstance(value, bool):
            return self._shape({self._short: self._shape.KEYS[self._short].reader.read(value, at, path)})
        return self._shape.read(value, at, path)

    def schema(self, definitions: Schema) -> Schema:
        whole = self._shape.schema(definitions)
        if not self._short:
            return whole
        return {"anyOf": [self._shape.KEYS[self._short].reader.schema(definitions), whole]}


class Key(Generic[T]):
    """A key of a shape: how its value is read, and what it is when it is not given."""

    def __init__(self, reader: Reader[T], default: T, name: str) -> None:
        self.reader = reader
        self.default = default
        self.name = name  # in the file

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

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


def required(reader: Reader[T], name: str = "") -> Key[T]:
    """A key that must be given; `name` is its name in the file where Python does not allow it."""
    return Key(reader, _REQUIRED, name)


def optional(reader: Reader[T], name: str = "") -> Key[T | None]:
    """A key that is None when it is not given."""
    return Key(cast("Reader[T | None]", reader), None, name)


def defaulted(reader: Reader[T], default: T, name: str = "") -> Key[T]:
    """A key with a value of its own when it is not given."""
    return Key(reader, default, name)


class Shape:
    """A mapping that was read; subclasses declare its keys. Immutable."""

    KEYS: ClassVar[Mapping[str, Key[Any]]] = {}

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values  # those given, by their names in the file

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
        """What is wrong with the keys together, or ""."""
        return ""

    @classmethod
    def read(cls, value: object, at: Reading, path: KeyPath = ()) -> Self:
        """The shape that the mapping has, without what is wrong in it. Unusable when nothing can be made of it."""
        if not isinstance(value, dict):
            raise at.wrong(path, f"expected a mapping, got {describe(value)}")
        before = len(at.problems)
        for name, key in cls.KEYS.items():
            if key.required and name not in value:
                at.wrong((*path, name), f"the key `{name}` is missing", key=True)
        values: dict[str, Any] = {}
        for name, part in value.items():
            if name not in cls.KEYS:
                at.wrong((*path, name), f"unknown key `{name}`", suggest(name, cls.KEYS), key=True)
                continue
            key = cls.KEYS[name]
            if part is None and key.default is None and not isinstance(key.reader, Anything):
                continue  # `key:` with nothing behind it
            try:
                values[name] = key.reader.read(part, at, (*path, name))
            except Unusable:
                continue  # noted
        if any(key.required and name not in values for name, key in cls.KEYS.items()):
            raise Unusable
        shape = cls(values)
        wrong = shape.problem() if len(at.problems) == before or set(values) == set(value) else ""
        if wrong:
            raise at.wrong(path, wrong)
        return shape

    @classmethod
    def schema(cls, definitions: Schema) -> Schema:
        """A reference to its JSON Schema, which is put into `definitions`."""
        if cls.__name__ not in definitions:
            whole: Schema = {"type": "object"}
            definitions[cls.__name__] = whole  # first of all: a shape may hold itself
            if cls.__doc__:
                whole["description"] = cls.__doc__
            whole["properties"] = {name: key.reader.schema(definitions) for name, key in cls.KEYS.items()}
            needed = [name for name, key in cls.KEYS.items() if key.required]
            if needed:
                whole["required"] = needed
            whole["additionalProperties"] = False
        return {"$ref": f"#/$defs/{cls.__name__}"}


TEXT = Text()
WORD = Text(often_a_number=True)


def needs_one(shape: Shape, *names: str) -> str:
    """What is wrong when not exactly one of the keys is given, or ""."""
    given = [name for name in names if name in shape.given]
    one_of = " or ".join(f"`{name}`" for name in names)
    if len(given) == 1:
        return ""
    return f"takes only one of {one_of}" if given else f"needs {one_of}"


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
