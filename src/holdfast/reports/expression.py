"""Derived columns: a small arithmetic, compiled by us.

The text is parsed into a syntax tree, of which only the forms listed here are accepted; each is
written out as SQL over doubles from our own templates. Nothing of the text reaches the database
but numbers that were parsed and columns that were resolved. Nothing is ever evaluated as Python.

Where arithmetic has no answer (division by zero, the logarithm of a negative number, overflow) the
column has no value in that row.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

from holdfast.kernel.errors import Invalid

FUNCTIONS: dict[str, tuple[int, str]] = {
    "abs": (1, "abs({0})"),
    "ceil": (1, "ceil({0})"),
    "exp": (1, "exp({0})"),
    "floor": (1, "floor({0})"),
    "log": (1, "TRY(ln({0}))"),
    "log10": (1, "TRY(log10({0}))"),
    "log2": (1, "TRY(log2({0}))"),
    "round": (2, "round({0}, {1})"),
    "sqrt": (1, "TRY(sqrt({0}))"),
}
"""Name → number of arguments and SQL. ``log`` is the natural logarithm; the second argument of
``round`` is a whole number of digits and may be left out. No template repeats an argument, so the
SQL grows no faster than the text."""

_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "({0} + {1})",
    ast.Sub: "({0} - {1})",
    ast.Mult: "({0} * {1})",
    ast.Div: "({0} / nullif({1}, 0))",
}
KEEPING = frozenset({"abs", "ceil", "floor", "round"})
"""The functions whose answer is in the unit of what they are given."""
Resolve = Callable[[str], str]
"""A column reference → its SQL (a double); raises ``LookupError`` with the reason."""


def compile_expression(text: str, resolve: Resolve) -> str:
    """The SQL of ``text``, null where it has no finite value; :class:`Invalid` says what is wrong.

    ``resolve`` is asked for each column by the name written: ``column`` or ``input.column``.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise Invalid(f"cannot read the expression {text!r}: {reason}") from error
    sql = _compile(tree.body, resolve, 0)
    return f"(CASE WHEN isfinite({sql}) THEN {sql} END)"


def unit_of_expression(text: str, unit_of: Resolve) -> str:
    """The unit of what ``text`` gives, where it is that of its columns; else none.

    ``text`` is an expression that compiles. What is multiplied, divided or a logarithm has a unit
    that we do not know, and a column without one may have any: neither is held against another.
    :class:`Invalid` for a sum or a difference of two units.
    """
    return _unit(ast.parse(text.strip(), mode="eval").body, unit_of)


def _unit(node: ast.expr, unit_of: Resolve) -> str:
    match node:
        case ast.Name(id=name):
            return _column(name, unit_of)
        case ast.Attribute(value=ast.Name(id=source), attr=name):
            return _column(f"{source}.{name}", unit_of)
        case ast.UnaryOp(operand=operand):
            return _unit(operand, unit_of)
        case ast.BinOp(left=left, op=operator, right=right):
            one, other = _unit(left, unit_of), _unit(right, unit_of)
            if not isinstance(operator, ast.Add | ast.Sub):
                return ""
            if one and other and one != other:
                raise Invalid(
                    f"cannot compute {ast.unparse(node)[:80]!r}: {ast.unparse(left)[:60]} is in "
                    f"{one} and {ast.unparse(right)[:60]} in {other}",
                    hint="convert one of them with a factor: what is multiplied may be added",
                )
            return one or other
        case ast.Call(func=ast.Name(id=name), args=arguments):
            units = [_unit(argument, unit_of) for argument in arguments]
            return units[0] if name in KEEPING else ""
        case _:
            return ""


def _compile(node: ast.expr, resolve: Resolve, depth: int) -> str:
    if depth > 32:
        raise Invalid("cannot take the expression: it is nested deeper than 32 levels")
    match node:
        case ast.Constant(value=bool() | str() | bytes() | complex()) | ast.Constant(value=None):
            raise Invalid("cannot take the expression: only numbers may be written out")
        case ast.Constant(value=int() | float()):
            return _number(node.value)
        case ast.Name(id=name):
            return _column(name, resolve)
        case ast.Attribute(value=ast.Name(id=source), attr=name):
            return _column(f"{source}.{name}", resolve)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"(-{_compile(operand, resolve, depth + 1)})"
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _compile(operand, resolve, depth + 1)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _OPERATORS:
            return _OPERATORS[type(operator)].format(
                _compile(left, resolve, depth + 1), _compile(right, resolve, depth + 1)
            )
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, arguments, resolve, depth)
        case _:
            raise Invalid(
                f"cannot take the expression: {ast.unparse(node)[:60]!r} is not allowed",
                hint=f"+ - * / ( ), numbers, columns and {', '.join(FUNCTIONS)}",
            )


def _number(value: object) -> str:
    assert isinstance(value, int | float)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Invalid("cannot take the expression: a number in it is too large")
    return f"CAST('{number!r}' AS DOUBLE)"


def _column(name: str, resolve: Resolve) -> str:
    try:
        return resolve(name)
    except LookupError as error:
        raise Invalid(f"cannot take the expression: {error.args[0]}") from error


def _call(name: str, arguments: list[ast.expr], resolve: Resolve, depth: int) -> str:
    if name not in FUNCTIONS:
        raise Invalid(
            f"cannot take the expression: there is no function {name}",
            hint=f"known are {', '.join(FUNCTIONS)}",
        )
    count, template = FUNCTIONS[name]
    if name == "round":
        return _round(arguments, resolve, depth)
    if len(arguments) != count:
        raise Invalid(f"cannot take the expression: {name} takes {count}, not {len(arguments)}")
    return template.format(*(_compile(item, resolve, depth + 1) for item in arguments))


def _round(arguments: list[ast.expr], resolve: Resolve, depth: int) -> str:
    match arguments:
        case [value]:
            digits = 0
        case [value, ast.Constant(value=int() as digits)] if 0 <= digits <= 15:
            pass
        case _:
            raise Invalid("cannot take the expression: round takes a value and 0 to 15 digits")
    return FUNCTIONS["round"][1].format(_compile(value, resolve, depth + 1), digits)
