"""Whether the paths of a profile can be followed in its format. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from holdfast.kernel.errors import Problem
from holdfast.registry.model import (
    COLUMN,
    VALUE,
    Profile,
    cell_paths,
    is_tabular,
)
from holdfast.registry.schema import did_you_mean
from holdfast.registry.source import (
    CsvFormat,
    FeedFormat,
    GeojsonFormat,
    JsonFormat,
    JsonStatFormat,
    NdjsonFormat,
    XmlFormat,
)
from holdfast.registry.xpath import FEED_NAMESPACES, path_problem

_JSON = (JsonFormat, NdjsonFormat, GeojsonFormat)
_JSON_BODIES = (*_JSON, JsonStatFormat)


def value_path_problems(profile: Profile, path: str, where: str) -> Iterator[Problem]:
    """A path that leads from a record to a value."""
    form = profile.source.format
    if path in cell_paths(profile):
        return
    if path in {COLUMN, VALUE}:
        yield Problem(where, f"{path} needs unpivot")
    elif is_tabular(form):
        named: list[str] | None = None
        if isinstance(form, CsvFormat):
            named = list(form.places) or (form.header if isinstance(form.header, list) else None)
        if named is not None:
            if path not in named:
                yield Problem(
                    where, f"there is no column {path}", did_you_mean(path, named, compared=50)
                )
        elif path.startswith(("$.", "$[", "@.")):
            yield Problem(where, f"{path} is a JSONPath; a table has columns", "give its name")
    elif path.startswith("#"):
        keys = form.keys if isinstance(form, JsonFormat) else []
        if path[1:] not in keys:
            yield Problem(where, f"{path} is not one of the format's keys", "source.format.keys")
    elif isinstance(form, _JSON):
        yield from _json_path(path, where)
    elif isinstance(form, XmlFormat | FeedFormat):
        yield from _xpath(form, path, where)


def _xpath(form: XmlFormat | FeedFormat, path: str, where: str) -> Iterator[Problem]:
    if path.startswith(("$", "@.")):
        near = path.lstrip("$@.").replace(".", "/")
        yield Problem(where, f"{path} is a JSONPath; XML has XPath", f"did you mean {near}?")
        return
    known = form.namespaces
    if isinstance(form, FeedFormat):
        known = {**FEED_NAMESPACES, **known}
    if problem := path_problem(path, known):
        yield Problem(where, f"{path} cannot be used: {problem}")


def body_path_problems(profile: Profile, path: str, where: str) -> Iterator[Problem]:
    """A path into the whole body, for pagination."""
    if not isinstance(profile.source.format, _JSON_BODIES):
        yield Problem(where, "only a JSON body has such a path")
    else:
        yield from _json_path(path, where)


def _json_path(path: str, where: str) -> Iterator[Problem]:
    if path.startswith("$$"):
        path = path[1:]
    elif path.startswith("@"):
        path = "$" + path[1:]
    if not path.startswith("$"):
        yield Problem(where, f"{path!r} is no JSONPath", f"did you mean $.{path}?")
        return
    query = _query(path)
    if isinstance(query, str):
        yield Problem(where, f"{path!r} is no JSONPath (RFC 9535): {query}")


def records_path_problems(path: str, where: str) -> Iterator[Problem]:
    """Where records are must be walked as a stream: names, indexes and ``[*]`` only."""
    query = _query(path) if path.startswith("$") else "it begins with $"
    if isinstance(query, str):
        yield Problem(where, f"{path!r} is no JSONPath (RFC 9535): {query}")
        return
    if not _is_plain(query):
        yield Problem(
            where,
            f"{path} cannot be read as a stream",
            "use names, indexes and [*], such as $.data[*]",
        )


def _is_plain(query: Any) -> bool:
    """Whether a query is one of names, indexes and ``[*]``."""
    plain = {"NameSelector", "IndexSelector", "WildcardSelector"}
    return all(
        type(segment).__name__ == "JSONPathChildSegment"
        and len(segment.selectors) == 1
        and type(segment.selectors[0]).__name__ in plain
        for segment in query.segments
    )


_CONTROL = re.compile(r"(?<!\\)((?:\\\\)*)\\u00[01][0-9A-Fa-f]")
"""A control character as RFC 9535 writes it in a name. The library knows none but those with a
letter of their own; plain paths are not its to follow, so there it is shown another character."""


@lru_cache(maxsize=512)
def _query(path: str) -> Any:
    """The compiled query, or why it is none."""
    from jsonpath import JSONPathEnvironment, JSONPathError

    compiled = JSONPathEnvironment(strict=True).compile
    try:
        shown = compiled(_CONTROL.sub(r"\1\\ufffd", path))
        return shown if _is_plain(shown) else compiled(path)
    except JSONPathError as error:
        return str(error).strip().partition("\n")[0]
    except RecursionError:
        return "nested too deeply"


def origin_problems(
    place: str, path: str | None, join: list[str], constant: str | None = None
) -> Iterator[Problem]:
    """A value comes from exactly one of the places that are offered."""
    given = [path is not None, bool(join), constant is not None]
    if sum(given) != 1:
        choice = "path, join and constant" if place != "period" else "path and join"
        yield Problem(place, f"exactly one of {choice} is needed, {sum(given)} are given")
