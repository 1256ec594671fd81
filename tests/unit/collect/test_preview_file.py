"""A page that is here already is read as the run read it that kept it."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.collect.preview import preview_file
from holdfast.kernel.errors import Invalid
from tests.unit.collect.helpers import profile


def test_a_file_is_read_by_the_charset_that_came_with_it(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.write_bytes("id,v\nFryslân,1\n".encode("cp1252"))
    told = profile({"format": {"type": "csv"}}, dimensions={"id": "id"}, measures={"v": "v"})
    found = preview_file(told, page, charset="iso-8859-1")
    assert (found.problem, found.records[0].dimensions) == ("", {"id": "Fryslân"})
    with pytest.raises(Invalid, match="not valid utf-8"):
        preview_file(told, page).check()
    assert "klingon" in preview_file(told, page, charset="klingon").problem
