"""The second verifier: small, alone, and held to the vectors that others published."""

from __future__ import annotations

import base64
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical, decode_strict
from holdfast.kernel.errors import Invalid
from holdfast.ledger.notes import parse_checkpoint, parse_note
from tests.support.verifier import VERIFIER, ask, encoded, run_second
from tests.unit.ledger.test_notes import GOLDEN_KEY, golden, golden_entries
from tests.unit.ledger.test_notes import VERIFIER as OTHER_KEY

LINES_MAX = 500
SEED = int(os.environ.get("HOLDFAST_TEST_SEED", "8785"))


@pytest.fixture
def vectors() -> Path:
    named = os.environ.get("HOLDFAST_VECTORS")
    if not named:
        pytest.skip("HOLDFAST_VECTORS is not set: published vectors are not here")
    return Path(named)


def test_it_is_small_and_brings_nothing() -> None:
    text = VERIFIER.read_text("utf-8")
    assert len(text.splitlines()) <= LINES_MAX
    imported = re.findall(r'from "([^"]+)"|import\("?([^")]*)|require\(', text)
    assert {name for name, _ in imported} == {"node:crypto", "node:fs", "node:url"}


def test_it_tells_how_to_be_called(tmp_path: Path) -> None:
    assert run_second().returncode == 2
    assert "usage" in run_second("a", "b").stderr
    gone = run_second(str(tmp_path / "none"), "--trust", str(tmp_path / "none"))
    assert (gone.returncode, gone.stdout) == (2, "")


def test_published_inclusion_proofs(vectors: Path) -> None:
    cases = [
        json.loads(path.read_text())
        for path in sorted((vectors / "merkle" / "testdata" / "inclusion").rglob("*.json"))
    ]
    answers = ask(
        {
            "ask": "root",
            "leaf": case["leafHash"] or "",
            "index": case["leafIdx"],
            "size": case["treeSize"],
            "path": case["proof"] or [],
        }
        for case in cases
    )
    accepted = [
        answer["found"] is not None and answer["found"] == case["root"]
        for answer, case in zip(answers, cases, strict=True)
    ]
    assert accepted == [not case["wantErr"] for case in cases]
    assert (len(cases) > 90, any(accepted)) == (True, True)


def test_the_golden_log(vectors: Path) -> None:
    del vectors
    folder = golden()
    notes = [path.read_bytes() for path in sorted(folder.rglob("checkpoint*")) if path.is_file()]
    answers = ask(
        {"ask": "note", "note": encoded(each), "key": GOLDEN_KEY.text()} for each in notes
    )
    assert len(answers) == len(notes) >= 16
    hashes = [merkle.leaf_hash(entry) for entry in golden_entries(folder)]
    questions, roots = [], []
    for note, answer in zip(notes, answers, strict=True):
        said, told = parse_checkpoint(parse_note(note).text), answer["found"]
        assert (told["origin"], told["size"]) == (said.origin, said.size)
        for index in range(said.size):
            path = merkle.inclusion_proof(hashes[: said.size], index)
            questions.append(
                {
                    "ask": "root",
                    "leaf": encoded(hashes[index]),
                    "index": index,
                    "size": said.size,
                    "path": [encoded(each) for each in path],
                }
            )
            roots.append(told["root"])
    assert [answer["found"] for answer in ask(questions)] == roots
    (other,) = ask([{"ask": "note", "note": encoded(notes[-1]), "key": OTHER_KEY.text()}])
    assert "nobody known" in other["refused"]
    changed = bytearray(notes[-1])
    changed[5] ^= 1
    (other,) = ask([{"ask": "note", "note": encoded(bytes(changed)), "key": GOLDEN_KEY.text()}])
    assert other["kind"] == "Refused"


def test_the_reference_vectors_of_rfc_8785(vectors: Path) -> None:
    inputs = sorted((vectors / "jcs" / "testdata" / "input").glob("*.json"))
    answers = ask({"ask": "canonical", "json": encoded(path.read_bytes())} for path in inputs)
    written = 0
    for path, answer in zip(inputs, answers, strict=True):
        expected = (path.parent.parent / "output" / path.name).read_text("utf-8")
        if "found" in answer:
            assert answer["found"] == expected, path.name
            written += 1
        else:
            with pytest.raises(Invalid):
                canonical(json.loads(path.read_bytes()))
    assert written >= 4


TEXTS = [
    b'{"a":1,"a":2}',
    b'{"b":1,"a":2}',
    b"1.0",
    b"-0",
    b"1e2",
    b"9007199254740992",
    b"NaN",
    b'"\xff"',
    b'\xef\xbb\xbf"a"',
    b" 1",
    b"1\n",
    b"[1",
    b"",
    b'"\\ud800"',
    b'"\\u0041"',
    b"[" * 1000 + b"]" * 1000,
    b'{"__proto__":1}',
    '{"\U0001f600":1,"\ufb33":2}'.encode(),
    '{"\ufb33":1,"\U0001f600":2}'.encode(),
]


def test_both_take_the_same_texts_for_canonical() -> None:
    assert _both(TEXTS) == 2


def plain(dice: random.Random, depth: int = 0) -> Any:
    """Something that JSON can carry, the corners of it more often than chance would."""
    kind = dice.randrange(4 if depth > 2 else 6)
    if kind == 0:
        return dice.choice((None, True, False, 0, -1, 2**53 - 1, 2**53, -(2**53), 7))
    if kind == 1:
        return dice.randrange(-(2**60), 2**60) >> dice.randrange(60)
    if kind < 4:
        return "".join(chr(dice.choice(CHARACTERS)) for _ in range(dice.randrange(5)))
    if kind == 4:
        return [plain(dice, depth + 1) for _ in range(dice.randrange(4))]
    names = ("".join(chr(dice.choice(CHARACTERS)) for _ in range(2)) for _ in range(4))
    made = {name: plain(dice, depth + 1) for name in names}
    return dict(sorted(made.items(), key=lambda item: item[0].encode("utf-16-be", "surrogatepass")))


CHARACTERS = [0, 8, 10, 31, 34, 47, 60, 65, 92, 97, 127, 0xE9, 0x2028, 0xD800, 0xDFFF]
CHARACTERS += [0xE000, 0xFB33, 0xFFFF, 0x1F600, *range(98, 110)]


def test_both_write_the_same_canonical_form() -> None:
    dice = random.Random(SEED)
    values = [plain(dice) for _ in range(2000)]
    written = [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values]
    taken = _both([text.encode("utf-8", "surrogatepass") for text in written])
    assert 200 < taken < 1900, f"seed {SEED}"


def _both(texts: list[bytes]) -> int:
    """How many are canonical; fails where the two disagree."""
    taken = 0
    answers = ask({"ask": "decode", "json": base64.b64encode(text).decode()} for text in texts)
    for text, answer in zip(texts, answers, strict=True):
        try:
            ours = canonical(decode_strict(text)) == text
        except Invalid:
            ours = False
        assert ("found" in answer) is ours, (text, answer)
        taken += ours
    return taken
