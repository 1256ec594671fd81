"""The ways in which collecting and reading records is refused."""

from __future__ import annotations

from holdfast.kernel.errors import Conflict, Corrupt, Denied, Invalid, NotFound, Unavailable


class ReceiptNotYet(Unavailable):
    """The record is published and its event is on its way into the ledger: ask again."""

    code = "receipt-not-yet"


class EventSealed(Conflict):
    """The ledger cannot open an event: no person is named in it, so its keyring is another."""

    code = "event-sealed"


class RecordAltered(Corrupt):
    """A stored record is not what was recorded: the database was changed behind our back."""

    code = "record-altered"


class StaleFence(Conflict):
    """Somebody with a higher fence has the run: stop, nothing more of this attempt counts."""

    code = "stale-fence"


class SignatureRefused(Denied):
    """The batch is not what its worker signed, or somebody else signed it."""

    code = "signature-refused"


class RunEnded(Conflict):
    """The run is over; nothing can be added to it."""

    code = "run-ended"


class RunNotOpen(Conflict):
    """The run is not open for this attempt: open it first."""

    code = "run-not-open"


class RunOvertaken(Conflict):
    """A later run of the same profile took its place: what this one had staged is gone."""

    code = "run-overtaken"


class ProfileBusy(Conflict):
    """Another run of the profile is being collected and its lease still holds."""

    code = "profile-busy"


class BatchConflict(Conflict):
    """The batch's id was used with other content."""

    code = "batch-conflict"


class BatchOutOfOrder(Conflict):
    """A batch before this one is missing, and for this profile the order means something."""

    code = "batch-out-of-order"


class ResponseMissing(Conflict):
    """A record refers to a raw response that is not stored: send the bytes first."""

    code = "response-missing"


class ResponseConflict(Conflict):
    """The response's number was used with other content."""

    code = "response-conflict"


class DigestMismatch(Invalid):
    """The bytes that arrived are not those that were announced."""

    code = "digest-mismatch"


class NoSuchRun(NotFound):
    """No run with this id, for this caller."""

    code = "run-not-found"


class NoSuchRecord(NotFound):
    """No record with this id, for this caller."""

    code = "record-not-found"


class NotPublished(NotFound):
    """Nothing of this profile has been published, or not yet at the moment asked for."""

    code = "not-published"


class Contended(Unavailable):
    """Others changed the same profile's staging each time we looked; nothing was done."""

    code = "staging-contended"


def no_such_run(run: str) -> NoSuchRun:
    """The one answer for a run that is not there, or not this caller's."""
    return NoSuchRun(f"cannot find the run {run[:64]}")
