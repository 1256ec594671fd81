"""Receipts of cells: which spec, inputs and records gave a value. Pure, but for
:func:`recomputed`.

As strict as a record's receipt (:mod:`holdfast.records.receipt`), and ends in its own SHA-256, too.
It leads from one cell to the event ``report.computed`` in the signed log: the spec has the digest
that the event names, the inputs have its inputs root, and the row with the cell is in its outputs
root. The row names the records that it was made of by their number and a root over their names;
where they are few, the receipt carries the receipt of each, and must.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical, canonical_digest
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.ledger.model import Trust
from holdfast.records.receipt import (
    EntryPart,
    ReceiptRefused,
    Verdict,
    Verified,
    check_entry,
    hash_of,
    included,
    receipt_of,
    refused,
    signed_checkpoint,
    verify_decoded,
)

FORMAT = "holdfast-cell-receipt/v1"
COMPUTED = "report.computed"
CARRIED_MAX = 200
"""So many records in all a receipt carries; of more it says how many there are."""
_INPUT = {"as_of", "digest", "name", "profile", "publication", "vintage"}


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class CellPart(_Part, frozen=True, kw_only=True):
    """The cell. Of a correlation ``row`` is null and ``column`` a path such as
    ``levels.pearson_r``."""

    column: str
    row: int | None
    value: str | int | None


class OutputPart(_Part, frozen=True, kw_only=True):
    """The row (or the coefficients) with the cell, and its place among the report's outputs."""

    index: int
    leaf: dict[str, Any]
    path: list[str]


class CellReceipt(_Part, frozen=True, kw_only=True):
    """One cell's evidence. ``records`` has the receipts of the records behind it, by input."""

    cell: CellPart
    checkpoint: str
    entry: EntryPart
    format: str
    inputs: list[dict[str, Any]]
    output: OutputPart
    records: dict[str, list[dict[str, Any]]] | None
    spec: dict[str, Any]


class CellVerified(Struct, frozen=True, kw_only=True):
    """What a cell's receipt shows."""

    tenant: str
    origin: str
    size: int
    position: int
    recorded: str
    event: str
    report: str
    name: str
    spec_digest: str
    computation: int
    inputs: list[dict[str, Any]]
    column: str
    row: int | None
    value: str | int | None
    records: dict[str, int | None]
    """By input how many records are behind the cell; null where they were too many to be named."""
    carried: int | None
    verdicts: list[Verdict]


def is_cell_receipt(plain: Any) -> bool:
    """Whether a decoded receipt is one of a cell."""
    return isinstance(plain, dict) and plain.get("format") == FORMAT


def verify_cell(plain: Any, trust: Trust) -> CellVerified:
    """What the receipt shows to whoever trusts ``trust``; :class:`ReceiptRefused` says what does
    not fit."""
    try:
        receipt = msgspec.convert(plain, CellReceipt)
    except msgspec.ValidationError as error:
        raise refused(f"it does not say what a receipt says ({error})") from error
    try:
        return _verify(receipt, trust)
    except ReceiptRefused:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, Invalid) as error:
        raise refused("something in it is of another kind than it must be") from error


def _verify(receipt: CellReceipt, trust: Trust) -> CellVerified:
    if receipt.format != FORMAT:
        raise refused(f"its format {receipt.format[:60]!r} is not known here")
    said = signed_checkpoint(receipt.checkpoint, trust)
    payload = check_entry(receipt.entry, said, trust)
    entry = receipt.entry.leaf
    if (entry["type"], entry["stream"]) != (COMPUTED, f"report/{payload['report']}"):
        raise refused("its event is none that tells of a computed report")
    if canonical_digest(receipt.spec) != payload["spec_digest"]:
        raise refused("the spec is another than the report was computed from")
    _check_inputs(receipt, payload)
    _check_output(receipt, payload)
    counts = _counts(receipt)
    verified = _check_records(receipt, counts, trust)
    return CellVerified(
        tenant=entry["tenant"],
        origin=said.origin,
        size=said.size,
        position=receipt.entry.index,
        recorded=entry["recorded"],
        event=entry["id"],
        report=payload["report"],
        name=payload["name"],
        spec_digest=payload["spec_digest"],
        computation=payload["computation"],
        inputs=receipt.inputs,
        column=receipt.cell.column,
        row=receipt.cell.row,
        value=receipt.cell.value,
        records=counts,
        carried=None if verified is None else len(verified),
        verdicts=[_recorded(), _attributed(verified), _not_recomputed(verified)],
    )


def _check_inputs(receipt: CellReceipt, payload: dict[str, Any]) -> None:
    names = [used["name"] for used in receipt.inputs]
    if any(set(used) != _INPUT for used in receipt.inputs) or names != sorted(set(names)):
        raise refused("its inputs are none")
    if set(names) != set(receipt.spec["inputs"]):
        raise refused("its inputs are others than the spec names")
    root = merkle.root([merkle.leaf_hash(canonical(used)) for used in receipt.inputs])
    if root.hex() != payload["inputs_root"]:
        raise refused("its inputs are others than the event tells of")


def _check_output(receipt: CellReceipt, payload: dict[str, Any]) -> None:
    output, cell = receipt.output, receipt.cell
    included(
        "the row is not among the outputs that the event tells of",
        canonical(output.leaf),
        output.index,
        payload["outputs_count"],
        output.path,
        hash_of(payload["outputs_root"]),
    )
    if payload["kind"] == "table":
        if set(output.leaf) != {"cells", "records", "row"} or output.leaf["row"] != output.index:
            raise refused("its row is none")
        if type(cell.row) is not int or cell.row != output.index:
            raise refused("the cell is of another row")
        value = output.leaf["cells"][payload["columns"].index(cell.column)]
    else:
        if set(output.leaf) != {"correlation", "records"} or cell.row is not None:
            raise refused("its coefficients are none")
        value = coefficient(output.leaf["correlation"], cell.column)
    if type(value) is not type(cell.value) or value != cell.value:
        raise refused("the cell says something else than the report")


def coefficient(correlation: Any, path: str) -> str | int | None:
    """The value at a dotted path (``first_differences.n``, ``lags.0.statistics.pearson_r``)."""
    found = correlation
    for name in path.split("."):
        if isinstance(found, list):
            if re.fullmatch("0|[1-9][0-9]{0,3}", name) is None:
                raise refused("there is no such coefficient")
            found = found[int(name)]
        else:
            found = found[name]
    if found is not None and type(found) not in (str, int):
        raise refused("there is no such coefficient")
    value: str | int | None = found
    return value


def _counts(receipt: CellReceipt) -> dict[str, int | None]:
    told = receipt.output.leaf["records"]
    if set(told) != {used["name"] for used in receipt.inputs}:
        raise refused("its records are of other inputs")
    counts: dict[str, int | None] = {}
    for name, part in told.items():
        if part is None:
            counts[name] = None
        elif set(part) == {"count", "root"} and type(part["count"]) is int:
            counts[name] = part["count"]
        else:
            raise refused("what it says of its records is none")
    return counts


def carries(counts: dict[str, int | None]) -> bool:
    """Whether a receipt with so many records carries them; it must then."""
    found = [count for count in counts.values() if count is not None]
    return len(found) == len(counts) and sum(found) <= CARRIED_MAX


def _check_records(
    receipt: CellReceipt, counts: dict[str, int | None], trust: Trust
) -> list[Verified] | None:
    """The records behind the cell, each verified; ``None`` where the receipt carries none."""
    if (receipt.records is not None) != carries(counts):
        raise refused("it does not carry the records that it must, or carries too many")
    if receipt.records is None:
        return None
    if set(receipt.records) != set(counts):
        raise refused("its records are of other inputs")
    verified: list[Verified] = []
    for used in receipt.inputs:
        told = receipt.output.leaf["records"][used["name"]]
        found = [verify_decoded(receipt_of(one), trust) for one in receipt.records[used["name"]]]
        names = [f"{one.record}@{one.revision}" for one in found]
        root = merkle.root([merkle.leaf_hash(name.encode()) for name in names])
        if len(found) != told["count"] or root.hex() != told["root"]:
            raise refused("its records are others than the row was made of")
        for one in found:
            if one.profile != used["profile"] or one.publication > used["publication"]:
                raise refused("a record in it is of another profile or a later publication")
            if one.withdrawn:
                raise refused("a record in it is withdrawn")
        verified += found
    return verified


def _recorded() -> Verdict:
    return Verdict(
        verdict="recorded",
        holds=True,
        means="this cell stands in the report that this event tells of, with exactly this spec, "
        "these inputs and these records, in the log that a key of the policy signed",
        does_not_mean="that it was computed correctly (recompute it for that), or that the "
        "operator shows everybody the same log",
    )


def _attributed(verified: list[Verified] | None) -> Verdict:
    if verified is None:
        return Verdict(
            verdict="attributed",
            holds=None,
            means=f"not shown: more than {CARRIED_MAX} records are behind the cell, and the "
            "receipt does not carry them; ask for the receipts of records",
        )
    signed = sum(one.worker_key is not None for one in verified)
    if signed < len(verified) or not verified:
        return Verdict(
            verdict="attributed",
            holds=None,
            means=f"not shown: of {len(verified)} records behind the cell workers signed {signed}",
        )
    return Verdict(
        verdict="attributed",
        holds=True,
        means="each record behind the cell is in the same log, and was signed by the worker that "
        "made it with the key that this worker registered there",
        does_not_mean="that a source said so, or that the operator did not register a key of its "
        "own under a worker's name",
    )


def _not_recomputed(verified: list[Verified] | None) -> Verdict:
    how = "--recompute" if verified is not None else "--input NAME=FILE.parquet for each input"
    return Verdict(verdict="reproduced", holds=None, means=f"not asked for: {how} does it")


# --- computing it again --------------------------------------------------------------------------


def recomputed(plain: Any, found: CellVerified, files: dict[str, Path], scratch: Path) -> Verdict:
    """The third verdict: the cell from the records that the receipt carries, or from ``files``.

    ``files`` are the inputs' projections, whose digests the receipt knows; without them the carried
    records are written to ``scratch`` as the only ones there are. Needs the reports' engines.
    :class:`ReceiptRefused` says what does not fit.
    """
    from holdfast.reports.compute import ComputeJob, compute_report
    from holdfast.reports.inputs import InputFile
    from holdfast.reports.receipt_inputs import write_carried
    from holdfast.reports.spec import convert_spec

    receipt = msgspec.convert(plain, CellReceipt)
    spec = convert_spec(receipt.spec)
    if files:
        if set(files) != set(spec.inputs):
            raise _unlike(f"the inputs are {', '.join(sorted(spec.inputs))}")
        inputs = {
            used["name"]: InputFile(path=str(files[used["name"]]), digest=used["digest"])
            for used in receipt.inputs
        }
        trace = receipt.output.index
    else:
        if receipt.records is None:
            raise Invalid(
                "cannot reproduce the cell: the receipt does not carry the records",
                code="receipt-inputs-needed",
                hint="the receipt itself holds; give the inputs' files: "
                + " ".join(f"--input {name}=FILE.parquet" for name in sorted(spec.inputs)),
            )
        inputs = write_carried(spec, receipt.records, scratch)
        trace = 0
    shown = [] if receipt.cell.row is None else receipt.entry.payload["columns"]
    try:
        job = ComputeJob(spec=spec, files=inputs, trace=trace, columns=shown)
        result = compute_report(job)
    except HoldfastError as error:
        raise _unlike(error.detail) from error
    except LookupError as error:
        raise _unlike("the spec has other columns than the report") from error
    if files and result.outputs_root != receipt.entry.payload["outputs_root"]:
        raise _unlike("the same inputs give another report")
    if result.traced is None:
        raise _unlike("they give no such row")
    leaf = msgspec.json.decode(result.traced.leaf)
    if receipt.cell.row is None:
        value = coefficient(leaf["correlation"], receipt.cell.column)
    else:
        value = leaf["cells"][receipt.entry.payload["columns"].index(receipt.cell.column)]
    if not _same(value, found.value):
        raise _unlike(f"they give {value!r} instead of {found.value!r}")
    what = (
        "the supplied inputs have the digests that were recorded, and"
        if files
        else ("the records that the receipt carries are those that were recorded, and")
    )
    return Verdict(
        verdict="reproduced",
        holds=True,
        means=f"{what} computing the spec over them again gives exactly this cell",
        does_not_mean="that the spec asks the right question, or that the sources were right",
    )


def _same(value: Any, expected: Any) -> bool:
    """Equal, or equal as decimals: a sum over fewer rows may be written with fewer zeros."""
    if value == expected:
        return True
    try:
        return Decimal(value) == Decimal(expected)
    except (InvalidOperation, TypeError, ValueError):
        return False


def _unlike(reason: str) -> ReceiptRefused:
    return ReceiptRefused(
        f"cannot reproduce the cell: {reason}",
        code="receipt-not-reproduced",
        hint="the receipt itself holds; see that these are the inputs it names",
    )
