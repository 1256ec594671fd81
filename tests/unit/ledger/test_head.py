"""The head file: what a cut-off write, a flipped bit and a full disk leave of it."""

from __future__ import annotations

from dataclasses import replace
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


def test_the_origin_is_told_with_the_head_it_belongs_to(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "a.head")
    for head in heads(2):
        file.write(replace(head, origin="example.org/ä/1"))
    file.write(Head(3, bytes(32)))
    assert HeadFile(file.path).read() == Head(3, bytes(32))
    file.close()
    whole = file.path.read_bytes()
    # A version that tells no origin wrote over the slot: what is behind it is of the write before.
    of_before = HeadFile(tmp_path / "b.head")
    of_before.write(replace(heads(1)[0], origin="example.org/b"))
    of_before.close()
    mixed = bytearray(of_before.path.read_bytes())
    mixed[512 : 512 + 60] = whole[512 : 512 + 60]
    of_before.path.write_bytes(bytes(mixed))
    assert HeadFile(of_before.path).read() == Head(3, bytes(32))
    # One without any.
    of_before.path.write_bytes(whole[:60] + bytes(452) + whole[512:572])
    assert HeadFile(of_before.path).read() == Head(3, bytes(32))


def test_a_flipped_bit_in_an_origin_is_no_other_origin(tmp_path: Path) -> None:
    file = HeadFile(tmp_path / "a.head")
    head = Head(1, bytes(32), "example.org/ledger/default/1")
    file.write(head)
    file.close()
    whole = file.path.read_bytes()
    assert HeadFile(file.path).read() == head
    end = 512 + 60 + 10 + len(head.origin) + 4
    for at in range(512 + 60, end):
        broken = bytearray(whole)
        broken[at] ^= 4
        file.path.write_bytes(bytes(broken))
        assert HeadFile(file.path).read() == Head(1, bytes(32))
