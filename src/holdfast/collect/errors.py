"""How collecting can fail, in terms a run's ``code`` can carry.

``code`` is what a script, an alert and the run list see. A limit is not a crash: what was kept
until then is a *partial* run.
"""

from __future__ import annotations

from holdfast.kernel.errors import Exhausted, Invalid, TooLarge


class ParseFailed(Invalid):
    """The bytes are not what the profile says they are; fetching them again now cannot help.

    ``said`` is how they begin, where that may tell why: a source's own words, which may be about
    people and hold what it was sent.
    """

    code = "parse"
    said: str = ""


class BoundReached(ParseFailed):
    """The bytes are beyond a bound that protects the drone; ``bound`` is its name."""

    code = "parse-bound"

    def __init__(self, detail: str, *, bound: str, hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.bound = bound


class MappingRefused(Invalid):
    """The profile's mapping cannot be carried out as it is written."""

    code = "mapping"


class LimitReached(TooLarge):
    """A limit of the profile was reached; what was kept so far is a partial run."""

    code = "limit"


class PaginationFailed(Invalid):
    """The source's pages lead in a circle or contradict what it says of itself."""

    code = "pagination"


class SourceRefused(Invalid):
    """The source answered, and its answer says that it did not do what was asked."""

    code = "source-refused"


class SourceTruncated(ParseFailed):
    """The bytes end early, and the way they were sent could not have told."""

    code = "truncated"


class Incomplete(LimitReached):
    """The source gave another number of records than it said; the profile calls that partial."""

    code = "incomplete"


class QuotaReached(Exhausted):
    """The day's requests to this source are used up, over the whole fleet."""

    code = "quota"


class HostBusy(Exhausted):
    """As many requests as a host may have at once were under way all the time we waited."""

    code = "host-busy"
