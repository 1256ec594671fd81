"""What a JSON body must be before it is decoded."""

from __future__ import annotations

import json
from typing import Any

from holdfast.kernel.errors import Invalid

DEPTH_MAX = 64


def scan(body: bytes, *, depth_max: int = DEPTH_MAX) -> None:
    """Refuse duplicate keys and nesting deeper than ``depth_max``; :class:`Invalid` says which."""

    def pairs(items: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in items}) != len(items):
            raise Invalid("cannot read the body: an object repeats a key", code="json-invalid")

    def refuse(text: str) -> Any:
        raise Invalid(f"cannot read the body: {text} is not JSON", code="json-invalid")

    depth = 0
    if body.count(b"[") + body.count(b"{") > depth_max:
        for byte in body:
            if byte in b"[{":
                depth += 1
                if depth > depth_max:
                    break
            elif byte in b"]}":
                depth -= 1
    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=pairs, parse_constant=refuse)
    except Invalid:
        raise
    except (ValueError, RecursionError) as error:
        raise Invalid(f"cannot read the body: {error}", code="json-invalid") from error
