"""``docs/compatibility.md`` lists what the program accepts and refuses, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path

from holdfast.app.settings import ALIASES

PAGE = (Path(__file__).parents[3] / "docs" / "compatibility.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, str]:
    section = PAGE.split(f"## {heading}", 1)[1].split("\n## ", 1)[0]
    return dict(re.findall(r"^\| `([A-Z_0-9]+)` \| ([^|]+?) \|", section, re.MULTILINE))


def test_every_accepted_guide_variable_is_listed_with_the_guides_default() -> None:
    listed = rows("Guide 1") | rows("Guide 3") | rows("Guide 4") | rows("Guide 5")
    assert set(listed) == set(ALIASES)
    for name, (_, alias) in ALIASES.items():
        if alias.guide_default:
            assert listed[name] == f"`{alias.guide_default}`"
