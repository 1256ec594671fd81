"""Why a row was rejected, said without the value that is somebody's own. Pure.

A worker writes the reason as a sentence, with what the source wrote in it. Of a profile with
personal fields only a sentence of ours may be kept: the one that the worker's begins with behind
the quoted value. Nothing of what came is copied, so that whatever the value holds, it cannot get
into what is told. A sentence that is none of these is withheld whole.
"""

from __future__ import annotations

import re

WITHHELD = "withheld: the profile has personal fields"
VALUE_WITHHELD = "the value is withheld: the profile has personal fields"

_QUOTED = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*") """, re.DOTALL)
"""A value as Python writes a text, in front of what is wrong with it."""
_BEYOND = "beyond the place of any column"

_SAID = {
    "came as a binary float": "came as a binary float, which is not exact",
    "does not name two years": "does not name two years that follow each other",
    "has more than": "has more digits than are taken",
    "has no day": "has no such day",
    "has no end": "has no such end of its period",
    "has no half": "has no such half year",
    "has no hour": "has no such hour",
    "has no month": "has no such month",
    "has no quarter": "has no such quarter",
    "has no week": "has no such week",
    "has no year": "has no such year",
    "has nothing above it": "has nothing above it on its page",
    "is a formula": "is a formula, and the file does not hold its result",
    "is a time that the clocks": "is a time that the clocks of its zone showed twice",
    "is a week": "is a week, and no day or time in one",
    "is an array": "is an array, not one value",
    "is an object": "is an object, not one value",
    "is beyond 2^53-1": "is beyond 2^53-1",
    "is in a time zone": "is in a time zone that is neither UTC nor the profile's",
    "is missing and required": "is missing and required",
    "is neither true nor false": "is neither true nor false",
    "is no date of RFC 2822": "is no date of RFC 2822",
    "is no period": "is no period",
    "is not a date or time": "is not a date or time as the profile says that they are written",
    "is not a day": "is not a day as the profile says that they are written",
    "is not a half year": "is not a half year as the profile says that they are written",
    "is not a month": "is not a month as the profile says that they are written",
    "is not a number": "is not a number as the profile says that they are written",
    "is not a quarter": "is not a quarter as the profile says that they are written",
    "is not a time that the clocks": "is not a time that the clocks of its zone showed",
    "is not a week": "is not a week as the profile says that they are written",
    "is not a whole number": "is not a whole number",
    "is not a year": "is not a year as the profile says that they are written",
    "is not in the code list": "is not in its code list",
    "is not the exponent": "is not the exponent of a power of ten",
    "is of the fiscal year": "is of the fiscal year or of the calendar's; `codings` say which",
    "is outside the years": "is outside the years 1 to 9999",
}
"""What sentences begin with, and what is told of them."""
_WIDTH = re.compile(r"has [0-9]{1,9} cells under [0-9]{1,9} columns")
_LACKING = re.compile(r"has no [a-z0-9_.]{1,90}, which is part of the key")
_OTHERS = (
    (_WIDTH, "has another number of cells than there are columns"),
    (_LACKING, "lacks a part of its key"),
)


def without_value(reason: str) -> str:
    """What may be told of a worker's reason, whoever reads it."""
    quoted = _QUOTED.match(reason)
    sentence = reason[quoted.end() :] if quoted else reason
    for pattern, told in _OTHERS:
        if pattern.fullmatch(sentence):
            return f"{told}; {VALUE_WITHHELD}"
    if sentence.startswith("has ") and sentence.endswith(_BEYOND):
        return f"has something {_BEYOND}; {VALUE_WITHHELD}"
    begun = [known for known in _SAID if sentence.startswith(known)]
    if not begun:
        return WITHHELD
    told = _SAID[max(begun, key=len)]
    return told if "missing" in told else f"{told}; {VALUE_WITHHELD}"
