"""``holdfast verify``: check a receipt offline, against a policy file of your own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.kernel.cli import fail, print_fields, print_json, read_file, say
from holdfast.kernel.errors import HoldfastError, Invalid
from holdfast.kernel.options import JsonOption

if TYPE_CHECKING:
    from holdfast.ledger.model import Trust
    from holdfast.records.receipt import Verdict, Verified
    from holdfast.reports.receipt import CellVerified

app = typer.Typer(add_completion=False)

ANSWERS = {True: "yes", False: "no", None: "not shown"}


@app.command(
    help="Check a receipt, offline: no server, no data directory. Exit status 0: it holds (and was "
    "reproduced, with --raw). 7: it does not, and the message says which step does not fit. 2: the "
    "call or the policy file cannot be used. Nothing in a receipt is believed; whom to trust is "
    "said by the policy file alone.",
    epilog="Example: holdfast verify r.json --trust holdfast.trust | "
    "holdfast verify r.json --trust holdfast.trust --raw page.csv --profile rain.yaml",
)
def verify(
    receipt: Annotated[
        Path, typer.Argument(help="The receipt; - reads standard input.", show_default=False)
    ],
    trust: Annotated[
        Path, typer.Option("--trust", help="Your policy file: holdfast ledger trust > FILE.")
    ],
    raw: Annotated[
        Path | None, typer.Option("--raw", help="The bytes that the source sent, to map again.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="The profile's file, with --raw.")
    ] = None,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Of a cell: compute it again from its records."),
    ] = False,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="Of a cell: NAME=FILE.parquet, to compute it again."),
    ] = None,
    charset: Annotated[
        str, typer.Option("--charset", help="What the source called the encoding of the bytes.")
    ] = "",
    json: JsonOption = False,
) -> None:
    if (raw is None) != (profile is None):
        raise typer.BadParameter("--raw and --profile go together")
    try:
        found = _found(receipt, trust, raw, profile, charset, recompute, inputs or [])
    except HoldfastError as error:
        if json:
            print_json({"holds": False, "code": error.code, "reason": error.detail})
        fail(error)
    if json:
        print_json(found)
        return
    shown: Any = found
    if hasattr(found, "report"):
        _print_cell(shown)
    else:
        _print(shown)


def _found(
    receipt: Path,
    trust: Path,
    raw: Path | None,
    profile: Path | None,
    charset: str,
    recompute: bool,
    inputs: list[str],
) -> Verified | CellVerified:
    """What the receipt shows, of a record or of a cell; it is read once, since it may be piped."""
    from holdfast.ledger.trusting import TRUST_BYTES_MAX, decode_trust
    from holdfast.records.receipt import RECEIPT_BYTES_MAX, opened_plain
    from holdfast.reports.receipt import is_cell_receipt

    files = _inputs(inputs)
    policy = decode_trust(read_file(trust, TRUST_BYTES_MAX))
    data = read_file(receipt, RECEIPT_BYTES_MAX)
    plain = opened_plain(data)
    if not is_cell_receipt(plain):
        if recompute or files:
            raise typer.BadParameter("--recompute and --input are for receipts of cells")
        return _verified(data, policy, raw, profile, charset)
    if raw is not None:
        raise typer.BadParameter("--raw is for receipts of records")
    return _cell(plain, policy, recompute, files)


def _inputs(given: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for each in given:
        name, separator, path = each.partition("=")
        if not separator:
            raise typer.BadParameter("--input is NAME=FILE.parquet")
        files[name] = Path(path)
    return files


def _cell(plain: Any, policy: Trust, recompute: bool, files: dict[str, Path]) -> CellVerified:
    import tempfile

    import msgspec

    from holdfast.reports.receipt import recomputed, verify_cell

    found = verify_cell(plain, policy)
    if not recompute and not files:
        return found
    with tempfile.TemporaryDirectory() as scratch:
        third = recomputed(plain, found, files, Path(scratch))
    return msgspec.structs.replace(found, verdicts=[*found.verdicts[:2], third])


def _print_cell(found: CellVerified) -> None:
    _print_verdicts(found.verdicts)
    print_fields(
        {
            "cell": f"{found.column}{'' if found.row is None else f' of row {found.row}'}",
            "report": f"{found.name} {found.report}",
            "spec": f"{found.spec_digest}, computation {found.computation}",
            "recorded": found.recorded,
            "event": f"{found.event} at position {found.position}",
            "checkpoint": f"{found.origin}, size {found.size}",
        }
    )
    for used in found.inputs:
        count = found.records[used["name"]]
        many = "too many records to be named" if count is None else f"{count} records"
        said = f"{used['profile']} at publication {used['publication']}, {many} behind the cell"
        print_fields({f"input {used['name']}": said})
    print_fields({"says      ": "null" if found.value is None else found.value})


def _print_verdicts(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        sys.stdout.write(f"{verdict.verdict}: {ANSWERS[verdict.holds]}\n  {verdict.means}\n")
        if verdict.does_not_mean:
            sys.stdout.write(f"  It does not mean {verdict.does_not_mean}.\n")
    sys.stdout.write("\n")


def _verified(
    data: bytes, policy: Trust, raw: Path | None, profile: Path | None, charset: str
) -> Verified:
    import msgspec

    from holdfast.records.receipt import verify_receipt

    found = verify_receipt(data, policy)
    if raw is None or profile is None:
        return found
    third = _reproduced(found, raw, profile, charset)
    return msgspec.structs.replace(found, verdicts=[*found.verdicts[:2], third])


def _reproduced(found: Verified, raw: Path, profile: Path, charset: str) -> Verdict:
    import hashlib

    from holdfast.collect.reproduce import remapped
    from holdfast.records.receipt import reproduced
    from holdfast.registry.model import profile_digest
    from holdfast.registry.validate import load_profile

    known = load_profile(read_file(profile, 1024 * 1024), draft=True)
    try:
        with raw.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise Invalid(f"cannot read {raw}: {error.strerror}") from error
    mapped: list[bytes] | str = "it does not lead to raw bytes"
    same = (digest, profile_digest(known)) == (found.raw_digest, found.profile_digest)
    if same and found.raw_response is not None and found.raw_position is not None:
        try:
            mapped = remapped(
                known,
                raw,
                response=found.raw_response,
                position=found.raw_position,
                charset=charset,
            )
        except HoldfastError as error:
            mapped = error.detail
    return reproduced(found, digest, profile_digest(known), mapped)


def _print(found: Verified) -> None:
    _print_verdicts(found.verdicts)
    print_fields(
        {
            "record": found.record,
            "revision": f"{found.revision}{' (withdrawn)' if found.withdrawn else ''}",
            "profile": f"{found.profile} {found.profile_digest}",
            "run": found.run,
            "worker": found.worker,
            "its key": found.worker_key or "",
            "recorded": found.recorded,
            "event": f"{found.event} at position {found.position}",
            "checkpoint": f"{found.origin}, size {found.size}",
            "raw bytes": found.raw_digest,
            "place in them": ""
            if found.raw_position is None
            else f"response {found.raw_response}, position {found.raw_position}",
        }
    )
    if found.content is None:
        say("what the record says is sealed or erased")
        return
    import msgspec

    print_fields({"says      ": msgspec.json.encode(found.content).decode()})
