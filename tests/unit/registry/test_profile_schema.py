"""The published schema is the model's, and its complaints say what would be right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from holdfast.registry.document import read_document, write_document
from holdfast.registry.reference import (
    REFERENCE_FILE,
    SCHEMA_FILE,
    main,
    reference_text,
    schema_text,
)
from holdfast.registry.schema import member_texts, profile_schema, schema_problems
from tests.unit.registry.profiles import GOOD, changed, without

ROOT = Path(__file__).parents[3]


def complaints(plain: Any) -> list[str]:
    document = read_document(write_document(plain).encode())
    return [str(problem) for _, problem in schema_problems(document)]


def test_the_published_files_are_what_the_model_gives(tmp_path: Path) -> None:
    main(tmp_path)
    for file, text in ((SCHEMA_FILE, schema_text()), (REFERENCE_FILE, reference_text())):
        assert (tmp_path / file).read_text() == text
        assert (ROOT / file).read_text() == text, "run: python -m holdfast.registry.reference"


def test_the_schema_is_one_and_takes_a_good_profile() -> None:
    jsonschema_rs.meta.validate(profile_schema())
    assert jsonschema_rs.is_valid(profile_schema(), GOOD)
    assert not jsonschema_rs.is_valid(profile_schema(), without("key"))


def test_the_schema_refers_to_nothing_outside_itself() -> None:
    references = [
        line.split('"')[3]
        for line in schema_text().splitlines()
        if line.strip().startswith('"$ref"')
    ]
    assert references
    assert all(reference.startswith("#/$defs/") for reference in references)


def test_every_member_of_every_part_is_explained() -> None:
    texts = member_texts()
    missing = [
        f"{name}.{member}"
        for name, part in profile_schema()["$defs"].items()
        for member in part["properties"]
        if member != "type" and not texts.get((name, member))
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        (
            changed("period/from", "x"),
            "from is not a member of period (did you mean path?)",
        ),
        (changed("titel", "x"), "titel is not a member of a profile (did you mean title?)"),
        (
            changed("source/format", {"type": "cvs"}),
            "source.format.type: 'cvs' is not known here (did you mean csv?)",
        ),
        (
            changed("source/format", {"type": "csv", "delimeter": ";"}),
            "delimeter is not a member of source.format (did you mean delimiter?)",
        ),
        (
            changed("source/pagination", {"type": "page", "starts": 0}),
            "starts is not a member of source.pagination (did you mean start?)",
        ),
        (changed("source/format", "csv"), "source.format: a mapping is needed, not 'csv'"),
        (changed("mode", "snapshots"), "mode: 'snapshots' is not known here (did you mean snap"),
        (changed("name", "Rain!"), "'Rain!' is not of the form needed (1-64 of a-z 0-9"),
        (changed("source/url", "ftp://x/"), "(an http:// or https:// address"),
        (changed("publisher", 7), 'a text is needed, not the number 7 (write "7" in quotes'),
        (changed("enabled", "no"), "enabled: true or false is needed, not 'no'"),
        (changed("max_rejects", -1), "max_rejects: the number -1 is too small (at least 0)"),
        (changed("limits", {"retries": 99}), "limits.retries: the number 99 is too large (at most"),
        (changed("key", "dimensions.station"), "key: 'dimensions.station' is not known here"),
        (changed("measures/Rain", "x"), "measures.Rain: 'Rain' is no name (lower-case words"),
        (changed("measures/rain", {"path": "x", "type": "string"}), "one of decimal, integer"),
        (changed("dimensions", ["a"]), "dimensions: a mapping is needed, not a list"),
        (changed("nulls", ""), "nulls: a list is needed, not ''"),
        (changed("nulls", [-999]), 'write "-999" in quotes to keep it as a text'),
        (changed("licence", None), "licence: nothing is given here; a text or a mapping is needed"),
        (changed("freshness", "soon"), "(a whole number and ms, s, m, h, d or w, such as 15m)"),
        (changed("version", 2), "version: the number 2 is not known here (it must be 1)"),
        (without("publisher"), "publisher: publisher is missing (Who publishes the data)"),
        (without("key"), "key: key is missing (Fields (dimensions.station, period) that"),
        (
            changed("source/auth", {"type": "bearer", "token": "abc123"}),
            "(secret://env/NAME (reads HOLDFAST_SECRET_NAME) or secret://file/NAME)",
        ),
        (
            changed("expect", {"ranges": {"measures.rain": {"min": "low"}}}),
            "(an exact decimal: a number, kept as it is written)",
        ),
    ],
)
def test_a_complaint_says_where_and_what_would_be_right(plain: Any, said: str) -> None:
    found = complaints(plain)
    assert len(found) == 1, found
    assert said in found[0]
    assert found[0].startswith("line ")


def test_everything_is_listed_at_once_in_order() -> None:
    text = b"""\
version: 1
name: Rain
publisher: x
licence: y
colour: red
source:
  url: ftp://x/
  format: {type: cvs}
key: 7
measures:
  rain: {pth: Rain}
"""
    problems = [problem for _, problem in schema_problems(read_document(text))]
    assert [(problem.line, problem.path) for problem in problems] == [
        (2, "name"),
        (5, "colour"),
        (7, "source.url"),
        (8, "source.format.type"),
        (9, "key"),
        (11, "measures.rain.pth"),
    ]


@pytest.mark.parametrize("plain", [None, [], "x", 3, {}])
def test_a_document_that_is_no_mapping_is_told_so(plain: Any) -> None:
    assert schema_problems(read_document(json.dumps(plain).encode()))


def test_a_key_that_is_one_word_is_told_of_lists() -> None:
    (said,) = complaints(changed("key", "region"))
    assert "a list of fields, such as [dimensions.region], or position" in said
