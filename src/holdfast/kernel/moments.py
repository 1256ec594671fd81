"""Moments that somebody asks about: one that has not come yet has no answer, and a range that ends
before it begins has nothing in it."""

from __future__ import annotations

from datetime import datetime, timedelta

from holdfast.kernel.clock import timestamp
from holdfast.kernel.errors import Invalid

AHEAD = timedelta(minutes=1)
"""So far may the clock of whoever asks go before ours."""


def check_come(moment: datetime, now: datetime, newest: str = "") -> None:
    """``Invalid`` for a moment that has not come: by ``now``, and by the ``newest`` thing known.

    What is known now is not what will be known then, and whoever asked again would be answered
    otherwise. ``newest`` is for a clock that stepped back: what is recorded has come.
    """
    told = timestamp(moment)
    if moment > now + AHEAD and told > newest:
        raise Invalid(
            f"cannot tell what was known at {told}: that is ahead, it is {timestamp(now)} here",
            code="moment-ahead",
            hint="leave the time out for what is known now",
        )


def check_order(
    what: str, begins: tuple[str, str], ends: tuple[str, str], moments: tuple[str, str]
) -> None:
    """``Invalid`` for a range that holds nothing: its end is not after its beginning.

    Nothing would be found in it, and whoever asked would take that for an answer. ``begins`` and
    ``ends`` are each a name and what was written there, ``moments`` the same in texts that sort.
    """
    first, after = moments
    if first < after:
        return
    (name, text), (other, until) = begins, ends
    turned = f"exchange the two: {name}={until[:40]} {other}={text[:40]}"
    same = f"{other} is the first moment after the range: one that is later than {name}"
    raise Invalid(
        f"cannot {what}: {other}={until[:40]} is not after {name}={text[:40]}, so that nothing "
        "lies between them",
        code="range-reversed",
        hint=turned if first > after else same,
    )
