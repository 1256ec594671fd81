"""An address has one reading or is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.kernel.errors import Invalid
from holdfast.kernel.outbound.address import (
    AddressInvalid,
    canonical_host_port,
    join,
    parse_target,
)


@pytest.mark.parametrize(
    ("url", "host", "port", "path"),
    [
        ("http://example.com", "example.com", 80, "/"),
        ("HTTPS://Example.COM/a?b=c#d", "example.com", 443, "/a?b=c"),
        ("https://example.com:8443/a", "example.com", 8443, "/a"),
        ("http://example.com:/a", "example.com", 80, "/a"),
        ("http://example.com./a", "example.com", 80, "/a"),
        ("http://127.0.0.1./a", "127.0.0.1", 80, "/a"),
        ("http://[2001:DB8::0:1]:81/a", "2001:db8::1", 81, "/a"),
        ("http://bücher.example/ä b", "xn--bcher-kva.example", 80, "/%C3%A4%20b"),
        ("http://example.com?a=1", "example.com", 80, "/?a=1"),
        ("http://a_b.example/x%2Fy", "a_b.example", 80, "/x%2Fy"),
        ("http://example.com/a@b?c=d@e", "example.com", 80, "/a@b?c=d@e"),
    ],
)
def test_an_address_is_taken_apart_canonically(url: str, host: str, port: int, path: str) -> None:
    target = parse_target(url)
    assert (target.host, target.port, target.request_path) == (host, port, path)
    assert parse_target(target.url) == target


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "//example.com/",
        "http:/example.com/",
        "http:///path",
        "http://:80/",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com\\.evil.test/",
        "http://example.com/\r\nHost: evil.test",
        "http://example.com/a\nb",
        "http://exam\tple.com/",
        "http://example.com\x00.evil.test/",
        "http://example.com/\x7f",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.1/",
        "http://127.0.1/",
        "http://127.0.0.1.5/",
        "http://127.0.0.256/",
        "http://127.0.0.01/",
        "http://127.0.0.1../",
        "http://1.2.3.4.0x5/",
        "http://evil.0x7f/",
        "http://0/",
        "http://0x/",
        "http://①②⑦.0.0.1:80@evil/",
        "http://①②⑦.1/",
        "http://127。1/",
        "http://%31%32%37.0.0.1/",
        "http://127%2e0%2e0%2e1/",
        "http://[::1%25eth0]/",
        "http://[::1%eth0]/",
        "http://[::1/",
        "http://[127.0.0.1]/",
        "http://[v1.a]/",
        "http://::1/",
        "http://example..com/",
        "http://-a.example/",
        "http://exa mple.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:8O/",
        "http://example.com:-1/",
        "http://example.com:80:80/",
        "http://" + "a" * 64 + ".example/",
        "http://" + "a." * 130 + "example/",
        "http://example.com/" + "a" * 20_000,
        "http://example.com/\ud800",
        "",
    ],
)
def test_an_address_with_a_second_reading_is_refused(url: str) -> None:
    with pytest.raises(AddressInvalid) as refusal:
        parse_target(url)
    assert refusal.value.code == "address-invalid"
    assert isinstance(refusal.value, Invalid)


def test_digits_in_other_scripts_are_folded_before_the_host_is_judged() -> None:
    assert parse_target("http://\uff11\uff12\uff17.0.0.1/").host == "127.0.0.1"


def test_user_information_is_not_echoed() -> None:
    with pytest.raises(AddressInvalid) as refusal:
        parse_target("http://user:hunter2@example.com/")
    assert "hunter2" not in refusal.value.detail


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_after_the_scheme_is_parsed_to_a_fixed_point_or_refused(text: str) -> None:
    try:
        target = parse_target(f"http://{text}")
    except AddressInvalid:
        return
    assert parse_target(target.url) == target
    assert target.url.isascii()
    assert not set(target.url) & set("\r\n\t \\\x00")


@pytest.mark.parametrize(
    ("base", "reference", "joined"),
    [
        ("http://a.test/x/y?z=1", "b", "http://a.test/x/b"),
        ("http://a.test/x/y?z=1", "?p=2", "http://a.test/x/y?p=2"),
        ("http://a.test/x", "//b.test/y", "http://b.test/y"),
        ("http://a.test/x", "https://b.test/y#f", "https://b.test/y"),
        ("http://a.test/x/", "../y", "http://a.test/y"),
        ("http://a.test/x", " /y ", "http://a.test/y"),
    ],
)
def test_references_are_resolved(base: str, reference: str, joined: str) -> None:
    assert join(base, reference) == joined


@pytest.mark.parametrize("reference", ["/a\r\nb", "http://a\tb/", "http://[::1", "\\\\evil"])
def test_a_reference_that_would_be_repaired_in_silence_is_refused(reference: str) -> None:
    with pytest.raises(AddressInvalid):
        parse_target(join("http://a.test/", reference))


def test_allowed_addresses_are_named_exactly() -> None:
    assert canonical_host_port("LocalHost:80") == "localhost:80"
    assert canonical_host_port("[::0001]:8080") == "[::1]:8080"
    for text in ("localhost", "127.1:80", "*:80", "10.0.0.0/8:80", "a@b:80", "localhost:", ":80"):
        with pytest.raises(AddressInvalid):
            canonical_host_port(text)
