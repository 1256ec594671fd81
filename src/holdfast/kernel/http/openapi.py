"""The OpenAPI 3.1 document of an application, from the same declarations that serve it.

Schemas are msgspec's own, so that what is documented is what is decoded. The document is a pure
function of the routes: it is committed, and a test compares.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any, get_args, get_origin

import msgspec
from litestar import Litestar, Response

from holdfast.kernel.errors import HTTP_STATUS, Kind
from holdfast.kernel.http.problems import CONTENT_TYPE, TITLES, ProblemDocument
from holdfast.kernel.http.routes import WRITES, Argument, RouteRules, rules_of
from holdfast.kernel.principal import Permission

PATH_TEXT = r"^[^\u0000-\u001f\u007f-\u009f]*$(?!\n)"
"""The door refuses paths with control characters."""

REFERENCE = "#/components/schemas/{name}"


def openapi_document(app: Litestar) -> bytes:
    """The document: keys sorted, indented, ending in a line break; the same for the same routes."""
    rules = [each for each in rules_of(app) if each.in_schema]
    schemas = _Schemas(rules)
    paths: dict[str, dict[str, Any]] = {}
    for each in rules:
        path = re.sub(r"\{(\w+)(?::\w+)?\}", r"{\1}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each, schemas)
    found = {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast",
            "version": getattr(app, "spec").version,  # noqa: B009 — App, without a cycle
            "description": "Collect with a fleet, keep what you collected, prove where every "
            "number came from.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {
                "Problem": _problem_response("What went wrong"),
                **{_name(kind): _problem_response(title) for kind, title in TITLES.items()},
            },
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "tags": [{"name": name} for name in sorted({each.tag for each in rules})],
    }
    encoded = msgspec.json.encode(found, order="sorted")
    return msgspec.json.format(encoded, indent=2) + b"\n"


class _Schemas:
    """The schema of every type that the routes speak of."""

    def __init__(self, rules: Sequence[RouteRules]) -> None:
        wanted: list[Any] = [ProblemDocument]
        for each in rules:
            wanted += [argument.wanted for argument in each.arguments]
            wanted += [each.body.wanted] if each.body is not None else []
            wanted += [_content(each.answer)]
        known = [each for each in wanted if each is not None]
        found, self.components = msgspec.json.schema_components(known, ref_template=REFERENCE)
        self._known = list(zip(known, found, strict=True))

    def of(self, wanted: Any) -> dict[str, Any]:
        return next(schema for each, schema in self._known if each is wanted or each == wanted)


def _operation(rules: RouteRules, schemas: _Schemas) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": rules.operation_id,
        "tags": [rules.tag],
        "summary": rules.summary,
        "responses": _responses(rules, schemas),
        "x-permission": rules.permission.value,
        "security": [] if rules.permission is Permission.PUBLIC else [{"bearer": []}],
    }
    if "\n" in rules.description:
        found["description"] = rules.description
    if rules.arguments:
        found["parameters"] = [_parameter(each, schemas) for each in rules.arguments]
    if rules.body is not None:
        found["requestBody"] = {
            "required": rules.body_required,
            "content": {"application/json": {"schema": schemas.of(rules.body.wanted)}},
        }
    elif rules.method in WRITES and rules.accepts != ("application/json",):
        types_ = rules.accepts or ("application/octet-stream",)
        found["requestBody"] = {
            "required": True,
            "content": {name: {"schema": {}} for name in types_},
        }
    return found


def _parameter(each: Argument, schemas: _Schemas) -> dict[str, Any]:
    schema = _present(schemas.of(each.wanted))
    if not each.required and each.default is not None:
        schema = {**schema, "default": msgspec.to_builtins(each.default)}
    if each.place == "path" and schema == {"type": "string"}:
        schema = {**schema, "pattern": PATH_TEXT}
    found: dict[str, Any] = {
        "name": each.name,
        "in": each.place,
        "required": each.required,
        "schema": schema,
    }
    if each.many:
        found |= {"style": "form", "explode": True}
    return found


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is given has a value: ``null`` stands for one that is not."""
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    if not choices:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    return {**rest, **choices[0]} if len(choices) == 1 else {**rest, "anyOf": choices}


def _responses(rules: RouteRules, schemas: _Schemas) -> dict[str, Any]:
    content = _content(rules.answer)
    answer: dict[str, Any] = {"description": "Done"}
    if rules.media_type:
        answer["content"] = {rules.media_type: {}}
    elif content is not None and rules.status not in (204, 303, 304):
        answer["content"] = {"application/json": {"schema": schemas.of(content)}}
    found = {str(rules.status): answer}
    found |= {str(status): {"description": text} for status, text in rules.responses.items()}
    for kind in _kinds(rules):
        found.setdefault(str(HTTP_STATUS[kind]), {"$ref": f"#/components/responses/{_name(kind)}"})
    found["default"] = {"$ref": "#/components/responses/Problem"}
    return found


def _name(kind: Kind) -> str:
    return "".join(part.capitalize() for part in kind.value.split("-"))


def _kinds(rules: RouteRules) -> list[Kind]:
    """The failures worth naming for each operation; any other is told in the same form."""
    kinds = [Kind.INVALID, Kind.MISDIRECTED, Kind.UNAVAILABLE]
    if rules.permission is not Permission.PUBLIC:
        kinds += [Kind.UNAUTHENTICATED, Kind.DENIED]
    if any(each.place == "path" for each in rules.arguments):
        kinds.append(Kind.NOT_FOUND)
    if rules.method in WRITES:
        kinds += [Kind.CONFLICT, Kind.TOO_LARGE, Kind.UNSUPPORTED]
    return kinds


def _problem_response(description: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCE.format(name=ProblemDocument.__name__)}
    return {"description": description, "content": {CONTENT_TYPE: {"schema": schema}}}


def _content(answer: Any) -> Any:
    """What the JSON of an answer is, by the handler's annotation; ``None`` when it is not JSON."""
    if get_origin(answer) in (types.UnionType, typing.Union):
        parts = [part for part in get_args(answer) if part is not type(None)]
        return _content(parts[0]) if len(parts) == 1 else answer
    origin = get_origin(answer) or answer
    if isinstance(origin, type) and issubclass(origin, Response):
        inner = get_args(answer)
        return _content(inner[0]) if inner else None
    if answer in (Any, None, type(None), bytes, str) or not _is_data(answer):
        return None
    return answer


def _is_data(answer: Any) -> bool:
    try:
        msgspec.inspect.type_info(answer)
    except (TypeError, ValueError):
        return False
    return not isinstance(msgspec.inspect.type_info(answer), msgspec.inspect.CustomType)
