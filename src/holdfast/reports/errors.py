"""This slice's failures."""

from __future__ import annotations

from holdfast.kernel.errors import Corrupt, Invalid, NotFound, TooLarge, Unavailable


class SpecInvalid(Invalid):
    """The spec breaks rules; ``problems`` lists all of them."""

    code = "report-invalid"


class InputMismatch(Invalid):
    """The spec is sound and the data is not what it takes it for."""

    code = "report-input-mismatch"


class DuplicateKeys(Invalid):
    """A join key names several rows of one side; joining would multiply rows."""

    code = "report-duplicate-keys"


class TooFewRows(Invalid):
    """Too few pairs for a coefficient."""

    code = "report-too-few-rows"


class ReportTooLarge(TooLarge):
    """Beyond the rows, memory or time that a report may take."""

    code = "report-too-large"


class UnknownReport(NotFound):
    """No such report here."""

    code = "report-unknown"


class InputCorrupt(Corrupt):
    """A projection's bytes are not what its digest says."""

    code = "report-input-corrupt"


class CellReceiptNotYet(Unavailable):
    """The report is computed and its event is on its way into the ledger: ask again."""

    code = "receipt-not-yet"
