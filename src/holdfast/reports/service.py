"""Reports: run, list, show, take away, draw.

A run reads what the spec names, computes in a child process, stores the data as an object and
then, in one transaction, the report and its event. The object is durable before the row that names
it; if the process dies between, the object is an orphan and is collected. The same spec over the
same inputs is the same report: it is answered, not computed again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import Connection

from holdfast.kernel import merkle
from holdfast.kernel.canonical import canonical
from holdfast.kernel.clock import Clock, parse_timestamp, timestamp
from holdfast.kernel.database import Database
from holdfast.kernel.errors import (
    Conflict,
    Corrupt,
    Denied,
    Invalid,
    NotFound,
    Unavailable,
)
from holdfast.kernel.http.paging import Page, decode_cursor, encode_cursor, page_size
from holdfast.kernel.ids import EventId, NewId
from holdfast.kernel.moments import check_order
from holdfast.kernel.objects import Objects
from holdfast.kernel.objects.orphans import confirm, noted
from holdfast.kernel.outbox import Event, Outbox
from holdfast.kernel.principal import Permission, Principal, out_of_scope
from holdfast.kernel.telemetry import request_id
from holdfast.ledger.notes import own_signature
from holdfast.records.errors import EventSealed
from holdfast.records.receipt import (
    RECEIPT_BYTES_MAX,
    EntryPart,
    ReceiptRefused,
    sealed,
)
from holdfast.registry.model import Profile
from holdfast.registry.time_rules import frequencies_of
from holdfast.reports import store
from holdfast.reports.chart import ChartFormat, ChartJob, chart_kind
from holdfast.reports.compute import ComputeJob, ComputeResult, Traced, opened
from holdfast.reports.drawings import Drawings
from holdfast.reports.errors import CellReceiptNotYet, ReportTooLarge, UnknownReport
from holdfast.reports.export import DataFormat, ExportJob, write_rows
from holdfast.reports.inputs import InputFile
from holdfast.reports.model import (
    COMPUTATION,
    CorrelationOutput,
    Credit,
    InputUsed,
    Report,
    ReportSpec,
    ReportSummary,
    headline,
)
from holdfast.reports.ports import (
    Children,
    Evidence,
    Profiles,
    Projection,
    Projections,
    Receipts,
)
from holdfast.reports.receipt import (
    FORMAT,
    CellPart,
    CellReceipt,
    OutputPart,
    carries,
    coefficient,
)
from holdfast.reports.spec import canonical_spec, check_spec, spec_digest, unzoned, zoned
from holdfast.reports.turns import Turns

COMPUTE = "holdfast.reports.compute:compute"
RENDER = "holdfast.reports.chart:render"
DRAWN_BYTES_MAX = 16 * 1024 * 1024
EXPORT = "holdfast.reports.export:export"
RENDER_MEMORY_MB = 1024
"""What the renderer's engine claims before it draws its first line."""
_OPAQUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_CURSOR = "reports"
_SEQUENCE_MAX = 2**53 - 1
_FOREVER = "9999"
Inputs = list[InputUsed]
Carried = dict[str, list[dict[str, Any]]]
Numbered = list[tuple[int, Report]]
T = TypeVar("T")

LIMITED_STEP, LIMITED_MAX = 100, 5_000
"""For whoever is limited: so many reports are read at a time, and looked through for one page."""
STORED_AGAIN_MAX = 3
LATER_MAX = 20
"""So many publications of an input may come while a report waits and is computed."""


@dataclass(frozen=True, slots=True)
class ReportsSettings:
    """Bounds on one computation, and on how many run or wait at once."""

    seconds: float = 120.0
    memory_mb: int = 2048
    at_once: int = 2
    waiting_max: int = 16


class ReportsService:
    """What others call. Safe to share; one per process."""

    def __init__(
        self,
        db: Database,
        objects: Objects,
        outbox: Outbox,
        projections: Projections,
        profiles: Profiles,
        children: Children,
        clock: Clock,
        new_id: NewId,
        settings: ReportsSettings | None = None,
        *,
        receipts: Receipts | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        self._db = db
        self._objects = objects
        self._outbox = outbox
        self._projections = projections
        self._profiles = profiles
        self._children = children
        self._clock = clock
        self._new_id = new_id
        self._settings = settings or ReportsSettings()
        self._receipts = receipts
        self._evidence = evidence
        self._drawn = Drawings(DRAWN_BYTES_MAX)
        bounds = self._settings
        self._turns = Turns(bounds.at_once, bounds.waiting_max, "compute", 5)

    async def run(self, principal: Principal, spec: ReportSpec) -> Report:
        """Compute the report, or answer the one that is there (``unchanged``).

        Raises :class:`SpecInvalid` with every problem of the spec, :class:`InputMismatch`,
        :class:`DuplicateKeys` or :class:`TooFewRows` for what the data does not allow,
        ``NotFound`` for a profile that has published nothing, :class:`ReportTooLarge` beyond
        memory, time or rows, ``Exhausted`` when too many wait. Repeating it is safe.
        """
        check_spec(spec)
        _require(principal, Permission.RECORDS_READ)
        for source in spec.inputs.values():
            if not principal.sees(source.profile):
                raise out_of_scope(principal, source.profile)
        zones, unknown = await self._zones(principal, spec)
        spec = zoned(spec, zones)
        inputs, files = await self._inputs(principal, spec)
        found = await self._same(principal, spec, inputs)
        if found is not None:
            return found
        try:
            result = await self._compute(spec, files)
        except (Corrupt, Unavailable):
            # A newer publication may have replaced the file under our hands: look once more.
            inputs, files = await self._inputs(principal, spec)
            result = await self._compute(spec, files)
        report = self._report(principal, spec, inputs, result, _utc_notes(spec, unknown))
        for _ in range(STORED_AGAIN_MAX):
            try:
                return await self._stored(principal, report, result.data)
            except Unavailable as error:
                # The same data had lain there without a name, and was collected under our hands.
                if error.code != "object-collected":
                    raise
        return await self._stored(principal, report, result.data)

    async def _stored(self, principal: Principal, report: Report, data: bytes) -> Report:
        generation = await self._db.read(principal, lambda conn: noted(conn, principal))
        await self._objects.put_bytes(principal, report.data_digest, data)
        return await self._keep(principal, report, generation)

    async def list(
        self,
        principal: Principal,
        *,
        name: str = "",
        since: str = "",
        until: str = "",
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[ReportSummary]:
        """Reports, newest first; of one ``name``, created in ``since`` ≤ t < ``until``.

        For whoever is limited to some profiles: those that were made of nothing else. Where these
        are rare a page may have fewer than ``limit``, or none, and the next one goes on.
        """
        (before,) = decode_cursor(_CURSOR, cursor, int) if cursor else (_SEQUENCE_MAX,)
        limit = page_size(limit)
        first, last = _moment(since, "since") or "", _moment(until, "until") or _FOREVER
        if since and until:
            check_order("list reports", ("since", since), ("until", until), (first, last))

        step = limit + 1 if principal.profiles is None else max(limit + 1, LIMITED_STEP)

        def unit(conn: Connection) -> tuple[Numbered, int | None]:
            found: Numbered = []
            below, looked = before, 0
            while looked < LIMITED_MAX:
                some = store.newest(
                    conn,
                    principal,
                    name=name,
                    since=first,
                    until=last,
                    before=below,
                    limit=step,
                )
                found += [each for each in some if _seen(principal, each[1])]
                if len(found) > limit:
                    return found[:limit], found[limit - 1][0]
                if len(some) < step:
                    return found, None
                looked += step
                below = some[-1][0]
            return found, below

        rows, then = await self._db.read(principal, unit)
        items = [_summary(report) for _, report in rows]
        return Page(items=items, next=None if then is None else encode_cursor(_CURSOR, [then]))

    async def show(self, principal: Principal, report_id: str) -> Report:
        """One report; :class:`UnknownReport` if there is none."""
        found = await self._db.read(principal, lambda conn: store.find(conn, principal, report_id))
        if found is None or not _seen(principal, found):
            raise UnknownReport(
                f"cannot find the report {report_id}", hint="`holdfast report list` shows them"
            )
        return found

    async def data(
        self,
        principal: Principal,
        report_id: str,
        format: DataFormat = "json",  # noqa: A002 - the word of the interface
        *,
        exact: bool = False,
    ) -> bytes:
        """All rows of a report. ``exact`` leaves CSV cells as they are, formulas included."""
        if format not in ("json", "csv", "parquet"):
            raise Invalid(f"cannot write data as {format!r}: json, csv or parquet")
        report = await self.show(principal, report_id)
        if format == "parquet":
            return await self._objects.read(principal, report.data_digest)
        if report.row_count == len(report.rows):
            return write_rows(report.columns, report.rows, format, exact=exact)
        data = await self._objects.read(principal, report.data_digest)
        job = ExportJob(columns=report.columns, data=data, format=format, exact=exact)
        return await self._child(EXPORT, job, bytes)

    async def chart(
        self,
        principal: Principal,
        report_id: str,
        format: ChartFormat = "svg",  # noqa: A002 - the word of the interface
    ) -> bytes:
        """The report drawn; ``Invalid`` for one whose picture would show nothing."""
        if format not in ("svg", "png"):
            raise Invalid(f"cannot draw as {format!r}: svg or png")
        report = await self.show(principal, report_id)
        key = (principal.tenant, report_id, format)
        drawn = self._drawn.get(key)
        if drawn is None:
            data = await self._objects.read(principal, report.data_digest)
            job = ChartJob(report=report, data=data, format=format)
            drawn = self._drawn.keep(key, await self._child(RENDER, job, bytes))
        return drawn

    # --- receipts ---------------------------------------------------------------------------------

    async def receipt(
        self, principal: Principal, report_id: str, column: str, row: int | None = None
    ) -> bytes:
        """The receipt of one cell: of a table by ``row`` (from 0) and ``column``, of a correlation
        by the path of a coefficient (``levels.pearson_r``).

        The report is computed again from the same publications, to know which records are behind
        the cell. ``Conflict`` if that gives other bytes (a person was erased meanwhile),
        :class:`CellReceiptNotYet` while the ledger does not hold the report's event.
        """
        _require(principal, Permission.RECORDS_READ)
        if self._receipts is None or self._evidence is None:
            raise Unavailable("cannot give receipts: this reporter knows no ledger")
        report, event = await self._with_event(principal, report_id)
        value = _cell(report, column, row)
        files = await self._past_files(principal, report)
        job = ComputeJob(
            spec=report.spec,
            files=files,
            memory_mb=self._settings.memory_mb // 2,
            trace=0 if row is None else row,
            columns=[] if row is None else [each.name for each in report.columns],
        )
        result = await self._child(COMPUTE, job, ComputeResult)
        if result.outputs_root != report.outputs_root or result.traced is None:
            raise _other_inputs(report)
        traced = result.traced
        output = OutputPart(
            index=job.trace or 0, leaf=msgspec.json.decode(traced.leaf), path=traced.path
        )
        if row is not None:
            value = output.leaf["cells"][[each.name for each in report.columns].index(column)]
        try:
            (proof,) = await self._evidence.event_proofs(principal, [event])
        except NotFound as error:
            raise CellReceiptNotYet(
                f"cannot give a receipt of {report_id}: the ledger does not hold its event yet",
                retry_after_seconds=1.0,
            ) from error
        if proof.payload is None:
            raise EventSealed(
                f"cannot give a receipt of {report_id}: the ledger cannot open its event, since "
                "the reporter has a keyring of its own",
                hint="let roles on one database share HOLDFAST_KEYRING_URL and the master key",
            )
        payload = msgspec.json.decode(proof.payload)
        if "outputs_count" not in payload:
            raise _other_inputs(report)
        records = await self._carried(principal, report, output.leaf["records"], traced)
        made = CellReceipt(
            cell=CellPart(column=column, row=row, value=value),
            checkpoint=own_signature(proof.checkpoint),
            entry=EntryPart(
                index=proof.position,
                leaf=msgspec.json.decode(proof.leaf),
                path=proof.path,
                payload=payload,
                salt=proof.salt,
            ),
            format=FORMAT,
            inputs=[input_leaf(used) for used in by_name(report.inputs)],
            output=output,
            records=records,
            spec=msgspec.json.decode(canonical_spec(report.spec)),
        )
        data = sealed(made)
        if len(data) > RECEIPT_BYTES_MAX:
            raise ReportTooLarge(
                f"cannot give a receipt of {report_id}: with its records it has {len(data)} bytes, "
                f"more than {RECEIPT_BYTES_MAX}",
                hint="ask for the receipts of its records",
            )
        await self._note_receipt(principal, report, column)
        return data

    async def _with_event(self, principal: Principal, report_id: str) -> tuple[Report, str]:
        report = await self.show(principal, report_id)
        event = await self._db.read(
            principal, lambda conn: store.event_of(conn, principal, report_id)
        )
        if report.computation != COMPUTATION:
            raise _other_inputs(report)
        return report, event

    async def _past_files(self, principal: Principal, report: Report) -> dict[str, InputFile]:
        """The projections that the report was computed from, if they can be made again."""
        files = {}
        for used in report.inputs:
            found = await self._past_projection(principal, report, used)
            if found.digest != used.digest:
                raise _other_inputs(report)
            files[used.name] = InputFile(path=str(Path(found.path)), digest=found.digest)
        return files

    async def _past_projection(
        self, principal: Principal, report: Report, used: InputUsed
    ) -> Projection:
        """Of its publication: others may have come while the report was computed."""
        as_of = used.as_of or report.created_at
        for _ in range(LATER_MAX):
            found = await self._projections.projection(
                principal, used.profile, as_of=as_of, vintage=used.vintage
            )
            if found.publication <= used.publication:
                return found
            as_of = timestamp(parse_timestamp(found.recorded_at) - timedelta(microseconds=1))
        raise _other_inputs(report)

    async def _carried(
        self, principal: Principal, report: Report, told: dict[str, Any], traced: Traced
    ) -> Carried | None:
        assert self._receipts is not None
        counts = {name: None if part is None else part["count"] for name, part in told.items()}
        if not carries(counts):
            return None
        found = {}
        for used in report.inputs:
            wanted = traced.records[used.name]
            made = await self._receipts.receipts(principal, used.profile, wanted) if wanted else []
            found[used.name] = [_without_digest(each) for each in made]
        return found

    async def _note_receipt(self, principal: Principal, report: Report, column: str) -> None:
        event = Event(
            id=EventId(self._new_id()),
            stream=f"report/{report.id}",
            type="report.receipted",
            time=self._clock.now(),
            payload={"column": column, "report": report.id},
            request_id=request_id() if _OPAQUE.fullmatch(request_id()) else "",
        )
        await self._db.write(principal, lambda conn: self._outbox.emit(conn, principal, event))

    # --- a run, step by step --------------------------------------------------------------------

    async def _inputs(
        self, principal: Principal, spec: ReportSpec
    ) -> tuple[Inputs, dict[str, InputFile]]:
        """What the spec names, as it is now: the exact publications and where their bytes lie."""
        inputs, files = [], {}
        for name, source in spec.inputs.items():
            found: Projection = await self._projections.projection(
                principal, source.profile, as_of=source.as_of, vintage=source.vintage
            )
            files[name] = InputFile(path=str(Path(found.path)), digest=found.digest)
            inputs.append(
                InputUsed(
                    name=name,
                    profile=source.profile,
                    publication=found.publication,
                    digest=found.digest,
                    as_of=source.as_of,
                    vintage=source.vintage,
                    credit=await self._credit(principal, source.profile),
                )
            )
        return inputs, files

    async def _zones(
        self, principal: Principal, spec: ReportSpec
    ) -> tuple[dict[str, str], set[str]]:
        """The time zones of the profiles whose periods may begin within a day, and the profiles
        that the registry does not know: records outlive what it has lost."""
        zones, unknown = {}, set[str]()
        for profile in {source.profile for source in spec.inputs.values()}:
            try:
                found = (await self._profiles.show(principal, profile)).profile
            except NotFound:
                unknown.add(profile)
                continue
            if found.period and {"H", "I"} & frequencies_of(found.period):
                zones[profile] = found.timezone
        return zones, unknown

    async def _credit(self, principal: Principal, profile: str) -> Credit:
        try:
            return credit_of((await self._profiles.show(principal, profile)).profile)
        except NotFound:
            # Records outlive a removed profile; its name is then all there is to say.
            return Credit()

    async def _same(self, principal: Principal, spec: ReportSpec, inputs: Inputs) -> Report | None:
        digest, root = spec_digest(spec), inputs_root(inputs)
        found = await self._db.read(
            principal, lambda conn: store.find_same(conn, principal, digest, root, COMPUTATION)
        )
        return None if found is None else msgspec.structs.replace(found, unchanged=True)

    async def _compute(self, spec: ReportSpec, files: dict[str, InputFile]) -> ComputeResult:
        # Half for the database, half for what Python, Arrow and SciPy hold beside it.
        job = ComputeJob(spec=spec, files=files, memory_mb=self._settings.memory_mb // 2)
        return await self._child(COMPUTE, job, ComputeResult)

    def _report(
        self,
        principal: Principal,
        spec: ReportSpec,
        inputs: Inputs,
        result: ComputeResult,
        notes: Sequence[str],
    ) -> Report:
        counted = [
            msgspec.structs.replace(used, **msgspec.structs.asdict(result.inputs[used.name]))
            for used in inputs
        ]
        return Report(
            id=self._new_id(),
            name=spec.name,
            title=spec.title or spec.name,
            kind="correlation" if isinstance(spec.output, CorrelationOutput) else "table",
            spec=spec,
            spec_digest=spec_digest(spec),
            inputs=counted,
            inputs_root=inputs_root(inputs),
            outputs_root=result.outputs_root,
            data_digest=result.data_digest,
            data_size_bytes=len(result.data),
            columns=result.columns,
            row_count=result.row_count,
            rows=result.rows,
            correlation=result.correlation,
            notes=[*result.notes, *notes],
            chart=chart_kind(spec.chart.kind, result.correlation, result.columns),
            created_at=timestamp(self._clock.now()),
            created_by=principal.subject,
        )

    async def _keep(self, principal: Principal, report: Report, generation: int) -> Report:
        """Write the report and its event, or answer the one a concurrent run wrote first."""
        event = Event(
            id=EventId(self._new_id()),
            stream=f"report/{report.id}",
            type="report.computed",
            time=self._clock.now(),
            payload=_payload(report),
            request_id=request_id() if _OPAQUE.fullmatch(request_id()) else "",
        )

        name = self._objects.name(principal, report.data_digest)

        def unit(conn: Connection) -> Report:
            found = store.find_same(
                conn, principal, report.spec_digest, report.inputs_root, report.computation
            )
            if found is not None:
                return msgspec.structs.replace(found, unchanged=True)
            confirm(conn, principal, name, generation)
            store.insert(conn, principal, report, event.id)
            self._outbox.emit(conn, principal, event)
            return report

        return await self._db.write(principal, unit, size_bytes=200 * len(report.rows) + 4096)

    # --- children -------------------------------------------------------------------------------

    async def _child(self, target: str, job: Any, type_: type[T]) -> T:
        async with self._turns.turn():
            answered = await self._children.call(
                target,
                msgspec.msgpack.encode(job),
                deadline_seconds=self._settings.seconds,
                memory_mb=max(self._settings.memory_mb, RENDER_MEMORY_MB)
                if target == RENDER
                else self._settings.memory_mb,
            )
        return cast(T, opened(answered, type_))


def credit_of(profile: Profile) -> Credit:
    """What a profile asks to be said wherever its data is shown."""
    licence = profile.licence
    return Credit(
        title=profile.title,
        publisher=profile.publisher,
        licence=licence if isinstance(licence, str) else licence.name,
        licence_url="" if isinstance(licence, str) else licence.url or "",
        attribution=profile.attribution,
    )


def _cell(report: Report, column: str, row: int | None) -> str | int | None:
    """The value of a coefficient; of a table only whether there is such a cell."""
    if report.correlation is not None:
        if row is not None:
            raise Invalid("cannot give a receipt: a correlation has no rows, leave `row` out")
        try:
            return coefficient(msgspec.to_builtins(report.correlation), column)
        except (ReceiptRefused, KeyError, IndexError, TypeError) as error:
            raise Invalid(
                f"cannot give a receipt: there is no coefficient {column[:100]!r}",
                hint="levels.pearson_r, levels.n, slope, first_differences.spearman_rho, …",
            ) from error
    names = [each.name for each in report.columns]
    if row is None or not 0 <= row < report.row_count or column not in names:
        raise Invalid(
            f"cannot give a receipt: {report.name} has {report.row_count} rows, from 0, and the "
            f"columns {', '.join(names)}",
            hint="name a cell by `row` and `column`",
        )
    return None


def _other_inputs(report: Report) -> Conflict:
    return Conflict(
        f"cannot give a receipt of {report.id}: what it was computed from cannot be made again",
        code="inputs-gone",
        hint="a person was erased since, or an earlier release computed it: run the report again",
    )


def _without_digest(receipt: bytes) -> dict[str, Any]:
    """A record's receipt within another's: the outer one has the digest of all."""
    plain: dict[str, Any] = msgspec.json.decode(receipt)
    del plain["sha256"]
    return plain


def by_name(inputs: list[InputUsed]) -> list[InputUsed]:
    """The inputs in the order in which they are committed to."""
    return sorted(inputs, key=lambda used: used.name)


def input_leaf(used: InputUsed) -> dict[str, Any]:
    """What is committed to of an input: which profile, publication and bytes it was."""
    return {
        "as_of": used.as_of,
        "digest": used.digest,
        "name": used.name,
        "profile": used.profile,
        "publication": used.publication,
        "vintage": used.vintage,
    }


def inputs_root(inputs: list[InputUsed]) -> str:
    """The RFC 6962 root over the inputs by name."""
    leaves = [canonical(input_leaf(used)) for used in by_name(inputs)]
    return merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]).hex()


def _payload(report: Report) -> dict[str, Any]:
    return {
        "columns": [column.name for column in report.columns],
        "computation": report.computation,
        "data_digest": report.data_digest,
        "inputs": [
            {
                "digest": used.digest,
                "name": used.name,
                "profile": used.profile,
                "publication": used.publication,
            }
            for used in report.inputs
        ],
        "inputs_root": report.inputs_root,
        "kind": report.kind,
        "name": report.name,
        # A leaf for each row, or two: the coefficients, and the data they were computed from.
        "outputs_count": report.row_count if report.correlation is None else 2,
        "outputs_root": report.outputs_root,
        "report": report.id,
        "row_count": report.row_count,
        "spec_digest": report.spec_digest,
    }


def _summary(report: Report) -> ReportSummary:
    return ReportSummary(
        id=report.id,
        name=report.name,
        title=report.title,
        kind=report.kind,
        status=report.status,
        row_count=report.row_count,
        headline=headline(report),
        profiles=[used.profile for used in report.inputs],
        created_at=report.created_at,
        created_by=report.created_by,
        chart=report.chart,
    )


def _moment(text: str, what: str) -> str:
    if not text:
        return ""
    try:
        return timestamp(parse_timestamp(text))
    except ValueError as error:
        raise Invalid(f"cannot list reports: {what} {text!r} is no RFC 3339 time") from error


def _utc_notes(spec: ReportSpec, unknown: Collection[str]) -> Sequence[str]:
    """What days mean where nobody can say in which zone they are."""
    return [
        f"{name}: the registry does not know the profile {spec.inputs[name].profile}, so days, "
        f"months and years of hours and instants are UTC's; inputs.{name}.timezone says otherwise"
        for name in unzoned(spec)
        if spec.inputs[name].profile in unknown
    ]


def _seen(principal: Principal, report: Report) -> bool:
    """Whether all that a report was made of is within the principal's profiles."""
    return all(principal.sees(used.profile) for used in report.inputs)


def _require(principal: Principal, permission: Permission) -> None:
    """Whoever computes over records must be allowed to read them."""
    if not principal.may(permission):
        raise Denied(
            f"cannot run the report: {permission.value} is missing", code="permission-missing"
        )
