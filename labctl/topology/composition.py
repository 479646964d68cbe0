"""Parameters and repetition in topology files: `parameters`, `for`, and `${...}` in texts and keys.

The tree of the file is rewritten before a shape reads it, so that every mistake has the position of the text from which
a value was made. An expression is replaced if its names are parameters or variables of a `for`; every other `${...}`
stays: `${PORT}` is the shell's, and `${h2.ipv4}` an address variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labctl.documents import Diagnostic, Document, KeyPath
from labctl.documents.diagnostics import DocumentError, Mistake, Position, hint_text, suggest, suggestion
from labctl.documents.expressions import ExpressionError, evaluate, names_in, text_of
from labctl.documents.yaml_tree import VALUES_LIMIT, Entry, Tree, Value
from labctl.topology.schema import REPEATED

if TYPE_CHECKING:
    from labctl.topology.draft import Place

PARAMETERS, FOR, EACH, WHERE = "parameters", "for", "each", "where"
REPETITIONS_LIMIT, NESTING_LIMIT = 100_000, 8  # repetitions include those that `where` leaves out
CHARACTERS_LIMIT = 64 << 20  # of texts in which expressions are replaced
_LIMITS = {"repetitions": REPETITIONS_LIMIT, "values": VALUES_LIMIT, "characters": CHARACTERS_LIMIT}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPRESSION = re.compile(r"(\$?)\$\{([^{}\n]*)\}")
_MERGED = frozenset({"networks", "switches", "groups", "vlans"})  # repetitions may add to the same entry of these
_RANGE_EXAMPLE = "write a range, 1..n, or a list, [berlin, paris]"

Scope = Mapping[str, Value]


def with_arguments(
    document: Document,
    path: KeyPath,
    arguments: Mapping[str, Value],
    written: dict[str, int] | None = None,
    included: Place | None = None,
) -> tuple[Document, list[Diagnostic], bool]:
    """Return the document with the topology at that path written out, and the mistakes in `parameters` and `for`.

    The third value is whether all parameters have values. `arguments` are values of its parameters, from the entry
    `included` of another file's `include` if there is one. `written` counts what has been written out of all documents
    of a topology: limits are those of all together. A document without parameters and repetition is returned as it is.

    Raises: DocumentError if it becomes too large.
    """
    tree = document.tree(path)
    if tree.entries is None or not (arguments or PARAMETERS in tree.entries or FOR in tree.entries):
        return document, [], True
    expansion = _Expansion(document, {} if written is None else written, included)
    scope = expansion.parameters(tree.entries.get(PARAMETERS), arguments)
    rest = {key: entry for key, entry in tree.entries.items() if key not in (PARAMETERS, FOR)}
    whole = _mapping(tree, {})
    try:
        entries = expansion.entries(rest, scope)
        whole = _mapping(tree, entries)
        expansion.own(whole)
        for block in expansion.blocks(tree.entries.get(FOR), scope, 0):
            expansion.merge(whole, block, ())
    except _TooLarge as too_large:
        limits = f"{REPETITIONS_LIMIT} repetitions, {VALUES_LIMIT} values and {CHARACTERS_LIMIT >> 20} MiB of text"
        at = next(tree.entries[key].key for key in (FOR, PARAMETERS, *tree.entries) if key in tree.entries)
        expansion.mistake(at, f"the file is too large when it is written out: at most {limits}")
        raise DocumentError(expansion.diagnostics) from too_large
    document = Document(document.file, document.text, _replaced(document.root, path, whole))
    return document, expansion.diagnostics, expansion.is_complete


def blocks_of(document: Document, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the path of the topology, and of each mapping in its `for`, without the mistakes of their form."""
    yield path
    tree = document.tree((*path, FOR)) if FOR in (document.tree(path).entries or {}) else None
    if tree is not None and tree.entries is not None:
        yield from blocks_of(document, (*path, FOR))
    for index, block in enumerate(tree.items or () if tree is not None else ()):
        if block.entries is not None and EACH in block.entries:
            yield from blocks_of(document, (*path, FOR, index))


def _replaced(tree: Tree, path: KeyPath, by: Tree) -> Tree:
    """Return the tree with `by` at that path, whose keys are texts."""
    if not path:
        return by
    assert tree.entries is not None
    key = str(path[0])
    entry = tree.entries[key]
    return _mapping(tree, {**tree.entries, key: Entry(entry.key, _replaced(entry.value, path[1:], by))})


def _mapping(like: Tree, entries: dict[str, Entry]) -> Tree:
    data = {key: entry.value.data for key, entry in entries.items()}
    return Tree(data, like.start, like.end, entries=entries)


def _sequence(like: Tree, items: list[Tree]) -> Tree:
    return Tree([item.data for item in items], like.start, like.end, items=items)


class _TooLarge(Exception):
    """Ends the expansion."""


class _Expansion:
    """Writes out one document; collects its mistakes."""

    def __init__(self, document: Document, written: dict[str, int], included: Place | None) -> None:
        self.document = document
        self.included = included
        self.is_complete = True
        self.diagnostics: list[Diagnostic] = []
        self.written = written
        self.owned: dict[int, Tree] = {}  # by id: mappings and lists that grow in place

    def mistake(self, at: Position, message: str, hint: str = "", *, in_schema: bool = False) -> None:
        self.diagnostics.append(self.document.diagnostic_at(at, message, hint, in_schema=in_schema))

    # -- parameters ----------------------------------------------------------------------------------------------------

    def parameters(self, entry: Entry | None, arguments: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values of all parameters: the arguments, else the defaults, which may use earlier ones."""
        tree = entry.value if entry is not None else None
        declared = tree.entries if tree is not None and tree.entries is not None else {}
        top = entry.key if entry is not None else self.document.root.start
        if tree is not None and tree.entries is None and tree.data is not None:
            hint = "write for example `{n: 4}`"
            self.mistake(tree.start, "expected a mapping of names to values", hint, in_schema=True)
        for name in arguments:
            if name not in declared:
                hint = hint_text(suggestion(name, declared)) if declared else "declare it with `parameters`"
                if self.included is None:
                    self.mistake(top, f"there is no parameter `{name}`", hint)
                    continue
                message = f"{Path(self.document.file).name} has no parameter `{name}`"
                self.diagnostics.append(self.included.at("with", name).diagnostic(message, hint, key=True))
        scope: dict[str, Value] = {}
        for name, one in declared.items():
            if not _NAME.fullmatch(name):
                self.mistake(one.key, f"`{name}` cannot be the name of a parameter", "use letters, digits and `_`")
            elif name in arguments:
                scope[name] = arguments[name]
            elif one.value.data is None:
                self.is_complete = False
                scope[name] = 0
                if self.included is None:
                    self.mistake(one.key, f"the parameter `{name}` needs a value", f"for example --set {name}=4")
                    continue
                message = f"the parameter `{name}` of {Path(self.document.file).name} needs a value"
                hint = f"for example `with: {{{name}: 4}}`"
                self.diagnostics.append(self.included.diagnostic(message, hint))
            else:
                scope[name] = self.tree(one.value, scope).data
        return scope

    # -- repetition ----------------------------------------------------------------------------------------------------

    def blocks(self, entry: Entry | None, scope: Scope, depth: int) -> Iterator[dict[str, Entry]]:
        """Yield the entries that each repetition of each block makes."""
        if entry is None or entry.value.data is None:
            return
        if depth == NESTING_LIMIT:
            self.mistake(entry.key, f"`for` is nested more than {NESTING_LIMIT} times")
            return
        listed = entry.value.items if entry.value.items is not None else [entry.value]
        for block in listed:
            if block.entries is None or EACH not in block.entries:
                hint = "for example `- each: {i: 1..4}`"
                self.mistake(block.start, "expected a mapping with `each`", hint, in_schema=True)
                continue
            rest = {key: one for key, one in block.entries.items() if key not in (EACH, WHERE, FOR)}
            for key in rest.keys() - set(REPEATED):
                hint = suggest(key, (EACH, WHERE, FOR, *REPEATED))
                self.mistake(rest.pop(key).key, f"`for` cannot repeat `{key}`", hint, in_schema=True)
            for inner in self.scopes(block.entries[EACH].value, block.entries.get(WHERE), scope):
                yield self.entries(rest, inner)
                yield from self.blocks(block.entries.get(FOR), inner, depth + 1)

    def scopes(self, each: Tree, where: Entry | None, scope: Scope) -> Iterator[dict[str, Value]]:
        """Yield the variables of each repetition: the first varies slowest; a later range may use earlier ones."""
        if each.entries is None:
            hint = "for example `{i: 1..4}`"
            self.mistake(each.start, "expected a mapping of variables to their values", hint, in_schema=True)
            return
        if where is not None and not isinstance(where.value.data, str | bool | None):
            self.mistake(where.value.start, "`where` needs a condition", "for example `i < j`", in_schema=True)
            return
        variables = list(each.entries.items())

        def vary(number: int, so_far: dict[str, Value]) -> Iterator[dict[str, Value]]:
            if number == len(variables):
                self.count("repetitions", 1)
                if where is None or where.value.data is None or self.holds(where.value, so_far):
                    yield so_far
                return
            name, entry = variables[number]
            for value in self.range_of(name, entry, so_far):
                yield from vary(number + 1, {**so_far, name: value})

        yield from vary(0, dict(scope))

    def range_of(self, name: str, entry: Entry, scope: Scope) -> Iterable[Value]:
        """Return the values of a variable."""
        if not _NAME.fullmatch(name):
            self.mistake(entry.key, f"`{name}` cannot be the name of a variable", "use letters, digits and `_`")
            return ()
        tree = self.tree(entry.value, scope)
        if tree.items is not None:
            return [item.data for item in tree.items]
        if isinstance(tree.data, list):
            return tree.data
        try:
            if isinstance(tree.data, str):
                return _values_of(tree.data, scope)
            problem = "is neither a range nor a list"
        except ExpressionError as error:
            problem = str(error)
        self.mistake(entry.value.start, f"`{text_of(tree.data)}` {problem}", _RANGE_EXAMPLE)
        return ()

    def holds(self, where: Tree, scope: Scope) -> bool:
        """Return whether the condition holds: an expression, with or without `${}`."""
        if isinstance(where.data, bool):
            return where.data
        text = where.data if isinstance(where.data, str) else ""
        inner = _EXPRESSION.fullmatch(text.strip())
        try:
            return bool(evaluate(inner[2] if inner else text, scope))
        except ExpressionError as error:
            self.mistake(where.start, f"`where` {error}", "write for example `where: i < j`")
            return False

    def own(self, tree: Tree) -> None:
        """Record that no other tree shares this mapping or list."""
        self.owned[id(tree)] = tree

    def growing(self, into: Tree, key: str) -> Tree:
        """Return the mapping or list at that key, which is not shared with another tree."""
        assert into.entries is not None
        entry = into.entries[key]
        tree = entry.value
        if id(tree) not in self.owned:
            if tree.entries is not None:
                tree = _mapping(tree, dict(tree.entries))
            else:
                tree = _sequence(tree, list(tree.items or ()))
            self.own(tree)
            self.put(into, key, Entry(entry.key, tree))
        return tree

    def put(self, into: Tree, key: str, entry: Entry) -> None:
        assert into.entries is not None
        into.entries[key] = entry
        into.data[key] = entry.value.data

    def merge(self, into: Tree, block: Mapping[str, Entry], at: tuple[str, ...]) -> None:
        """Add the entries of one repetition to a mapping: mappings and lists in it grow."""
        assert into.entries is not None
        for key, entry in block.items():
            old = into.entries.get(key)
            new = entry.value
            grows = not at or at[0] in _MERGED
            if old is None or (grows and old.value.data is None):
                self.put(into, key, entry if old is None else Entry(old.key, new))
            elif grows and new.data is None:
                continue
            elif grows and old.value.entries is not None and new.entries is not None:
                self.merge(self.growing(into, key), new.entries, (*at, key))
            elif grows and old.value.items is not None and new.items is not None:
                grown = self.growing(into, key)
                assert grown.items is not None
                grown.items += new.items
                grown.data += new.data
            elif len(at) > 1 and at[0] in _MERGED and old.value.data == new.data:
                continue
            else:
                where = f", as at line {old.key.line}" if old.key != entry.key else ""
                hint = "write a variable of `each` in it: `h${i}`"
                self.mistake(entry.key, f"more than one repetition makes `{key}`{where}", hint)

    # -- values --------------------------------------------------------------------------------------------------------

    def tree(self, tree: Tree, scope: Scope) -> Tree:
        """Return the value with its expressions replaced; the same object if there are none."""
        self.count("values", 1)
        if tree.entries is not None:
            entries = self.entries(tree.entries, scope)
            same = all(tree.entries.get(key) is entry for key, entry in entries.items())
            return tree if same and len(entries) == len(tree.entries) else _mapping(tree, entries)
        if tree.items is not None:
            items = [self.tree(item, scope) for item in tree.items]
            return tree if all(map(_is, items, tree.items)) else _sequence(tree, items)
        if not isinstance(tree.data, str) or "${" not in tree.data:
            return tree
        data = self.text(tree.data, scope, tree.start)
        if data == tree.data:
            return tree
        self.count("values", _size(data))
        return made(data, tree)

    def count(self, what: str, number: int) -> None:
        """Count what has been written out. Raises _TooLarge."""
        self.written[what] = count = self.written.get(what, 0) + number
        if count > _LIMITS[what]:
            raise _TooLarge

    def entries(self, entries: Mapping[str, Entry], scope: Scope) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for key, entry in entries.items():
            value = self.tree(entry.value, scope)
            written = text_of(self.text(key, scope, entry.key)) if "${" in key else key
            if written in found:
                self.mistake(entry.key, f"duplicate key `{written}`")
            found[written] = entry if value is entry.value else Entry(entry.key, value)
        return found

    def text(self, text: str, scope: Scope, at: Position) -> Value:
        """Return the text with its expressions replaced; the value itself if it is one expression."""
        whole = _EXPRESSION.fullmatch(text)
        if whole is not None and not whole[1]:
            return self.value(whole[2], text, scope, at)

        def replace(match: re.Match[str]) -> str:
            value = self.value(match[2], match[0], scope, at)
            if match[1]:  # `$${i}` is the text `${i}`
                return match[0] if value is match[0] else match[0][1:]
            return text_of(value)

        written = _EXPRESSION.sub(replace, text)
        self.count("characters", len(written))
        return written

    def value(self, expression: str, otherwise: str, scope: Scope, at: Position) -> Value:
        """Return the value of the expression; `otherwise` if it is not one of ours."""
        names = names_in(expression)
        if names is None or not names & scope.keys():
            return otherwise
        try:
            return evaluate(expression, scope)
        except ExpressionError as error:
            unknown = sorted(names - scope.keys())
            hint = suggest(unknown[0], scope) if unknown else ""
            self.mistake(at, f"`${{{expression}}}` {error}", hint)
            return 0


def _values_of(text: str, scope: Scope) -> Iterable[Value]:
    """Return the values of `1..n`, `n..1 step -1`, or of an expression that is a list. Raises ExpressionError."""
    limits, _, step_text = text.partition(" step ")
    first_text, dots, last_text = limits.partition("..")
    if not dots:
        values = evaluate(text, scope)
        if isinstance(values, list):
            return values
        raise ExpressionError("is neither a range nor a list")
    first, last, step = (evaluate(one, scope) for one in (first_text, last_text, step_text or "1"))
    if not all(type(one) is int for one in (first, last, step)) or step == 0:
        raise ExpressionError("is not a range of whole numbers")
    return range(first, last + (1 if step > 0 else -1), step)


def _size(data: Value) -> int:
    """Return the number of values in a mapping or list, without itself."""
    if isinstance(data, dict):
        data = list(data.values())
    return sum(1 + _size(value) for value in data) if isinstance(data, list) else 0


def _is(one: object, other: object) -> bool:
    return one is other


def made(data: Value, like: Tree) -> Tree:
    """Return the tree of a value that was made from the text at that position."""
    if isinstance(data, dict):
        return _mapping(like, {str(key): Entry(like.start, made(value, like)) for key, value in data.items()})
    if isinstance(data, list):
        return _sequence(like, [made(value, like) for value in data])
    return Tree(data, like.start, like.end, like.style)


def arguments_of(words: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of the words `n=4`, `cities=[berlin, paris]`: values as in YAML. Raises Mistake."""
    from labctl.documents.yaml_tree import compose

    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise Mistake(f"`{word}` is not NAME=VALUE", "write for example n=4")
        if name in found:
            raise Mistake(f"`{name}` is given twice")
        tree, problems = compose(text, f"--set {name}")
        if problems:
            raise Mistake(f"the value of `{name}` cannot be read: {problems[0].message}", problems[0].what_to_try)
        found[name] = "" if tree is None else tree.data
    return found
