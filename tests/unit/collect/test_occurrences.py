"""Repeated rows are numbered the same, however many there are and wherever the counts lie."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.collect.occurrences import Occurrences


def test_equal_contents_are_numbered_in_their_order() -> None:
    seen = Occurrences()
    assert [seen.number(c) for c in (b"a", b"b", b"a", b"a", b"b")] == [0, 0, 1, 2, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 12))
def test_a_file_changes_nothing(contents: list[int], held_max: int) -> None:
    import tempfile

    plain = Occurrences()
    with tempfile.TemporaryDirectory() as folder:
        spilling = Occurrences(Path(folder) / "seen", held_max)
        for content in contents:
            digest = content.to_bytes(16, "big")
            assert spilling.number(digest) == plain.number(digest)
        spilling.close()


def test_memory_is_bounded(tmp_path: Path) -> None:
    seen = Occurrences(tmp_path / "seen", held_max=100)
    for i in range(2_000):
        assert seen.number(i.to_bytes(16, "big")) == 0
        assert len(seen._held) <= 101
    assert seen.number((5).to_bytes(16, "big")) == 1
    seen.close()
