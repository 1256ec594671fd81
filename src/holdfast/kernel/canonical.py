"""The one place where bytes that are hashed or signed are produced.

RFC 8785 (JCS), restricted so that no two implementations can differ: no floating-point numbers
(decimals travel as strings), integers within ±(2⁵³−1), no lone surrogates, no duplicate keys.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import msgspec

from holdfast.kernel.errors import Invalid

INTEGER_MAX = 2**53 - 1

_encode = msgspec.json.Encoder(order="sorted").encode


def canonical(value: Any) -> bytes:
    """The canonical bytes of ``value``: plain data or msgspec structs.

    Raises :class:`Invalid` for what the restricted form does not admit, and says where it is.
    """
    if type(value) is dict and _is_flat(value):
        return _encode(value)
    plain = msgspec.to_builtins(value, order="sorted", str_keys=True)
    return _canonical_plain(plain)


def _is_flat(value: dict[Any, Any]) -> bool:
    """Whether ``value`` is what most events are: ASCII texts, lists of them, flags and integers.

    Its sorted encoding is the canonical one without a further look.
    """
    for name, item in value.items():
        if type(name) is not str or not name.isascii():
            return False
        kind = type(item)
        if kind is str:
            if not item.isascii():
                return False
        elif kind is int:
            if not -INTEGER_MAX <= item <= INTEGER_MAX:
                return False
        elif kind is list:
            if not all(type(each) is str and each.isascii() for each in item):
                return False
        elif kind is not bool and item is not None:
            return False
    return True


def check_plain(value: Any) -> bool:
    """Refuse what the restricted form does not admit, as it stands: a key that is no text, too.

    Tells whether code-point order is enough for the keys: see :func:`_check`.
    """
    try:
        return _check(value)
    except Invalid as error:
        place = _place(value).lstrip(".")
        if not place:
            raise
        raise Invalid(f"{error.detail}, at {place[:200]}", hint=error.hint) from None


def _place(value: Any) -> str:
    """Where in ``value`` the first thing is that is not admitted."""
    if isinstance(value, dict):
        members = ((f".{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        members = ((f"[{index}]", item) for index, item in enumerate(value))
    else:
        return ""
    for name, item in members:
        try:
            _check(item)
        except Invalid:
            return name + _place(item)
    return ""


def _canonical_plain(plain: Any) -> bytes:
    if check_plain(plain):
        try:
            return _encode(plain)
        except UnicodeEncodeError as error:
            raise Invalid("cannot canonicalise: a string holds a lone surrogate") from error
    return _sorted_by_utf16(plain).encode()


def digest(data: bytes) -> str:
    """SHA-256 of ``data`` as it is written everywhere: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def canonical_digest(value: Any) -> str:
    """The digest of the canonical bytes of ``value``."""
    return digest(canonical(value))


def decode_strict(data: bytes, *, fractions: bool = False) -> Any:
    """Plain data from JSON bytes, refusing what a canonical form could not carry.

    Duplicate keys, NaN, infinities, fractions and lone surrogates are :class:`Invalid`; so is
    anything that is not one complete JSON text in UTF-8. With ``fractions`` these are taken, as the
    nearest double: for what others write, of which no canonical form is made.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            raise Invalid("cannot read JSON: an object repeats a key")
        return result

    def refuse(text: str) -> Any:
        raise Invalid(
            f"cannot read JSON: {text} is not an integer; write decimals as strings",
            hint=f'such as "{text[:40]}": a number with a point is not the same everywhere',
        )

    def nearest(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse(text)

    def whole(text: str) -> int:
        if len(text) > len(str(-INTEGER_MAX)):
            shown = text if len(text) <= 40 else f"{text[:40]}…"
            raise Invalid(f"cannot read JSON: the integer {shown} is beyond 2^53-1")
        return int(text)

    try:
        plain = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_float=nearest if fractions else refuse,
            parse_constant=refuse,
            parse_int=whole,
        )
        if fractions:
            json.dumps(plain, ensure_ascii=False).encode()
        else:
            check_plain(plain)
    except Invalid:
        raise
    except (ValueError, RecursionError) as error:
        raise Invalid(f"cannot read JSON: {error}") from error
    return plain


def _check(value: Any, depth: int = 0) -> bool:
    """Refuse what is not admitted; tell whether code-point order is enough for the keys.

    UTF-16 order (RFC 8785 §3.2.3) differs from code-point order only when a key has a character
    outside the basic multilingual plane.
    """
    if depth > 64:
        raise Invalid("cannot canonicalise: nested deeper than 64 levels")
    kind = type(value)
    if kind is str and value.isascii():  # most of what there is
        return True
    if kind is dict:
        return _check_object(value, depth)
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise Invalid("cannot canonicalise: a string holds a lone surrogate")
        return True
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        if not -INTEGER_MAX <= value <= INTEGER_MAX:
            shown = str(value) if value.bit_length() < 128 else f"of {value.bit_length()} bits"
            raise Invalid(f"cannot canonicalise: the integer {shown} is beyond 2^53-1")
        return True
    if isinstance(value, dict):
        return _check_object(value, depth)
    if isinstance(value, (list, tuple)):
        simple = True
        for item in value:
            simple &= _check(item, depth + 1)
        return simple
    if isinstance(value, float):
        raise Invalid(
            f"cannot canonicalise: {value!r} is no integer",
            hint=f'write decimals as strings, such as "{value!r}"',
        )
    raise Invalid(f"cannot canonicalise: {type(value).__name__} has no canonical form")


def _check_object(value: dict[Any, Any], depth: int) -> bool:
    if depth >= 64 and value:
        raise Invalid("cannot canonicalise: nested deeper than 64 levels")
    simple = True
    for key, item in value.items():
        if not isinstance(key, str):
            raise Invalid("cannot canonicalise: an object key is not text")
        if not key.isascii():
            _check(key)
            simple &= all(ord(c) <= 0xFFFF for c in key)
        if not (type(item) is str and item.isascii()):
            simple &= _check(item, depth + 1)
    return simple


def _sorted_by_utf16(value: Any) -> str:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        members = (f"{_encode(key).decode()}:{_sorted_by_utf16(value[key])}" for key in keys)
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_sorted_by_utf16(item) for item in value) + "]"
    return _encode(value).decode()
