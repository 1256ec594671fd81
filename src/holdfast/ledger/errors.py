"""The ledger's failures."""

from __future__ import annotations

from holdfast.kernel.errors import Conflict, Corrupt, Invalid, NotFound, Unavailable

CLOCK = (
    "if the clock is wrong, set it right; if it is right now and was ahead then, "
    "`holdfast ledger accept-clock --reason …` lets appends go on"
)
REBUILD = "`holdfast ledger rebuild` makes the index anew from the log"


class LogMoved(Conflict):
    """The log does not end where the commit was to begin: another sequencer was there."""

    code = "log-moved"


class IndexMoved(LogMoved):
    """The index does not end where the log does: it has to be brought up before it is added to."""

    code = "index-moved"


class VersionConflict(Conflict):
    """A stream is not at the version that was expected; the message says which it is at."""

    code = "version-conflict"

    def __init__(self, stream: str, expected: int, current: int) -> None:
        super().__init__(
            f"cannot append to {stream}: it is at version {current}, not {expected}",
            hint=f"read what came, and append with expected {current}",
        )
        self.stream = stream
        self.expected = expected
        self.current = current


class EventIdReused(Conflict):
    """An event id that the ledger holds with other content."""

    code = "event-id-reused"


class SubjectErased(Conflict):
    """The person an event is about was erased: nothing more is kept about them."""

    code = "subject-erased"


class AppendPartlyKnown(Conflict):
    """Some events of an atomic append are in the ledger, others are not."""

    code = "append-partly-known"


class LedgerReadOnly(Unavailable):
    """The log is not what it was: nothing is appended until the operator starts a new origin."""

    code = "ledger-read-only"


class NotSequencer(Unavailable):
    """Another instance sequences this tenant's log. Nothing was done, nor passed on to it."""

    code = "not-sequencer"

    def __init__(self, detail: str) -> None:
        super().__init__(
            detail,
            hint="ask the other instances: `holdfast ledger status` says which one is writable, "
            "and a load balancer that goes on to the next one at a 503 finds it by itself; if that "
            "one is gone, this one takes over ten seconds later",
            retry_after_seconds=1.0,
        )


class ClockSteppedBack(Unavailable):
    """The clock is over an hour behind the last entry, and nobody has said that it is right."""

    code = "clock-stepped-back"

    def __init__(self, behind_seconds: float, recorded: str) -> None:
        self.said = f"the clock is {behind_seconds:.0f} s behind the last entry ({recorded})"
        super().__init__(f"cannot append: {self.said}", hint=CLOCK)


class SizeUnknown(Invalid):
    """A proof for a size that the log has not reached."""

    code = "size-unknown"


class EntryUnknown(NotFound):
    """No such entry for this caller."""

    code = "entry-unknown"


class ProjectionUnknown(NotFound):
    """No projection of that name."""

    code = "projection-unknown"


class NoteRefused(Corrupt):
    """A note, signature or proof that does not hold."""

    code = "note-invalid"


class WitnessDisagrees(Unavailable):
    """A witness says that the log is not what it has seen of this origin: ``size`` entries.

    It says so without a signature: nobody can hold that against it, or against us.
    """

    code = "witness-disagrees"

    def __init__(self, name: str, said: str, size: int) -> None:
        super().__init__(
            f"cannot give a checkpoint: the witness {name} says {said}",
            hint="none is given while it says so. Compare with a checkpoint or an export that you "
            "keep: if it is right, `holdfast ledger restart` continues under a new origin; if not, "
            "take it out of HOLDFAST_LEDGER_WITNESSES",
            retry_after_seconds=5.0,
        )
        self.said = f"the witness {name} says {said}"
        self.size = size


class ExportRefused(Corrupt):
    """An export that does not hold; the message says which entry does not fit."""

    code = "export-invalid"


class KeyMissing(Corrupt):
    """The private key in force is not here, or is another's."""

    code = "no-key"


class PublishedDamaged(Corrupt):
    """The file of what was published cannot be read: nobody knows what the outside was told."""

    code = "published-damaged"


class LogChanged(Corrupt):
    """The log does not extend a checkpoint that somebody has kept."""

    code = "log-changed"


class IndexWrong(Corrupt):
    """The index does not fit the log, at ``position``. The log itself is not concerned."""

    code = "index-damaged"

    def __init__(self, position: int, detail: str) -> None:
        super().__init__(detail, hint=REBUILD)
        self.position = position


class IndexIncomplete(Unavailable):
    """The index does not go as far as the log: it is being made anew, or that broke off."""

    code = "index-incomplete"


class FrameDamaged(Corrupt):
    """Stored bytes that are not a whole commit, or are missing; ``position`` says where."""

    code = "frame-damaged"

    def __init__(self, detail: str, *, position: int = 0, hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.position = position
