"""Signed notes, verifier keys and tile paths, against a log that others made."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel import merkle
from holdfast.kernel.errors import Corrupt
from holdfast.kernel.signing import SigningKey
from holdfast.ledger import notes, tree
from holdfast.ledger.notes import (
    COSIGNATURE,
    Checkpoint,
    NoteRefused,
    VerifierKey,
    cosign,
    open_note,
    parse_checkpoint,
    parse_note,
    parse_tile_path,
    sign_checkpoint,
    tile_path,
    verifier_key,
)

GOLDEN_KEY = VerifierKey.parse(
    "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
)
KEY = SigningKey.from_seed(bytes(range(32)))
WITNESS = SigningKey.from_seed(bytes(range(1, 33)))
NOTE = sign_checkpoint(Checkpoint("example.org/log", 7, bytes(32)), KEY)
VERIFIER = verifier_key("example.org/log", KEY)


def golden() -> Path:
    folder = os.environ.get("HOLDFAST_VECTORS")
    if not folder:
        pytest.skip("HOLDFAST_VECTORS is not set: the published vectors are not here")
    return Path(folder) / "tlog-golden-log" / "testdata" / "log"


def golden_entries(folder: Path) -> list[bytes]:
    """The fifteen entries, from the bundle of the largest width."""
    bundles = sorted(folder.glob("tile/entries/000.p/*"), key=lambda path: int(path.name))
    data, found = bundles[-1].read_bytes(), []
    while data:
        length = int.from_bytes(data[:2], "big")
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    return found


def test_the_golden_log_is_read_checked_and_made_again() -> None:
    folder = golden()
    checkpoints = sorted(folder.glob("checkpoint.*"))
    assert len(checkpoints) == 16
    hashes = [merkle.leaf_hash(entry) for entry in golden_entries(folder)]
    assert len(hashes) == 15
    sizes = set()
    for path in checkpoints:
        note, signers = open_note(path.read_bytes(), [GOLDEN_KEY, VERIFIER])
        assert signers == [GOLDEN_KEY]
        said = parse_checkpoint(note.text)
        assert said.root == merkle.root(hashes[: said.size])
        grown = tree.Tree()
        for hashed in hashes[: said.size]:
            grown.append(hashed)
        assert grown.root() == said.root
        sizes.add(said.size)
    assert sizes == set(range(16))
    for path in folder.glob("tile/0/000.p/*"):
        width = int(path.name)
        assert path.read_bytes() == b"".join(hashes[:width])


@settings(deadline=None)
@given(st.data())
def test_a_note_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    encoded = bytearray(NOTE.encode().encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NoteRefused):
        open_note(bytes(encoded), [VERIFIER])


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_whatever_is_no_note_is_refused_and_never_an_other_error(data: bytes) -> None:
    for attempt in (data, NOTE.encode().encode() + data):
        try:
            open_note(attempt, [VERIFIER])
        except NoteRefused:
            continue
        assert attempt == NOTE.encode().encode()


@settings(deadline=None)
@given(st.text(max_size=120))
def test_whatever_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        VerifierKey.parse(text)


def test_a_key_has_one_spelling() -> None:
    for key in (GOLDEN_KEY, VERIFIER):
        assert VerifierKey.parse(key.text()) == key
    name, hashed, encoded = VERIFIER.text().split("+", 2)
    wrong = f"{'0' * 8}" if hashed != "0" * 8 else "1" * 8
    with pytest.raises(NoteRefused, match="hash"):
        VerifierKey.parse(f"{name}+{wrong}+{encoded}")
    with pytest.raises(NoteRefused):
        VerifierKey.parse(f"{name}+{hashed}+{encoded}=")


def test_a_witness_signs_time_and_checkpoint() -> None:
    witness = verifier_key("witness.example", WITNESS, COSIGNATURE)
    signature = cosign(NOTE, "witness.example", WITNESS, 1_790_000_000)
    both = notes.Note(NOTE.text, (*NOTE.signatures, signature))
    _, signers = open_note(both.encode(), [VERIFIER, witness])
    assert signers == [VERIFIER, witness]
    later = notes.Signature(
        signature.name,
        signature.hash,
        (1_790_000_001).to_bytes(8, "big") + signature.signature[8:],
    )
    forged = notes.Note(NOTE.text, (*NOTE.signatures, later))
    with pytest.raises(NoteRefused):
        open_note(forged.encode(), [VERIFIER, witness])


def test_a_line_of_an_unknown_key_is_passed_over_and_one_alone_is_not_enough() -> None:
    stranger = notes.Signature("someone.else", b"abcd", b"x" * 64)
    both = notes.Note(NOTE.text, (stranger, *NOTE.signatures))
    assert open_note(both.encode(), [VERIFIER])[1] == [VERIFIER]
    with pytest.raises(NoteRefused):
        open_note(notes.Note(NOTE.text, (stranger,)).encode(), [VERIFIER])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        f"\n1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"origin\n-1\n{base64.b64encode(bytes(32)).decode()}\n",
        f"origin\n01\n{base64.b64encode(bytes(32)).decode()}\n",
        f"origin\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        f"origin\n1\n{base64.b64encode(bytes(32)).decode()[:-1]}\n",
        f"origin\n1\n{base64.b64encode(bytes(32)).decode()}\n\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteRefused):
        parse_checkpoint(text)


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(1, 256), st.sampled_from(["0", "1", "63", "entries"]))
def test_tile_paths_have_one_spelling(number: int, width: int, level: str) -> None:
    path = tile_path(level, number, width)
    assert parse_tile_path(path.removeprefix("tile/")) == (level, number, width)
    assert re.fullmatch(r"tile/(\d+|entries)/(x\d{3}/)*\d{3}(\.p/\d+)?", path)


@pytest.mark.parametrize(
    "path",
    [
        "0/1",
        "0/x000/001",
        "64/000",
        "00/000",
        "0/000.p/0",
        "0/000.p/257",
        "0/000.p/256",
        "x/000",
        "",
    ],
)
def test_other_paths_are_none(path: str) -> None:
    assert parse_tile_path(path) is None


def test_notes_of_a_key_whose_signature_is_wrong_are_corrupt_never_something_else() -> None:
    assert issubclass(NoteRefused, Corrupt)
    assert parse_note(NOTE.encode()).text == NOTE.text
