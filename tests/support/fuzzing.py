"""Bytes from outside at the formats: whatever they are, a format ends in rows or in one of the two
refusals, soon, and holds no more than its bounds allow.

``python -m tests.support.fuzz FORMAT RUNS`` runs atheris on one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec

from holdfast.collect.content import SpooledContent
from holdfast.collect.errors import MappingRefused, ParseFailed
from holdfast.collect.formats import reader_of
from holdfast.collect.mapping import Mapping
from holdfast.collect.model import MEBIBYTE, Bounds, ReadContext
from holdfast.registry.model import Profile
from holdfast.registry.source import Format
from tests.support.workbooks import open_document, workbook

BOUNDS = replace(
    Bounds(), content_bytes_max=8 * MEBIBYTE, record_bytes_max=MEBIBYTE, ratio_floor_bytes=MEBIBYTE
)
SECONDS_MAX = 10.0
"""No input of these sizes may take more of the processor, however busy the machine."""

CUBE: dict[str, Any] = {
    "version": "2.0", "class": "dataset", "id": ["a", "t"], "size": [2, 2],
    "dimension": {
        "a": {"category": {"index": {"x": 0, "y": 1}, "label": {"x": "X"}}},
        "t": {"category": {"index": ["1", "2"]}},
    },
    "value": [1, 2.5, None, 4], "status": {"1": "p"},
}  # fmt: skip

TARGETS: dict[str, tuple[dict[str, Any], bytes, tuple[str, ...]]] = {
    "json": (
        {"type": "json", "records": "$.s[*].d[*]"},
        b'{"u": 1.5e3, "s": [{"k": "a", "d": [{"v": "1,5"}, {"v": -0}]}, {"d": []}]}',
        ("$$.s[*].k", "$$.u"),
    ),
    "keys": (
        {"type": "json", "records": "$[*][*]", "keys": ["a", "b"]},
        b'{"x": {"y": {"v": "\\u00e9"}}}',
        ("#a", "#b"),
    ),
    "header": ({"type": "json", "header": True}, b'[["a","b"],["1","2"],[3,null]]', ()),
    "ndjson": ({"type": "ndjson"}, b'{"a": 1}\n\x1e{"a": [true]}\n', ()),
    "geojson": (
        {"type": "geojson"},
        b'{"type":"FeatureCollection","features":[{"type":"Feature","properties":{},"id":1}]}',
        (),
    ),
    "csv": (
        {"type": "csv", "header_starts": "a", "skip_rows": ["T*"], "stop_at": "N", "comment": "#"},
        b'x\n#c\na,b\r1,"2\n""3"\nTotal,9\nNote\n',
        (),
    ),
    "places": (
        {
            "type": "csv",
            "places": {"a": "1-3", "b": "4-5", "c": "8-"},
            "header_starts": "a",
            "fill_down": ["a"],
        },
        b"x\na  b   c\n1  2.  \xc3\xa9 x\n\n   4   5\n1234567\n",
        (),
    ),
    "header-rows": (
        {"type": "csv", "header_rows": 2, "skip_rows": ["T*"], "fill_down": ["a"]},
        b"a,2019,,2020\n,m,f,m\nx,1,2,3\n,4,5,6\nTotal,5,7,9\na,2019,,2020\n",
        (),
    ),
    "blanks": ({"type": "csv", "delimiter": " ", "ragged": "pad"}, b"a  b\n 1   2 \n3\n", ()),
    "xml": (
        {"type": "xml", "records": "//s/o", "namespaces": {"n": "urn:n"}},
        b'<?xml version="1.0"?><d xmlns:n="urn:n"><s i="1"><k>x</k><o v="1">2<n:e/></o></s></d>',
        ("../k", "../@i", "/d/@z", "ancestor::s/k"),
    ),
    "feed": (
        {"type": "feed"},
        b"<rss><channel><title>t</title><item><guid>1</guid></item></channel></rss>",
        ("../title",),
    ),
    "json-stat": ({"type": "json-stat"}, msgspec.json.encode(CUBE), ("$$.version",)),
    "plugin": (
        {
            "type": "plugin",
            "name": "fixed-width",
            "options": {"columns": "a:1-3,b:4-9", "skip_lines": "1"},
        },
        b"a  b\n1  2.50\n\n\xc3\xa9  -99.9\n1\n",
        (),
    ),
    "ods": ({"type": "ods"}, open_document(("s", [["a", "b"], [1, "x"], [True, None]])), ()),
    "xlsx": ({"type": "xlsx"}, workbook(("s", [["a", "b"], [1, "x"], [True, None]])), ()),
}
"""Format → its part of a profile, bytes that it reads, paths that lead out of its records. The
package of ``plugin`` is to be installed by whoever reads with it (``tests/support/plugin.py``)."""

READ_ANYWAY = ("auto", "gzip", "deflate", "bzip2", "zip")


def reads(target: str, folder: Path) -> Callable[[bytes], int]:
    """A function that reads and maps bytes as ``target``; it answers how many rows there were.

    It raises for anything but rows or the refusals that a run can carry, and for taking too long.
    """
    members, _, around = TARGETS[target]
    form = cast("Format", msgspec.convert(members, Format))
    reader = reader_of(form)
    path = folder / "page"
    plain = {
        "version": 1, "name": "x", "publisher": "p", "licence": "l", "key": "position",
        "source": {"url": "https://example.org/x", "format": members},
        "attributes": {"a": "a" if target not in {"json", "keys", "ndjson", "geojson"} else "$.a"},
    }  # fmt: skip
    mapping = Mapping(msgspec.convert(plain, Profile))

    def read(data: bytes) -> int:
        path.write_bytes(data)
        count, begun = 0, time.process_time()
        content = SpooledContent(path, BOUNDS, "auto")
        refused = "cannot"
        try:
            for row in reader(content, form, ReadContext(bounds=BOUNDS, enclosing=around)):
                count += 1
                if not row.problem:
                    list(mapping.map(row, 0))
        except (ParseFailed, MappingRefused) as error:
            refused = error.detail
        assert refused.startswith("cannot"), refused
        taken = time.process_time() - begun
        assert taken < SECONDS_MAX, f"{len(data)} bytes took {taken:.1f} s"
        return count

    return read
