"""Expressions of files: arithmetic, comparisons and choices of named values, in Python's notation.

`evaluate("i % n + 1", {"i": 4, "n": 4})` is 1. Nothing is called but a few functions, and no attribute of an object is
read: `site.name` is the value of a key of a mapping. Results are bounded, so that no file takes long.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

LENGTH_LIMIT, NUMBER_LIMIT, TEXT_LIMIT = 400, 1 << 128, 10_000

_KEYWORD_KEY = rf"(?<=[\w\])])\.({'|'.join(keyword.kwlist)})\b"  # `my.as` is the value of the key `as`
_BINARY: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = MappingProxyType(
    {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv,
        ast.Mod: operator.mod,
    }
)
_COMPARISONS: Mapping[type[ast.AST], Callable[[Any, Any], bool]] = MappingProxyType(
    {
        ast.Eq: operator.eq,
        ast.NotEq: operator.ne,
        ast.Lt: operator.lt,
        ast.LtE: operator.le,
        ast.Gt: operator.gt,
        ast.GtE: operator.ge,
        ast.In: lambda one, many: one in many,
        ast.NotIn: lambda one, many: one not in many,
    }
)
_UNARY: Mapping[type[ast.AST], Callable[[Any], Any]] = MappingProxyType(
    {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
)


def _round(number: Any, digits: int = 0) -> Any:
    """Round as Python does. With -1000000000 digits it would compute 10**1000000000."""
    return round(number, max(digits, -len(str(NUMBER_LIMIT)))) if digits else round(number)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"abs": abs, "hex": lambda number: f"{number:x}", "int": int, "len": len, "max": max, "min": min, "round": _round}
)


class ExpressionError(ValueError):
    """The expression has no value; the text continues a sentence: `uses the unknown name n`."""


def names_in(expression: str) -> frozenset[str] | None:
    """Return the names that the expression uses; None if this is not an expression."""
    if len(expression) > LENGTH_LIMIT:
        return None
    tree = _parsed(expression.strip())
    if tree is None:
        return None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return frozenset(names - (called & _FUNCTIONS.keys()))


@lru_cache(1000)
def _parsed(expression: str) -> ast.Expression | None:
    try:
        return ast.parse(re.sub(_KEYWORD_KEY, r"['\1']", expression), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    """Return the value of the expression with the names of `scope`. Raises ExpressionError."""
    if len(expression) > LENGTH_LIMIT:
        raise ExpressionError(f"is longer than {LENGTH_LIMIT} characters")
    tree = _parsed(expression.strip())
    if tree is None:
        raise ExpressionError("is not an expression")
    try:
        return _Evaluator(scope).value(tree.body)
    except ZeroDivisionError as error:
        raise ExpressionError("divides by zero") from error
    except (TypeError, KeyError, IndexError, OverflowError, RecursionError, MemoryError) as error:
        raise ExpressionError("cannot be computed with these values") from error
    except ExpressionError:
        raise
    except ValueError as error:
        raise ExpressionError("cannot be computed with these values") from error


def text_of(value: object) -> str:
    """Return the value as files write it: `true`, `1.5`, `3` for 3.0."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


class _Evaluator:
    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.scope = scope

    def value(self, node: ast.expr) -> Any:
        result = self.compute(node)
        if isinstance(result, int | float) and not -NUMBER_LIMIT < result < NUMBER_LIMIT:
            raise ExpressionError("is too large a number")
        if isinstance(result, str | list) and len(result) > TEXT_LIMIT:
            raise ExpressionError("is too long a text")
        return result

    def compute(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as constant):
                return constant
            case ast.Name(id=name):
                if name not in self.scope:
                    raise ExpressionError(f"uses the unknown name `{name}`")
                return self.scope[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self.binary(op, self.value(left), self.value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self.value(operand))
            case ast.BoolOp(op=ast.And(), values=values):
                return all(self.value(one) for one in values)
            case ast.BoolOp(values=values):
                return any(self.value(one) for one in values)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self.compare(left, ops, comparators)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.value(body) if self.value(test) else self.value(orelse)
            case ast.Attribute(value=of, attr=name):
                return self.entry(self.value(of), name)
            case ast.Subscript(value=of, slice=index):
                return self.entry(self.value(of), self.value(index))
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self.value(one) for one in parts]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*(self.value(one) for one in arguments))
            case _:
                raise ExpressionError("has a part that expressions do not have")

    def binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        if isinstance(left, str) and not isinstance(op, ast.Add):
            raise ExpressionError("calculates with a text")  # `%` would format it, `*` repeat it
        if isinstance(left, list) or (isinstance(right, str | list) and isinstance(op, ast.Mult)):
            raise ExpressionError("calculates with a text or a list")
        if isinstance(op, ast.Add) and isinstance(left, str) != isinstance(right, str):
            return text_of(left) + text_of(right)
        return _BINARY[type(op)](left, right)

    def compare(self, left: ast.expr, ops: list[ast.cmpop], comparators: list[ast.expr]) -> bool:
        before = self.value(left)
        for op, comparator in zip(ops, comparators, strict=True):
            if type(op) not in _COMPARISONS:
                raise ExpressionError("has a part that expressions do not have")
            after = self.value(comparator)
            if not _COMPARISONS[type(op)](before, after):
                return False
            before = after
        return True

    def entry(self, of: Any, key: Any) -> Any:
        if isinstance(of, dict):
            if str(key) not in of:
                raise ExpressionError(f"uses the unknown key `{key}`")
            return of[str(key)]
        if isinstance(of, list | str) and isinstance(key, int):
            return of[key]
        raise ExpressionError(f"reads `{key}` of a value that is not a mapping")
