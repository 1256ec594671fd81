"""Moments that somebody asks about: one that has not come yet has no answer."""

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
