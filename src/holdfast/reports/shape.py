"""Everything in a piece of plain data that does not fit a model, each with its path.

The decoder itself stops at the first problem. Here the containers are walked, and only leaves are
left to it.
"""

from __future__ import annotations

import difflib
import re
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from holdfast.kernel.errors import Problem

_DEPTH_MAX = 32


def shape_problems(value: Any, type_: Any, path: str = "", depth: int = 0) -> list[Problem]:
    """All that is wrong in ``value`` as an instance of ``type_``; empty if nothing is."""
    if depth > _DEPTH_MAX:
        return [Problem(path, "is nested too deeply")]
    bare, meta = _bare(type_)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _struct(value, bare, path, depth)
    origin = get_origin(bare)
    if origin in (Union, UnionType):
        return _union(value, bare, path, depth)
    if origin is list and isinstance(value, list):
        found = _leaf(value, _with(list, meta), path)
        (item_type,) = get_args(bare)
        for index, item in enumerate(value):
            found += shape_problems(item, item_type, f"{path}[{index}]", depth + 1)
        return found
    if origin is dict and isinstance(value, dict):
        found = _leaf(value, _with(dict, meta), path)
        key_type, item_type = get_args(bare)
        for key, item in value.items():
            found += _leaf(key, key_type, _at(path, key))
            found += shape_problems(item, item_type, _at(path, key), depth + 1)
        return found
    return _leaf(value, type_, path)


def _struct(value: Any, type_: type[msgspec.Struct], path: str, depth: int) -> list[Problem]:
    if not isinstance(value, dict):
        return [Problem(path, f"must be a mapping, not {_kind(value)}")]
    hints = get_type_hints(type_, include_extras=True)
    members = {field.encode_name: field for field in msgspec.structs.fields(type_)}
    tag = type_.__struct_config__.tag_field
    known = [*members, *([tag] if tag else [])]
    found = [
        Problem(_at(path, name), "is not known here", _near(str(name), known))
        for name in value
        if name not in known
    ]
    for name, field in members.items():
        if name in value:
            found += shape_problems(value[name], hints[field.name], _at(path, name), depth + 1)
        elif field.required:
            found.append(Problem(_at(path, name), "is missing"))
    return found


def _union(value: Any, type_: Any, path: str, depth: int) -> list[Problem]:
    choices = [(*_bare(choice), choice) for choice in get_args(type_)]
    structs = [bare for bare, _, _ in choices if isinstance(bare, type) and _is_struct(bare)]
    if structs and (isinstance(value, dict) or len(structs) == len(choices)):
        return _struct_union(value, structs, path, depth)
    for bare, _, choice in choices:
        if isinstance(value, list | dict) and get_origin(bare) is type(value):
            return shape_problems(value, choice, path, depth)
    leaves = tuple(choice for bare, _, choice in choices if bare not in structs)
    return _leaf(value, Union[leaves], path)  # noqa: UP007 - made at run time


def _struct_union(
    value: Any, structs: list[type[msgspec.Struct]], path: str, depth: int
) -> list[Problem]:
    tagged = {s.__struct_config__.tag: s for s in structs if s.__struct_config__.tag_field}
    if not tagged or not isinstance(value, dict):
        return _struct(value, structs[0], path, depth)
    field = str(structs[0].__struct_config__.tag_field)
    tag = value.get(field)
    if not isinstance(tag, str) or tag not in tagged:
        return [Problem(_at(path, field), f"must be one of {', '.join(map(str, tagged))}")]
    return _struct(value, tagged[tag], path, depth)


def _leaf(value: Any, type_: Any, path: str) -> list[Problem]:
    try:
        msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        reason = re.sub(r" - at `.*`$", "", str(error))
        return [Problem(path, _decapitalise(reason) + _but(value, reason), _described(type_))]
    return []


def _but(value: Any, reason: str) -> str:
    """What was there instead, where the reason does not say it already."""
    said = "got `" in reason or "enum value" in reason or isinstance(value, list | dict)
    return "" if said else f", not {_shown(value)}"


def _bare(type_: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type without its annotations, and those."""
    if get_origin(type_) is Annotated:
        bare, *meta = get_args(type_)
        return bare, tuple(meta)
    return type_, ()


def _with(type_: Any, meta: tuple[Any, ...]) -> Any:
    return Annotated[(type_, *meta)] if meta else type_


def _described(type_: Any) -> str:
    bare, meta = _bare(type_)
    if get_origin(bare) in (Union, UnionType):
        return next(filter(None, map(_described, get_args(bare))), "")
    if get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    return next((m.description for m in meta if getattr(m, "description", None)), "")


def _is_struct(type_: type) -> bool:
    return issubclass(type_, msgspec.Struct)


def _at(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    return str(value) if isinstance(value, int) else _kind(value)


def _decapitalise(text: str) -> str:
    return text[:1].lower() + text[1:]


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
