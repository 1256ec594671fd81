"""How a text from outside begins, fit for a message. Pure."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_SAID_MAX = 300
_LOOKED_AT_MAX = 8 * 1024
_UNSHOWN = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<[^<>]*>", re.S | re.I)


def excerpt(text: str, hidden: Callable[[str], str] = str) -> str:
    """How a text from outside begins, on one line: no markup, nothing a terminal would act upon.

    ``hidden`` takes out of it what is not to be shown.
    """
    cut = text[:_LOOKED_AT_MAX]
    if cut.lstrip("\ufeff \t\r\n").startswith("<"):
        cut = html.unescape(_UNSHOWN.sub(" ", cut))
    cut = "".join(c if c.isprintable() and c != "\ufffd" else " " for c in cut)
    words = hidden(" ".join(cut.split()))
    return words if len(words) <= _SAID_MAX else f"{words[:_SAID_MAX]}…"
