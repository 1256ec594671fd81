"""Which picture `report chart` draws, and what it refuses before it asks anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.reports.cli import app, picture_of


@pytest.mark.parametrize(
    ("said", "out", "kind"),
    [
        ("", "-", "svg"), ("png", "-", "png"), ("svg", "-", "svg"), ("", "a.PNG", "png"),
        ("", "a.svg", "svg"), ("png", "a.png", "png"), ("png", "a", "png"), ("", "a", "svg"),
    ],
)  # fmt: skip
def test_the_format_or_the_name_says_which(said: str, out: str, kind: str) -> None:
    assert picture_of(said, Path(out)) == kind


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--format", "gif"], "cannot draw 'gif'"),
        (["--format", "svg", "--out", "a.png"], "cannot draw svg into a.png"),
        (["--out", "a.gif"], "must end in .svg or .png"),
    ],
)
def test_what_is_no_picture_is_refused_at_once(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["chart", "rain", *arguments])
    assert done.exit_code == 2
    assert told in done.stderr
