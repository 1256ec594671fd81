"""The published JSON Schema of a profile, and its complaints in words.

Generated from the model, so that it cannot drift. Unions are written as ``if``/``then`` on the
member ``type`` or on the kind of value: a validator then says what is wrong with the part that was
meant, instead of "not valid under any of the given schemas".
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.kernel.errors import Problem
from holdfast.registry import model, parts, source
from holdfast.registry.document import Document, Place, dotted

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError

SCHEMA_ID = "urn:holdfast:profile:1"
_MODEL = (parts, source, model)
HINTS_MAX = 200
NEAR_MAX = 200
SHOWN_MAX = 40
"""Bounds on what is compared and shown: a long list of faults must not cost long either."""

_DECIMAL_PATTERN = r"^-?[0-9]+(\.[0-9]+)?$"
_FIELD_NAME_PATTERN = r"[a-z][a-z0-9_]{0,62}"
_FIELD_NAME = "lower-case words joined by _"


@cache
def profile_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a profile as people write it."""
    generated = msgspec.json.schema(model.Profile)
    definitions: dict[str, Any] = generated["$defs"]
    texts = member_texts()
    for name, definition in definitions.items():
        definition["description"] = _one_line(definition.get("description", ""))
        for member, node in definition.get("properties", {}).items():
            definition["properties"][member] = _flat(node, definitions)
            if said := texts.get((name, member)):
                definition["properties"][member]["description"] = said
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Holdfast profile, version 1",
        "$ref": "#/$defs/Profile",
        "$defs": dict(sorted(definitions.items())),
    }


@cache
def member_texts() -> dict[tuple[str, str], str]:
    """What the model says of each member of each part: (class, member) → sentence.

    Read from the docstrings under the members in the model's source text, inherited ones included.
    """
    texts: dict[tuple[str, str], str] = {}
    bases: dict[str, list[str]] = {}
    classes = (node for each in _MODEL for node in ast.parse(inspect.getsource(each)).body)
    for node in classes:
        if not isinstance(node, ast.ClassDef):
            continue
        bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
        for base in bases[node.name]:
            inherited = [(key, text) for key, text in texts.items() if key[0] == base]
            texts |= {(node.name, member): text for (_, member), text in inherited}
        for member, following in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(member, ast.AnnAssign)
                and isinstance(member.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                text = _one_line(str(following.value.value))
                texts[node.name, member.target.id] = text
    return texts


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _flat(node: Any, definitions: dict[str, Any]) -> Any:
    """``node`` with its unions told apart and decimals admitted as numbers."""
    if isinstance(node, list):
        return [_flat(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "anyOf" in node:
        return _union(node, definitions)
    if node.get("pattern") == _DECIMAL_PATTERN:
        return {**node, "type": ["string", "number"]}
    return {
        key: value if key in {"default", "enum"} else _flat(value, definitions)
        for key, value in node.items()
    }


def _union(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in node.items() if key not in {"anyOf", "discriminator"}}
    branches = list(_branches(node))
    tagged = {
        _tag(branch["$ref"], definitions): branch for branch in branches if _is_tagged(branch, node)
    }
    kinds: dict[str, dict[str, Any]] = {}
    if tagged:
        kinds["object"] = _by_tag(tagged)
    for branch in branches:
        if branch in tagged.values():
            continue
        flat = _flat(branch, definitions)
        kinds[_kind(flat)] = flat
    if len(kinds) == 1:
        return rest | next(iter(kinds.values()))
    types = sorted(
        {name for kind, flat in kinds.items() for name in _types(kind, flat)},
        key=["object", "array", "string", "integer", "number", "boolean", "null"].index,
    )
    guarded = [
        {"if": {"type": kind}, "then": {key: item for key, item in flat.items() if key != "type"}}
        for kind, flat in kinds.items()
        if set(flat) - {"type"}
    ]
    return rest | {"type": types} | ({"allOf": guarded} if guarded else {})


def _branches(node: dict[str, Any]) -> Any:
    for branch in node["anyOf"]:
        if "anyOf" in branch:
            yield from _branches(branch)
        else:
            yield branch


def _is_tagged(branch: dict[str, Any], node: dict[str, Any]) -> bool:
    return "$ref" in branch and "discriminator" in msgspec.json.encode(node).decode()


def _tag(reference: str, definitions: dict[str, Any]) -> str:
    tag: str = definitions[reference.rsplit("/", 1)[1]]["properties"]["type"]["enum"][0]
    return tag


def _by_tag(tagged: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(tagged)}},
        "allOf": [
            {
                "if": {
                    "type": "object",
                    "properties": {"type": {"const": tag}},
                    "required": ["type"],
                },
                "then": branch,
            }
            for tag, branch in tagged.items()
        ],
    }


def _kind(flat: dict[str, Any]) -> str:
    if "$ref" in flat:
        return "object"
    found = flat.get("type", "string")
    return found if isinstance(found, str) else str(found[0])


def _types(kind: str, flat: dict[str, Any]) -> list[str]:
    found = flat.get("type", kind)
    return [found] if isinstance(found, str) else list(found)


# --- complaints ---------------------------------------------------------------------------------


@cache
def _validator() -> Any:
    """The compiled schema. Nothing is fetched: every reference is inside it."""
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(profile_schema(), retriever=_refuse)


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is not read")


def schema_problems(document: Document) -> list[tuple[Place, Problem]]:
    """Everything in which the document departs from the schema, each with its place.

    The first two hundred say what would be right; beyond that nobody reads.
    """
    found: list[tuple[Place, Problem]] = []
    for error in _validator().iter_errors(document.plain):
        found.extend(_told(error, document, HINTS_MAX - len(found)))
    return sorted(found, key=lambda item: (item[1].line, item[1].path))


def _told(error: ValidationError, document: Document, hints: int) -> list[tuple[Place, Problem]]:
    place = tuple(error.instance_path)
    kind: Any = error.kind
    instance: Any = error.instance
    if kind.name == "additionalProperties":
        known = list(_node(error.schema_path[:-1]).get("properties", {}))
        return [
            _unknown((*place, member), known if index < hints else [], document)
            for index, member in enumerate(kind.unexpected)
        ]
    if kind.name == "required":
        missing = (*place, kind.property)
        said = f"{kind.property} is missing"
        return [(missing, document.problem(missing, said, _meaning(error, kind.property)))]
    if kind.name == "propertyNames":
        return [
            ((*place, name), document.problem((*place, name), f"{name!r} is no name", _FIELD_NAME))
            for name in instance
            if not re.fullmatch(_FIELD_NAME_PATTERN, name)
        ]
    message, hint = _sentence(error, kind, document.spelled.get(place))
    return [(place, document.problem(place, message, hint))]


def _only(error: ValidationError, option: str) -> str:
    """What a member takes of which one word is known: that word, and whatever else it may be."""
    if list(error.instance_path) == ["key"]:
        return f"it must be a list of fields, such as [dimensions.region], or {option}"
    return f"it must be {option}"


MEANT = {"column": "path", "field": "path", "from": "path", "jsonpath": "path", "xpath": "path"}
"""What others call a member: nearer in meaning than what is spelled like it."""


def _unknown(place: Place, known: list[str], document: Document) -> tuple[Place, Problem]:
    member = str(place[-1])
    inside = dotted(place[:-1]) or "a profile"
    meant = MEANT.get(member, "")
    hint = f"did you mean {meant}?" if meant in known else did_you_mean(member, known)
    return place, document.problem(place, f"{member} is not a member of {inside}", hint)


def did_you_mean(word: str, known: list[str], *, compared: int = NEAR_MAX) -> str:
    """``did you mean …?``, or the choice where nothing is near."""
    near = difflib.get_close_matches(word, known[:compared], n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    more = ", …" if len(known) > SHOWN_MAX else ""
    return f"known are {', '.join(known[:SHOWN_MAX])}{more}" if known else ""


def _meaning(error: ValidationError, member: str) -> str:
    node = _node(error.schema_path[:-1])
    said = node.get("properties", {}).get(member, {})
    if "enum" in said:
        return f"one of {', '.join(map(str, said['enum']))}"
    words = str(said.get("description", "")).rstrip(".").split(". ")[0]
    return words.replace("``", "").replace("`", "")


@cache
def _pattern_texts() -> dict[str, str]:
    """What each pattern of the model means, as the model says it."""
    texts: dict[str, str] = {}
    for value in vars(parts).values():
        for note in getattr(value, "__metadata__", ()):
            if isinstance(note, msgspec.Meta) and note.pattern:
                texts[note.pattern] = note.description or note.pattern
    return texts


def _node(path: list[str | int]) -> dict[str, Any]:
    node: Any = profile_schema()
    for step in path:
        node = node[step]
    assert isinstance(node, dict)
    return node


_KINDS = {
    "string": "a text",
    "object": "a mapping",
    "array": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}


def _sentence(error: ValidationError, kind: Any, spelled: str | None) -> tuple[str, str]:
    """The complaint in words, and what would be right."""
    value: Any = error.instance
    match kind.name:
        case "type":
            return _wrong_kind(value, spelled, list(kind.value))
        case "enum":
            options = [str(option) for option in kind.options]
            if len(options) == 1:
                return f"{_shown(value)} is not known here", _only(error, options[0])
            near = did_you_mean(str(value), options)
            hint = near if near.startswith("did") else f"one of {', '.join(options)}"
            return f"{_shown(value)} is not known here", hint
        case "pattern":
            return f"{_shown(value)} is not of the form needed", _pattern_texts()[kind.pattern]
        case "minimum" | "maximum":
            bound = kind.limit if hasattr(kind, "limit") else kind.value
            least = kind.name == "minimum"
            return f"{_shown(value)} is too {'small' if least else 'large'}", (
                f"at {'least' if least else 'most'} {bound}"
            )
        case "maxItems" | "maxProperties":
            limit = kind.limit if hasattr(kind, "limit") else kind.value
            return f"{len(value)} are too many", f"at most {limit}"
        case "minLength":
            return "this is empty", ""
        case "maxLength":
            limit = kind.limit if hasattr(kind, "limit") else kind.value
            return f"{len(value)} characters are too many", f"at most {limit}"
        case _:
            return str(error.message), ""


def _wrong_kind(value: Any, spelled: str | None, wanted: list[str]) -> tuple[str, str]:
    needed = " or ".join(_KINDS[name] for name in wanted if name != "null")
    if value is None:
        return f"nothing is given here; {needed} is needed", ""
    hint = ""
    if "string" in wanted and spelled is not None:
        hint = f'write "{spelled}" in quotes to keep it as a text'
    elif wanted == ["array"] and isinstance(value, str):
        hint = f"write [{value}]"
    return f"{needed} is needed, not {_shown(value)}", hint


def _shown(value: Any) -> str:
    """A value in a message: short, and never a whole document."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return f"the number {value}"
    text = str(value)
    return f"{text[:60]!r}…" if len(text) > 60 else repr(text)
