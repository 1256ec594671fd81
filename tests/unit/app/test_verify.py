"""``holdfast verify`` says the same of a receipt, however it is handed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner, Result

from holdfast.app.commands.verify import _print_cell, app
from holdfast.kernel.signing import SigningKey
from holdfast.ledger.model import KeyInfo, Trust
from holdfast.ledger.notes import verifier_key
from holdfast.records.receipt import sealed
from holdfast.reports.receipt import FORMAT as CELL
from holdfast.reports.receipt import CellVerified

ORIGIN = "holdfast/test/default"


def policy(path: Path) -> str:
    key = verifier_key(ORIGIN, SigningKey.from_seed(bytes(32))).text()
    known = KeyInfo(key=key, origin=ORIGIN, valid_from=0)
    path.write_bytes(
        msgspec.json.encode(Trust(format=1, tenant="default", origins=[ORIGIN], keys=[known]))
    )
    return str(path)


def verified(*arguments: str, given: bytes = b"") -> Result:
    return CliRunner().invoke(app, list(arguments), input=given)


@pytest.mark.parametrize("plain", [{"format": "of a record"}, {"format": CELL}])
def test_a_receipt_may_be_piped(tmp_path: Path, plain: dict[str, Any]) -> None:
    trust = policy(tmp_path / "holdfast.trust")
    receipt = tmp_path / "r.json"
    receipt.write_bytes(sealed(plain))
    of_file = verified(str(receipt), "--trust", trust)
    piped = verified("-", "--trust", trust, given=receipt.read_bytes())
    assert of_file.exit_code == 7
    assert "does not say what a receipt says" in of_file.stderr
    assert (piped.exit_code, piped.stderr) == (of_file.exit_code, of_file.stderr)


def test_what_a_cell_says_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cell = CellVerified(
        tenant="default",
        origin=ORIGIN,
        size=1,
        position=0,
        recorded="2026-01-01T00:00:00Z",
        event="e",
        report="r",
        name="n",
        spec_digest="sha256:0",
        computation=1,
        inputs=[],
        column="c",
        row=0,
        value="\x1b[2Jyes\u202e",
        records={},
        carried=None,
        verdicts=[],
    )
    _print_cell(cell)
    assert capsys.readouterr().out.splitlines()[-1] == r"says        \x1b[2Jyes\u202e"
