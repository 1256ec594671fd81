"""Where a JSON document has its records, and what kind of document it is. A guess."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from holdfast.collect.errors import ParseFailed
from holdfast.collect.paths import member_step
from holdfast.collect.recognised import Plain, Recognised, other


def json_of(text: str, whole: bool, records: str, kind: str = "") -> Recognised:
    text = text.lstrip("\ufeff \t\r\n\x1e")
    decoder = json.JSONDecoder()
    try:
        value, end = decoder.raw_decode(text)
    except ValueError as error:
        if not whole and kind in {"geojson", "json-stat"}:
            return Recognised({"type": kind})
        if not whole:
            found = Recognised(
                {"type": "json", "records": "$[*]" if text[:1] == "[" else "$.data[*]"}
            )
            found.notes.append("The document is too large to look through: check `records`.")
            return found
        raise ParseFailed(f"cannot write a profile: this is no JSON: {error}") from error
    except RecursionError as error:
        raise ParseFailed("cannot write a profile: JSON nested too deeply") from error
    feature = isinstance(value, dict) and value.get("type") == "Feature"
    if text[end:].strip("\x1e \t\r\n"):
        if kind in {"json", "json-stat"} or (kind == "geojson" and not feature):
            raise other(kind, "a document a line")
        sequence = feature and kind != "ndjson"
        return Recognised({"type": "geojson", "sequence": True} if sequence else {"type": "ndjson"})
    if kind == "ndjson":
        return Recognised({"type": "ndjson"})
    found = _of_value(value, records, kind)
    # Of an array of records the first is one of them: it says nothing of the whole.
    found.document = None if found.form.get("records") == "$[*]" else value
    return found


def _of_value(value: Any, records: str, kind: str) -> Recognised:
    said = value if isinstance(value, dict) else {}
    if not kind and not records and _is_sdmx(said):
        raise ParseFailed(
            "cannot write a profile: this is SDMX-JSON, whose values have numbers for names",
            hint="ask the source for CSV (format=csvdata, Accept: application/vnd.sdmx.data+csv) "
            "or SDMX-ML; --records reads a part of it",
        )
    features = said.get("type") == "FeatureCollection"
    cube = "dimension" in said and "value" in said and "size" in said
    if (kind == "geojson" and not features) or (kind == "json-stat" and not cube):
        raise other(kind, "other JSON")
    if features and kind != "json":
        found = said.get("features")
        return Recognised(
            {"type": "geojson"}, count=len(found) if isinstance(found, list) else None
        )
    if cube and kind != "json":
        return Recognised({"type": "json-stat"})
    return _records(value, records)


def _is_sdmx(said: dict[str, Any]) -> bool:
    inner = said.get("data")
    inner = inner if isinstance(inner, dict) else said
    sets = inner.get("dataSets")
    first = sets[0] if isinstance(sets, list) and sets else None
    return isinstance(first, dict) and bool({"series", "observations"} & set(first))


def _records(value: Any, given: str) -> Recognised:
    """The path that leads to most records: arrays of objects, or objects keyed by name."""
    if given:
        there = _first(value, given)
        form: Plain = {"type": "json", "records": given}
        if _is_arrays_under_a_header(there):
            form["header"] = True
        elif _is_columns(there):
            form["columns"] = True
        names = _keys(_names_walked(value, given))
        if names:
            form["keys"] = names
        count = len(there) if isinstance(there, list) else None
        around = [*(f"#{name}" for name in names), *_around(value, given)]
        return Recognised(form, around=around, count=count)
    best: tuple[int, int, str, int] | None = None
    for path, count, depth, keys in _candidates(value):
        score = (count, -depth)
        if best is None or score > (best[0], best[1]):
            best = (count, -depth, path, keys)
    columns = max(_columns(value), default=(0, ""))
    if columns[0] > (best[0] if best else 0):
        found = Recognised({"type": "json", "records": columns[1], "columns": True})
        found.notes.append("An object of columns, an array each: every place makes a record.")
        return found
    if best is None and (bare := max(_bare_rows(value), default=(0, ""))) > (1, ""):
        found = Recognised({"type": "json", "records": bare[1]}, count=bare[0])
        found.notes.append(
            "Arrays without names: what stands at which place ($[0], $[1], …) is for the source to "
            "say, and a column that it puts between them would be read as another."
        )
        return found
    if best is None:
        raise ParseFailed(
            "cannot write a profile: no list of records in this JSON",
            hint="--records says where they are, such as $.data[*]",
        )
    path = best[2]
    form = {"type": "json", "records": path}
    names = _keys(best[3])
    if names:
        form["keys"] = names
    if _is_arrays_under_a_header(_first(value, path)):
        form["header"] = True
    around = [*(f"#{name}" for name in names), *_around(value, path)]
    return Recognised(form, around=around, count=best[0])


def _keys(count: int) -> list[str]:
    """Names for the names of members that a path walks over: they tell its records apart."""
    return ["name"] if count == 1 else [f"key{number}" for number in range(1, count + 1)]


def _names_walked(value: Any, path: str) -> int:
    """How many of a path's wildcards walk over the members of objects."""
    from holdfast.collect import paths

    parts = path.split("[*]")
    nodes = (
        next(iter(paths.select(value, query)), None)
        for end in range(1, len(parts))
        if (query := paths.steps("[*]".join(parts[:end]))) is not None
    )
    return sum(1 for node in nodes if isinstance(node, dict))


def _bare_rows(value: Any) -> Iterator[tuple[int, str]]:
    """Arrays of arrays of one length, of plain values: how many, and the path to them."""
    waiting: list[tuple[Any, str]] = [(value, "$")]
    while waiting:
        node, path = waiting.pop()
        if isinstance(node, dict) and path.count("[") + path.count(".") < 8:
            waiting += [(one, path + member_step(name)) for name, one in node.items()]
        elif isinstance(node, list) and node and all(isinstance(one, list) for one in node[:200]):
            widths = {len(one) for one in node[:200]}
            plain = not any(isinstance(cell, dict | list) for one in node[:200] for cell in one)
            if plain and len(widths) == 1 and max(widths) > 1:
                yield len(node), f"{path}[*]"


def _candidates(value: Any) -> Iterator[tuple[str, int, int, int]]:
    """Paths to records: how many each leads to, its depth, and how many names it walks over."""
    counts: Counter[tuple[str, int, int]] = Counter()
    waiting: list[tuple[Any, str, int, int]] = [(value, "$", 0, 0)]
    while waiting:
        node, path, depth, keys = waiting.pop()
        if depth > 8:
            continue
        if isinstance(node, list):
            kinds = {type(one) for one in node[:200]}
            if kinds == {dict} or (kinds == {list} and _is_arrays_under_a_header(node)):
                counts[(f"{path}[*]", depth, keys)] += len(node)
            if len(kinds) == 1:
                waiting += [(one, f"{path}[*]", depth + 1, keys) for one in node[:5000]]
            else:
                waiting += [
                    (one, f"{path}[{i}]", depth + 1, keys) for i, one in enumerate(node[:20])
                ]
        elif isinstance(node, dict):
            if _is_keyed(node):
                if all(isinstance(one, dict) for one in node.values()):
                    counts[(f"{path}[*]", depth, keys + 1)] += len(node)
                waiting += [(one, f"{path}[*]", depth + 1, keys + 1) for one in node.values()]
            else:
                waiting += [
                    (one, path + member_step(n), depth + 1, keys) for n, one in node.items()
                ]
    for (path, depth, keys), count in counts.items():
        yield path, count, depth, keys


def _columns(value: Any) -> Iterator[tuple[int, str]]:
    """Objects of equally long arrays: how many records each makes, and where it stands."""
    waiting: list[tuple[Any, str]] = [(value, "$")]
    while waiting:
        node, path = waiting.pop()
        if _is_columns(node) and path != "$":
            yield len(next(cells for cells in node.values() if isinstance(cells, list))), path
        elif isinstance(node, dict) and path.count("[") + path.count(".") < 8:
            waiting += [(one, path + member_step(name)) for name, one in node.items()]


def _is_columns(node: Any) -> bool:
    """Two or more arrays of one length, of plain values."""
    if not isinstance(node, dict):
        return False
    arrays = [one for one in node.values() if isinstance(one, list)]
    return (
        len(arrays) > 1
        and len(arrays) * 2 > len(node)
        and len({len(one) for one in arrays}) == 1
        and len(arrays[0]) > 1
        and not any(isinstance(cell, dict | list) for one in arrays for cell in one[:200])
    )


def _is_keyed(node: dict[str, Any]) -> bool:
    """Whether the members are data keyed by name: many, and all of one shape."""
    if len(node) < 4 or not all(isinstance(one, dict | list) and one for one in node.values()):
        return False
    shapes = {
        tuple(sorted(one))[:6] if isinstance(one, dict) else type(one[0]).__name__
        for one in node.values()
    }
    return len(shapes) <= max(1, len(node) // 10)


def _is_arrays_under_a_header(node: Any) -> bool:
    if not isinstance(node, list) or len(node) < 2 or not isinstance(node[0], list):
        return False
    width = len(node[0])
    return (
        width > 1
        and all(isinstance(name, str) and name for name in node[0])
        and len(set(node[0])) == width
        and all(isinstance(row, list) and len(row) == width for row in node[:200])
    )


def _first(value: Any, path: str) -> Any:
    """The array at a records path, where it is one without wildcards before its end."""
    from holdfast.collect import paths

    plain = paths.singular(path.removesuffix("[*]"))
    return paths.follow(plain)(value) if plain is not None else None


def _around(value: Any, path: str) -> list[str]:
    """Scalars of the elements that a nested records path goes through: they tell series apart."""
    from holdfast.collect import paths

    parts = path.split("[*]")
    found: list[str] = []
    for end in range(1, len(parts) - 1):
        prefix = "[*]".join(parts[:end]) + "[*]"
        query = paths.steps(prefix)
        node = next(iter(paths.select(value, query)), None) if query else None
        if isinstance(node, dict):
            found += [
                f"${prefix}{member_step(name)}"
                for name, one in node.items()
                if isinstance(one, str | int) and not isinstance(one, bool) and len(str(one)) < 200
            ]
    return found[:8]
