"""What a page is: its format and where its records are, told from its beginning. A guess.

Nothing here is used by a run. It helps people to start a profile; what it cannot tell it says.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from lxml import etree

from holdfast.collect.content import SpooledContent, is_folder
from holdfast.collect.encodings import (
    as_browsers,
    believed,
    is_parquet,
    known,
    marked,
    refuse_no_text,
)
from holdfast.collect.errors import MappingRefused, ParseFailed
from holdfast.collect.formats import ods, xlsx
from holdfast.collect.formats.around import first_text
from holdfast.collect.formats.names import JOINT, joined_names
from holdfast.collect.formats.xml import declared_encoding, split_name
from holdfast.collect.infer import NULL_SPELLINGS
from holdfast.collect.model import MEBIBYTE, Bounds
from holdfast.collect.paths import member_step

ROWS_LOOKED_AT = 1_000
HEAD_BYTES = 32 * MEBIBYTE
_LINES = 400
_DATA_NAMES = (
    ".csv", ".tsv", ".txt", ".json", ".ndjson", ".jsonl", ".geojson", ".xml", ".xlsx", ".ods",
)  # fmt: skip

Plain = dict[str, Any]


class Recognised:
    """``source``: the members of a profile's source that say how to read the page.

    ``around`` are paths that lead out of a record to what probably identifies it; ``notes`` are for
    the person who reads the draft. ``document`` is what a JSON text holds, ``count`` how many
    records, as far as that is known.
    """

    def __init__(
        self, form: Plain, *, around: list[str] | None = None, count: int | None = None
    ) -> None:
        self.document: Any = None
        self.count = count
        self.source: Plain = {"format": form}
        self.around = around or []
        self.notes: list[str] = []

    @property
    def form(self) -> Plain:
        found: Plain = self.source["format"]
        return found


def recognise(
    path: Path,
    *,
    charset: str = "",
    kind: str = "",
    records: str = "",
    sheet: str = "",
    header_row: int = 0,
) -> Recognised:
    """The format of the file at ``path``.

    ``kind`` is the format's type, ``records`` where its records are, ``sheet`` and ``header_row``
    where the table of a workbook is, as far as a person knows.

    Raises :class:`ParseFailed` where it is none that a profile can read, and says what it seems to
    be.
    """
    bounds = Bounds()
    member = ""
    with path.open("rb") as raw:
        start = raw.read(16)
    if start.startswith(b"PK"):
        member = _member(path)
        if _is_workbook(path):
            if kind not in {"", "xlsx"}:
                raise _other(kind, "a workbook (.xlsx)")
            return _workbook(path, "xlsx", sheet, header_row)
        if _is_ods(path):
            if kind not in {"", "ods"}:
                raise _other(kind, "an OpenDocument spreadsheet (.ods)")
            return _workbook(path, "ods", sheet, header_row)
        inside = (member or _lone(path)).lower()
        if inside.endswith((".xlsx", ".ods")) and kind in {"", "xlsx", "ods"}:
            return _workbook(path, inside.rpartition(".")[2], sheet, header_row, member)
    if is_parquet(start):
        raise ParseFailed(
            "cannot write a profile: this is Parquet, which is not read",
            hint="ask the source for CSV or JSON, or bring a format of your own",
        )
    if start.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise ParseFailed(
            "cannot write a profile: this is an old workbook (.xls)", hint="save it as .xlsx"
        )
    if kind in {"xlsx", "ods"} or sheet or header_row:
        raise _other(kind or "xlsx", "no workbook")
    content = SpooledContent(path, bounds, "auto", member)
    with content.open() as stream:
        data = stream.read(HEAD_BYTES + 1)
    whole = len(data) <= HEAD_BYTES
    refuse_no_text(data)
    said = charset or declared_encoding(data)
    if said and not marked(data) and _says_wrong(content, said):
        text, encoding = _decoded(data[:HEAD_BYTES], "", whole)[0], "utf-8"
    else:
        text, encoding = _decoded(data[:HEAD_BYTES], charset, whole)
    if encoding == "utf-8":
        data = data.removeprefix(codecs.BOM_UTF8)
    found = _of_text(text, data, kind, whole, records)
    tag = found.form["type"]
    if encoding and (tag in _NAMED or (encoding == "utf-8" and tag in {"xml", "feed"})):
        found.form["encoding"] = encoding
        found.notes.append(
            f"The source says {said}, and the bytes are UTF-8 (`encoding`)."
            if encoding == "utf-8"
            else _said_of(encoding, text)
        )
    if member:
        found.source["member"] = member
    return found


def _lone(path: Path) -> str:
    """The name of the only file in an archive."""
    try:
        entries = zipfile.ZipFile(path).infolist()
    except (zipfile.BadZipFile, OSError):
        return ""
    names = [entry.filename for entry in entries if not is_folder(entry)]
    return names[0] if len(names) == 1 else ""


def _is_workbook(path: Path) -> bool:
    try:
        return any("workbook.xml" in name for name in zipfile.ZipFile(path).namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _is_ods(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("mimetype") as said:
            return said.read(100).strip() == b"application/vnd.oasis.opendocument.spreadsheet"
    except (zipfile.BadZipFile, OSError, KeyError):
        return False


def _workbook(path: Path, kind: str, sheet: str, header_row: int, member: str = "") -> Recognised:
    form: Plain = {"type": kind}
    if sheet:
        form["sheet"] = sheet
    if header_row:
        form["header_row"] = header_row
    found = Recognised(form)
    read = ods.first_rows if kind == "ods" else xlsx.first_rows
    content = SpooledContent(path, Bounds(), "auto", member)
    if member:
        found.source["member"] = member
    rows = read(content, sheet or 1, max(0, header_row - 1) + _ROWS_ABOVE + 3)
    above = header_row - 1 if header_row else _rows_above(rows)
    if above and not header_row:
        form["header_row"] = above + 1
        said = next(str(cell) for row in rows[:above] for cell in row if cell)
        found.notes.append(
            f"What stands above row {above + 1} is taken for a title, and that row for the header "
            f"(`header_row`): {said[:80]!r}."
        )
    rows = rows[above : above + 3]
    if len(rows) == 3 and _is_double(rows[0], rows[1], rows[2]):
        form["header_rows"] = 2
        found.notes.append(_DOUBLE)
    if not sheet:
        found.notes.append(
            "The first sheet is read; --sheet names another, --header-row the header."
        )
    return found


_ROWS_ABOVE = 10


def _rows_above(rows: Sequence[Sequence[Any]]) -> int:
    """How many rows at the beginning of a sheet hold one cell at most, where a table follows."""
    cells = [sum(1 for cell in row if cell) for row in rows]
    above = next((place for place, told in enumerate(cells) if told > 1), 0)
    if not any(cells[:above]) or above > _ROWS_ABOVE:
        return 0
    double = len(rows) > above + 1 and above == 1 and _is_double(rows[0], rows[1], rows[2])
    return 0 if double else above


def _other(kind: str, what: str) -> ParseFailed:
    return ParseFailed(
        f"cannot write a profile: this is {what}, and no {kind}",
        hint="without --format it is told from the bytes",
    )


def _member(path: Path) -> str:
    """The file of an archive to read: its only one, or the largest that looks like data."""
    try:
        entries = [e for e in zipfile.ZipFile(path).infolist() if not is_folder(e)]
    except (zipfile.BadZipFile, OSError) as error:
        raise ParseFailed(f"cannot write a profile: a broken archive: {error}") from error
    if len(entries) < 2:
        return ""
    data = [e for e in entries if e.filename.lower().endswith(_DATA_NAMES)] or entries
    return max(data, key=lambda entry: entry.file_size).filename


_NAMED = frozenset({"csv", "json", "ndjson"})
"""Formats whose encoding nothing in the bytes says."""


def _says_wrong(content: SpooledContent, said: str) -> bool:
    """Whether the source says another encoding than UTF-8 of bytes that are."""
    try:
        known(said)
    except MappingRefused:
        return False
    try:
        believed(content, said, "it")
    except ParseFailed:
        return True
    return False


def _decoded(data: bytes, charset: str, whole: bool) -> tuple[str, str]:
    """The text, and the encoding that a profile must name because nothing else does."""
    if not charset and not marked(data) and (wide := _wide(data)):
        return data.decode(wide, "replace"), wide
    for name in dict.fromkeys([marked(data) or charset or "utf-8", "utf-8"]):
        try:
            # A beginning may end within a letter.
            decoder = codecs.getincrementaldecoder(as_browsers(known(name)))("strict")
            return decoder.decode(data, whole), ""
        except (UnicodeError, MappingRefused):
            continue
    for name in ("windows-1252", "shift_jis", "cp932", "gb18030", "euc-kr", "cp949"):
        with contextlib.suppress(UnicodeError):
            return codecs.getincrementaldecoder(known(name))("strict").decode(data, whole), name
    return data.decode("cp1252", "replace"), "windows-1252"


def _said_of(encoding: str, text: str) -> str:
    """What a person should know of an encoding that was guessed."""
    letters = [c for c in text[:_LOOKED_AT] if c.isalpha() or c == "\ufffd"]
    foreign = sum(1 for c in letters if not c.isascii())
    if 2 * foreign > len(letters) or not encoding.startswith(("windows", "utf")):
        return (
            f"The bytes are no UTF-8, and {encoding} is but a guess: put the right name at "
            "`encoding` (windows-1251, koi8-r, shift_jis, gb18030, euc-kr, big5, …)."
        )
    return f"The bytes are no UTF-8; {encoding} fits. Check the letters with accents."


_LOOKED_AT = 20_000


def _wide(data: bytes) -> str:
    """The UTF-16 that text without a mark is: every other byte of what it begins with is a zero."""
    head = data[:64]
    for name, zeros, letters in (
        ("utf-16-le", head[1::2], head[0::2]),
        ("utf-16-be", head[0::2], head[1::2]),
    ):
        if len(zeros) > 2 and not any(zeros) and all(letters):
            return name
    return ""


_JSON_KINDS = frozenset({"json", "ndjson", "geojson", "json-stat"})


def _of_text(text: str, data: bytes, kind: str, whole: bool, records: str) -> Recognised:
    begin = text.lstrip("\ufeff \t\r\n\x1e")[:2000]
    lowered = begin.lower()
    if not begin:
        raise ParseFailed("cannot write a profile: there is nothing in it")
    if not kind and _PX.search(begin):
        raise ParseFailed(
            "cannot write a profile: this is PC-Axis (.px), which is not read",
            hint="where it comes from gives JSON-stat, too: ask for json-stat2",
        )
    if kind in {"csv", "tsv"}:
        return _table(text)
    if kind in {"xml", "feed"} or (begin.startswith("<") and kind not in _JSON_KINDS):
        if lowered.startswith("<!doctype html") or "<html" in lowered[:500]:
            raise ParseFailed(
                "cannot write a profile: this is a web page, not data",
                hint="look for its download link (CSV, JSON, XML, XLSX) or its API",
            )
        return _markup(data, whole, records, kind)
    if kind in _JSON_KINDS or begin[:1] in {"{", "["}:
        return _json(text, whole, records, kind)
    return _table(text)


# --- JSON -----------------------------------------------------------------------------------------


def _json(text: str, whole: bool, records: str, kind: str = "") -> Recognised:
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
            raise _other(kind, "a document a line")
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
        raise _other(kind, "other JSON")
    if features and kind != "json":
        found = said.get("features")
        return Recognised(
            {"type": "geojson"}, count=len(found) if isinstance(found, list) else None
        )
    if cube and kind != "json":
        return Recognised({"type": "json-stat"})
    return _records(value, records)


_PX = re.compile(r'^(CHARSET|AXIS-VERSION)="[^"]*";', re.M)


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


# --- XML ------------------------------------------------------------------------------------------


def _markup(data: bytes, whole: bool, records: str, kind: str) -> Recognised:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, recover=not whole,
        remove_comments=True, remove_pis=True, huge_tree=False,
    )  # fmt: skip
    try:
        root: Any = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ParseFailed(f"cannot write a profile: this is no XML: {str(error)[:200]}") from error
    if root is None:
        raise ParseFailed("cannot write a profile: this is no XML")
    found = _of_markup(root, records, kind)
    matched, returned = root.get("numberMatched", ""), root.get("numberReturned", "")
    if matched.isdigit() and returned.isdigit() and int(matched) > int(returned):
        found.notes.append(
            f"This is a part (numberMatched is {matched}, numberReturned {returned}): ask for all "
            "at once, or for JSON with `pagination`."
        )
    return found


def _of_markup(root: Any, records: str, kind: str) -> Recognised:
    namespaces = _prefixes(root)
    if records:
        return Recognised({"type": "xml", "records": records, "namespaces": namespaces})
    feed = split_name(root.tag)[1] in {"rss", "feed", "RDF"}
    if kind == "feed" and not feed:
        raise _other(kind, "other XML")
    if feed and kind != "xml":
        from holdfast.registry.xpath import FEED_NAMESPACES

        known = set(FEED_NAMESPACES.values())
        extra = {prefix: uri for prefix, uri in namespaces.items() if uri not in known}
        return Recognised({"type": "feed", **({"namespaces": extra} if extra else {})})
    return _repeated(root, namespaces)


_XML = "http://www.w3.org/XML/1998/namespace"
"""What ``xml:lang`` is in: no document declares it."""


def _prefixes(root: Any) -> dict[str, str]:
    """A prefix for each of the first namespaces; the default one needs one of ours."""
    found: dict[str, str] = {}
    for element in root.iter():
        if any(name.startswith(f"{{{_XML}}}") for name in element.attrib):
            found["xml"] = _XML
        for prefix, uri in element.nsmap.items():
            if uri not in found.values():
                name = prefix or "d"
                while name in found:
                    name += "x"
                found[name] = uri
        if len(found) > 30:
            break
    return found


def _repeated(root: Any, namespaces: dict[str, str]) -> Recognised:
    """The element that comes most often with something in it, by its path from the root."""
    prefixes = {uri: prefix for prefix, uri in namespaces.items()}

    def named(tag: str) -> str:
        namespace, local = split_name(tag)
        return f"{prefixes[namespace]}:{local}" if namespace else local

    def nameable(tag: Any) -> bool:
        """Neither a reference to an entity nor in a namespace that came after the first ones."""
        return isinstance(tag, str) and split_name(tag)[0] in {"", *prefixes}

    counts: Counter[tuple[str, ...]] = Counter()
    leaves: Counter[tuple[str, ...]] = Counter()
    examples: dict[tuple[str, ...], Any] = {}
    for element in root.iter():
        if not nameable(element.tag):
            continue
        path = (*[one.tag for one in reversed(list(element.iterancestors()))], element.tag)
        counts[path] += 1
        leaves[path] += len(element) + len(element.attrib)
        examples.setdefault(path, element)
    good = [
        p for p in counts if counts[p] > 1 and leaves[p] / counts[p] >= 2 and all(map(nameable, p))
    ]
    if not good:
        raise ParseFailed(
            "cannot write a profile: no element of this XML is repeated with values in it",
            hint="--records is the path of the repeated element, such as //row",
        )
    # A series of few values has more words in its key than values: those of SDMX have a name.
    observed = [p for p in counts if split_name(p[-1])[1] == "Obs" and all(map(nameable, p))]
    if "sdmx" in split_name(root.tag)[0].lower() and observed:
        good = observed
    path = max(good, key=lambda p: (counts[p], -len(p)))
    # Values of a record may themselves be repeated: their parent is the record then.
    while (
        len(path) > 2
        and counts[path[:-1]] * 40 > counts[path]
        and counts[path[:-1]] > 1
        and set(examples[path].attrib) <= {"id", "name", "value", "concept"}
        and not len(examples[path])
    ):
        path = path[:-1]
    used = {split_name(tag)[0] for tag in path}
    around_it = list(reversed(path[:-1]))
    records = (
        one for one in root.iter(path[-1]) if [p.tag for p in one.iterancestors()] == around_it
    )
    for record in islice(records, ROWS_LOOKED_AT):  # not each has what one of them has
        for element in record.iter():
            used |= {split_name(n)[0] for n in (element.tag, *element.attrib) if nameable(n)}
    parent = examples[path].getparent()
    around = (
        _series(parent, path[-1], named, nameable) if parent is not None and len(path) > 2 else []
    )
    for expression in around:
        used |= {namespaces[p] for p in re.findall(r"(\w+):", expression) if p in namespaces}
    form: Plain = {"type": "xml", "records": "/" + "/".join(named(tag) for tag in path)}
    kept = {prefix: uri for prefix, uri in namespaces.items() if uri in used}
    if kept:
        form["namespaces"] = kept
    return Recognised(form, around=around)


def _series(parent: Any, record: str, named: Any, nameable: Any) -> list[str]:
    """What stands around a record: its parent's attributes, and values beside it by their id."""
    told = [name for name in parent.attrib if "schemaLocation" not in name and nameable(name)]
    found = [f"../@{named(name)}" for name in told]
    for child in parent:
        if child.tag == record or not nameable(child.tag):
            continue
        inner = [
            one
            for one in child
            if nameable(one.tag) and one.get("id") and one.get("value") is not None
        ]
        found += [
            f"../{named(child.tag)}/{named(one.tag)}[@id='{one.get('id')}']/@value"
            for one in inner
            if "'" not in one.get("id")
        ]
        if not len(child) and (child.text or "").strip():
            found.append(f"../{named(child.tag)}")
    return found[:12]


# --- tables ---------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"[-+(\u2212\uff0d]?[\d.,'\u2019 \u00a0\u202f]*\d[\d.,'\u2019 \u00a0\u202f]*[)%]?"
    r"(?:[eE][-+]?\d+)?"
)


def _is_number(cell: str) -> bool:
    """Nothing long is one, and to look at it would take as long as the square of it."""
    return len(cell) <= 64 and _NUMBER.fullmatch(cell) is not None


_TOLD = re.compile(r'"?sep=(.)"?\s*', re.I)


def _table(text: str) -> Recognised:
    lines = text.splitlines(keepends=True)[:_LINES]
    comment = next((mark for mark in ("#", "%", "!", "//") if lines[0].startswith(mark)), "")
    body = [line for line in lines if not (comment and line.startswith(comment))]
    if not any(line.strip() for line in body):
        raise ParseFailed("cannot write a profile: there are no lines but comments")
    told = _TOLD.fullmatch(body[0])
    if told:  # a line for spreadsheet programs, which says what stands between cells
        body = body[1:]
    delimiter, rows = _split(body)
    if not any(rows):
        raise ParseFailed(
            "cannot write a profile: as a table it cannot be read",
            hint=f"a cell is over {csv.field_size_limit():,} characters, or a quotation mark is "
            "never closed; --format says what it is",
        )
    widths = Counter(len(row) for row in rows if row)
    width = widths.most_common(1)[0][0]
    if delimiter == " " and len(widths) > 1 and (placed := _at_places(body)):
        if comment:
            placed.form["comment"] = comment
        return placed
    form: Plain = {"type": "csv"}
    if told:
        form["skip_lines"] = 1
    if delimiter != ",":
        form["delimiter"] = delimiter
    if comment:
        form["comment"] = comment
    found = Recognised(form)
    index = next((i for i, row in enumerate(rows) if _is_header(row, width)), None)
    first = next(i for i, row in enumerate(rows) if row)
    for upper, lower in pairwise(range(len(rows) if index is None else index + 2)):
        if lower + 1 < len(rows) and _is_double(rows[upper], rows[lower], rows[lower + 1]):
            index = upper
            form["header_rows"] = 2
            found.notes.append(_DOUBLE)
            break
    if index is None:
        form["header"] = [f"c{i}" for i in range(1, width + 1)]
        found.notes.append("There is no header: give the columns their names.")
        return found
    if index > first:
        form["header_starts"] = first_text(rows[index])
        found.notes.append(f"{index - first} lines before the header are skipped.")
    following = rows[index + 1] if index + 1 < len(rows) else []
    if following and following[0].startswith("#"):
        form["skip_rows"] = ["#*"]
        found.notes.append("The row of tags under the header is skipped.")
    return found


def _at_places(lines: list[str]) -> Recognised | None:
    """A table whose columns are kept apart by places that are blank in each line."""
    told = [line.rstrip() for line in lines if line.strip()]
    if len(told) < 5 or any("\t" in line for line in told):
        return None
    longest = max(map(len, told))
    inked = bytearray(longest + 1)
    for line in told:  # each letter once: one long line among many short ones takes no longer
        for word in re.finditer(r"\S+", line):
            inked[word.start() : word.end()] = b"\1" * len(word[0])
    begins = [at for at in range(longest) if inked[at] and not (at and inked[at - 1])]
    ends = [at for at in range(longest) if inked[at] and not inked[at + 1]]
    apart = list(zip(begins, ends, strict=True))
    # Where the header has no name, a gap is one between words.
    spans: list[tuple[int, int]] = []
    for first, last in apart:
        named = told[0][first : last + 1].strip()
        spans[-1:] = [(spans[-1][0], last)] if spans and not named else [*spans[-1:], (first, last)]
    names = [told[0][first : last + 1].strip() for first, last in spans]
    numbers = any(map(_is_number, names))
    if numbers or not _is_header(names, len(spans)) or len(set(names)) != len(names):
        spans, names = apart, []
    if len(spans) < 2:
        return None
    columns = names or [f"c{number}" for number in range(1, len(spans) + 1)]
    # Further down may stand a longer name: up to a blank before the next column all is its place.
    # A longer number has none: it runs into that blank, and is a reject.
    following = [*(first for first, _ in spans[1:]), 0]
    places = {
        name: f"{first + 1}-" if last == ends[-1] else f"{first + 1}-{max(last + 1, then - 1)}"
        for name, (first, last), then in zip(columns, spans, following, strict=True)
    }
    found = Recognised({"type": "csv", "places": places})
    if names:
        found.form["header_starts"] = names[0]
    if any(len(line) <= spans[-1][0] for line in told):
        found.form["ragged"] = "pad"
    found.notes.append(
        "Columns at fixed places, found by what is blank in each line looked at: check `places` "
        "against the source's own description."
    )
    return found


_DOUBLE = f"Two rows name the columns (`header_rows`): of both a name is joined by {JOINT!r}."
_YEAR = re.compile(r"[12]\d{3}")


def _is_double(
    upper: Sequence[str | None], lower: Sequence[str | None], following: Sequence[str | None]
) -> bool:
    """Whether two rows are one header: the lower one repeats its names, the upper one tells them
    apart, and what follows under them are numbers."""
    if len(following) < 3 or not len(upper) <= len(following) >= len(lower):
        return False
    below = [text for cell in lower if (text := (cell or "").strip())]
    names = [name for name in joined_names([upper, lower]) if name]
    if len(set(below)) == len(below) or len(set(names)) != len(names):
        return False
    if any(_is_number(text) and not _YEAR.fullmatch(text) for text in below):
        return False
    joined = joined_names([upper, lower])
    cells = [cell for name, cell in zip(joined, following, strict=False) if JOINT in name]
    numbers = [c for c in cells if c and (_is_number(c.strip()) or c in NULL_SPELLINGS)]
    return len(cells) > 3 and 2 * len(numbers) >= len(cells)


_LIKELIER = {"\t": 1.02, ";": 1.01, "|": 1.01, " ": 0.9}
"""Of two delimiters that both cut all lines alike: commas and blanks stand in texts and numbers."""


def _split(lines: list[str]) -> tuple[str, list[list[str]]]:
    """The delimiter that cuts most lines into equally many cells, and the cells."""
    best: tuple[float, str, list[list[str]]] = (-1.0, ",", [])
    for delimiter in (",", ";", "\t", "|", " "):
        text = [line.rstrip(" \r\n") + "\n" for line in lines] if delimiter == " " else lines
        try:
            rows = list(
                csv.reader(
                    io.StringIO("".join(text), newline=""),
                    delimiter=delimiter,
                    skipinitialspace=delimiter == " ",
                )
            )
        except csv.Error:
            continue
        widths = Counter(len(row) for row in rows if row)
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        score = (count / max(1, sum(widths.values()))) * (1 if width > 1 else 0.01)
        score *= _LIKELIER.get(delimiter, 1.0)
        if score > best[0] + 1e-9:
            best = (score, delimiter, rows)
    return best[1], best[2]


def _is_header(row: list[str], width: int) -> bool:
    """Names in nearly every cell, no numbers but years, none twice."""
    if len(row) != width:
        return False
    cells = [cell.strip() for cell in row]
    # A column without a name to the right of each year has that year's flags.
    flags = sum(1 for year, flag in pairwise(cells) if _YEAR.fullmatch(year) and not flag)
    named = [c for c in cells if c and (not _is_number(c) or re.fullmatch(r"[12]\d{3}", c))]
    texts = [c for c in named if not re.fullmatch(r"[12]\d{3}", c)]
    if width == 1:
        return bool(texts)
    missing = {c for c in cells if c in NULL_SPELLINGS and c}
    return len(named) + flags >= max(1, width - 1) and bool(texts) and not missing
