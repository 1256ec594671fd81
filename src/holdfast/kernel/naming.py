"""What people call things: names that are shown, in lists, pages and on terminals.

A name is free text of one line. What is no text in it does harm where it is shown: a line break
forges a line of its own, an escape sequence moves the cursor, an override of direction has the rest
read backwards. At the door such a name is refused (:data:`DisplayName`); one that another system
says of its account is mended (:func:`cleaned`), since nobody who could mend it is there.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

NAME_CHARACTERS_MAX = 200
_NO_TEXT = (
    r"\x00-\x1f\x7f-\x9f"  # controls: escapes, line breaks, tabs
    r"\u2028\u2029"  # breaks of lines and paragraphs
    r"\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of direction
    r"\ufeff\ufff9-\ufffb"  # marks that are no letters
)
_FORBIDDEN = re.compile(f"[{_NO_TEXT}]+")

DisplayName = Annotated[
    str,
    Meta(
        max_length=NAME_CHARACTERS_MAX,
        # Some letter that is seen, and none that is no text.
        pattern=rf"^[^{_NO_TEXT}]*[^\s{_NO_TEXT}][^{_NO_TEXT}]*$(?!\n)",
        description="a name of 1 to 200 characters: one line of text, without control characters "
        "or overrides of direction",
    ),
]


def cleaned(text: str, most: int = NAME_CHARACTERS_MAX) -> str:
    """``text`` as a name of one line, at most ``most`` characters; empty if nothing is left."""
    return " ".join(_FORBIDDEN.sub(" ", text).split())[:most].strip()
