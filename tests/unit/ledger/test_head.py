"""The head file: what a cut-off write, a flipped bit and a full disk leave of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.kernel.errors import Corrupt
from holdfast.ledger.head import Head, HeadFile


def heads(count: int) -> list[Head]:
    return [Head(number, number.to_bytes(32, "big")) for number in range(1, count + 1)]


def test_the_newest_head_is_read_by_whoever_comes_later(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "ledger" / "a.head")
    assert file.read() is None
    for head in heads(5):
        file.write(head)
        assert HeadFile(file.path).read() == head
    file.close()
    later = HeadFile(file.path)
    later.read()
    later.write(Head(9, bytes(32)))
    assert HeadFile(file.path).read() == Head(9, bytes(32))
    later.close()


def test_a_write_that_was_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "a.head")
    first, second = heads(2)
    file.write(first)
    before = file.path.read_bytes()
    file.write(second)
    after = file.path.read_bytes()
    file.close()
    changed = [at for at in range(len(after)) if before[at] != after[at]]
    for cut in range(changed[0], changed[-1]):
        file.path.write_bytes(after[:cut] + before[cut:])
        assert HeadFile(file.path).read() in (first, second)


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "a.head")
    (first,) = heads(1)
    file.write(first)
    file.close()
    whole = bytearray(file.path.read_bytes())
    for at in range(512, 512 + 60):
        broken = bytearray(whole)
        broken[at] ^= 4
        file.path.write_bytes(bytes(broken))
        with pytest.raises(Corrupt):
            HeadFile(file.path).read()
