"""What is said of a request says none of its secrets, however they are spelled."""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus

import pytest

from holdfast.kernel.outbound import OutboundRequest, scrub

KEY = 'Zm9v/YmFy+Q== &"ü€😀'


def asked(*secrets: str, **headers: str) -> OutboundRequest:
    return OutboundRequest(url="https://example.org/", secrets=secrets, secret_headers=headers)


@pytest.mark.parametrize(
    "spelled",
    [
        KEY,
        quote(KEY),
        quote(KEY, safe=""),
        quote_plus(KEY),
        re.sub("%..", lambda found: found[0].lower(), quote(KEY, safe="")),
        html.escape(KEY),
        html.escape(KEY, quote=False),
        "".join(f"&#{ord(char)};" for char in KEY),
        "".join(f"&#x{ord(char):X};" for char in KEY),
        "".join(f"&#0{ord(char)};" for char in KEY),
        KEY.replace("&", "&AMP;").replace("/", "&sol;").replace("+", "&plus;"),
        json.dumps(KEY)[1:-1],
        json.dumps(KEY, ensure_ascii=False)[1:-1].replace("/", "\\/"),
        json.dumps(KEY)[1:-1].replace("&", "\\u0026").replace("+", "\\u002B"),
        quote(KEY[:9], safe="") + html.escape(KEY[9:]),
    ],
)
def test_a_secret_is_taken_out_however_it_is_spelled(spelled: str) -> None:
    said = f"before {spelled} after"
    assert scrub(said, asked(KEY)) == "before *** after"


def test_of_a_header_neither_credential_user_nor_password_is_left() -> None:
    basic = "Basic " + base64.b64encode(b"user:pa55word!").decode()
    for said in ("user:pa55word!", "pa55word!", "pa55word%21", basic, basic.partition(" ")[2]):
        assert scrub(f"no {said} here", asked(Authorization=basic)) == "no *** here"
    assert scrub("no abcd here", asked(Authorization="Bearer abcd")) == "no *** here"
    assert scrub("no b@ dcredential", asked(Authorization="Basic b@ d")) == "no b@ dcredential"


def test_what_is_too_short_to_be_a_secret_stays() -> None:
    assert (
        scrub("a page of pages", asked("pa", Authorization="Basic " + "YTpi")) == "a page of pages"
    )


def test_a_longer_one_goes_whole() -> None:
    assert scrub("key=abcdefgh", asked("abcd", "abcdefgh")) == "key=***"


def test_two_that_overlap_go_together_and_what_is_spelled_as_nothing_stays() -> None:
    assert scrub("xabcdefx", asked("abcd", "cdef")) == "x***x"
    assert scrub("abcdabcd", asked("abcd")) == "******"
    odd = "100% of &nothing; \\u12 %zz &#x110000; %ff"
    assert scrub(odd, asked("secret")) == odd
    assert scrub("is %2f%ffa b&amp;c", asked("a b&c")) == "is %2f%ff***"
    assert scrub("a%2Fb%2fc", asked("a%2Fb")) == "***%2fc", "one that is spelled so itself"
