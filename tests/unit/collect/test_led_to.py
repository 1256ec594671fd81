"""What is kept of the address that a redirect led to."""

from __future__ import annotations

import pytest

from holdfast.collect.requests import led_to

ASKED = "https://data.example.org/latest?format=csv&year=2020"


@pytest.mark.parametrize(
    "secret",
    [
        "?hdnea=exp=1~acl=/*~hmac=SECRET",
        "?__gda__=SECRET",
        "?md5=SECRET&st=SECRET",
        "?hmac=SECRET",
        "?jwt=SECRET",
        "?code=SECRET&ticket=SECRET&session=SECRET&sid=SECRET",
        "?Policy=SECRET",
        "?format=SECRET",
        "?SECRET",
        ";jsessionid=SECRET",
        ";jsessionid=SECRET/more",
        "?a=1;sig=SECRET",
        "?next=https%3A%2F%2Fx.org%2F%3Ftoken%3DSECRET",
        "#SECRET",
        "/SECRETSECRETSECRETSECRETSECRETSECRET/f.csv",
    ],
)
def test_nothing_that_lets_somebody_in_is_told(secret: str) -> None:
    for origin in ("https://data.example.org", "https://me:SECRET@store.example.net:8443"):
        found = led_to(ASKED, f"{origin}/v7/rain.csv{secret}")
        assert "SECRET" not in found
        assert found.startswith(f"{origin.replace('me:SECRET@', '')}/")


def test_what_was_asked_for_and_the_place_are_told() -> None:
    assert led_to(ASKED, ASKED) == ""
    found = led_to(ASKED, "https://data.example.org/v7/rain.csv?year=2020&format=xml&n=1&year=9")
    assert found == "https://data.example.org/v7/rain.csv?year=2020&format=***&n=***&year=***"
    assert led_to(ASKED, "https://store.example.net/a/b/rain.csv?sig=1") == (
        "https://store.example.net/***/rain.csv?sig=***"
    )
    assert led_to(ASKED, "https://store.example.net/rain.csv") == (
        "https://store.example.net/rain.csv"
    )
    assert led_to(ASKED, "http://[") == ""
    assert len(led_to(ASKED, "https://data.example.org/" + "a/" * 4000)) <= 2048
