"""The guide to one's own sources: every profile in it gives what the page says from its bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.collect.fixtures.server import FixtureServer
from holdfast.collect.preview import preview
from holdfast.collect.settings import CollectSettings
from holdfast.kernel.outbound import OutboundSettings
from holdfast.records.listing import period_text
from holdfast.records.model import MappedRecord
from holdfast.registry.validate import load_profile

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "your-sources.md"
BLOCK = re.compile(r"^```(csv|json|xml|yaml) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> Iterator[Any]:
    """Payload, profile and records, as they follow each other on the page."""
    blocks = [match.groups() for match in BLOCK.finditer(GUIDE.read_text("utf-8"))]
    for at, (kind, name, text) in enumerate(blocks):
        if kind != "yaml":
            continue
        before = blocks[at - 1] if at else ("yaml", "", "")
        payload = before if before[0] != "yaml" and before[1] != "gives" else None
        gives = blocks[at + 1] if at + 1 < len(blocks) and blocks[at + 1][1] == "gives" else None
        yield pytest.param(text, payload, gives, id=name)


def flat(record: MappedRecord) -> dict[str, str]:
    """A record as the page writes it: what is missing is left out."""
    values = {**record.dimensions, **record.attributes}
    values |= {name: measure.value for name, measure in record.measures.items()}
    if record.period is not None:
        values["period"] = period_text(record.period)
    return {name: str(value) for name, value in values.items() if value is not None}


@pytest.mark.parametrize(("text", "payload", "gives"), list(recipes()))
async def test_a_recipe_gives_what_the_page_says(
    text: str,
    payload: tuple[str, str, str] | None,
    gives: tuple[str, str, str] | None,
    tmp_path: Path,
) -> None:
    profile = load_profile(text.encode())
    if payload is None or gives is None:
        assert (payload, gives) == (None, None)
        return
    files = tmp_path / "files"
    files.mkdir()
    (files / payload[1]).write_text(payload[2], "utf-8")
    async with FixtureServer(files) as source:
        settings = CollectSettings(
            spool_dir=tmp_path, outbound=OutboundSettings(allow=frozenset({source.host_port}))
        )
        found = await preview(profile, settings, url=f"{source.url}/{payload[1]}")
    assert not found.problem
    assert found.rejects == []
    expected = [json.loads(line) for line in gives[2].splitlines()]
    assert [flat(record) for record in found.records] == expected
