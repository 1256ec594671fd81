"""The address guard of a drone that runs, asked through ``/v1`` what became of its runs.

The resolver is a setting: a DNS server of the test answers, and answers differently the second
time. Whatever a name, a redirect or another spelling leads to, a listener on loopback that nobody
allowed is never connected to.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.dns import Zone, served
from tests.support.program import wait_until
from tests.support.stack import Stack, running, sources

pytestmark = pytest.mark.timeout(1200)

UNROUTED = "2000::1"
"""Global unicast by its form, so that the guard lets it pass, and assigned to nobody (RFC 4291)."""

NAMES: dict[str, list[list[str]]] = {
    "open.test": [["127.0.0.1"]],
    "pinned.test": [["127.0.0.1"], ["127.0.0.9"]],
    "rebind.test": [[UNROUTED], ["127.0.0.1"]],
    "rebind-mapped.test": [[UNROUTED], ["::ffff:127.0.0.1"]],
    "rebind-hop.test": [[UNROUTED], ["127.0.0.1"]],
    "private.test": [["10.0.0.1"]],
    "loopback.test": [["127.0.0.1"]],
    "loopback6.test": [["::1"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "nat64.test": [["64:ff9b::7f00:1"]],
    "nat64-local.test": [["64:ff9b:1::7f00:1"]],
    "sixtofour.test": [["2002:7f00:1::"]],
    "teredo.test": [["2001:0:7f00:1::80ff:fffe"]],
    "metadata.test": [["169.254.169.254"]],
    "mixed.test": [[UNROUTED, "127.0.0.1"]],
}
"""What the DNS server answers, in turn."""

LITERALS = {
    "dotted": "127.0.0.1",
    "private-ten": "10.0.0.1",
    "decimal": "2130706433",
    "octal": "0177.0.0.1",
    "hex": "0x7f000001",
    "hex-part": "0x7f.0.0.1",
    "short": "127.1",
    "zero": "0",
    "any": "0.0.0.0",
    "metadata": "169.254.169.254",
    "six": "[::1]",
    "mapped": "[::ffff:127.0.0.1]",
    "mapped-hex": "[::ffff:7f00:1]",
    "nat64": "[64:ff9b::7f00:1]",
    "sixtofour": "[2002:7f00:1::]",
    "user": "open.test@127.0.0.1",
    "fullwidth": "１２７.0.0.1",
}
"""Ways to write an address that a source may not have."""

NUMBERS = ("decimal", "octal", "hex", "hex-part", "short", "zero", "user")
"""Those that have a second reading: they are no addresses at all to Holdfast."""

PLAIN = sorted(name for name in NAMES if name not in ("open.test", "pinned.test"))
HOPS = sorted({*PLAIN, "rebind-hop.test"} - {"rebind.test", "rebind-mapped.test"})
"""The names that a redirect leads to; each name that rebinds is used by one profile."""


@dataclass
class Collected:
    """What came of every profile: the run of each, or why it was not published."""

    stack: Stack
    zone: Zone
    inside: socket.socket
    source: int
    refused: dict[str, str]
    runs: dict[str, Any]

    def failed(self, profile: str) -> Any:
        """The run, which must have failed and kept nothing."""
        run = self.runs[profile]
        assert (run["status"], run["new"], run["publication"]) == ("failed", 0, None), run
        assert list(self.stack.door.items("/v1/records", profile=profile)) == []
        return run


def _profile(name: str, url: str, retries: int = 0) -> str:
    return f"""\
version: 1
name: {name}
publisher: A test
licence: none
source:
  url: "{url}"
  format: {{type: json}}
  robots: "one look-up for one request is what is looked at here"
key: [dimensions.id]
dimensions: {{id: $.id}}
limits: {{retries: {retries}, timeout: 20s}}
"""


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collected]:
    base = tmp_path_factory.mktemp("guard")
    files, profiles = base / "files", base / "profiles"
    files.mkdir()
    profiles.mkdir()
    (files / "good.json").write_text('[{"id": "a"}]')
    zone = Zone(NAMES)
    with socket.socket() as inside, served(zone) as resolver:
        inside.bind(("127.0.0.1", 0))
        inside.listen(64)
        inside.setblocking(False)
        port = inside.getsockname()[1]
        hosts = LITERALS | {name: name for name in HOPS}
        faults = [
            f"redirect@/to-{name}.json,location=http://{host}:{port}/"
            for name, host in hosts.items()
        ]
        with sources(base, files, *faults) as (url, replay):
            replay.write_text("{}")
            source = urlsplit(url).port or 0
            for profile, text in _profiles(source, port).items():
                (profiles / f"{profile}.yaml").write_text(text)
            environment = {
                "HOLDFAST_COLLECT_RESOLVER": f"dns:{resolver}",
                "HOLDFAST_COLLECT_ALLOW": f"open.test:{source},pinned.test:{source}",
            }
            stack = Stack(base / "stack", "up", replay, profiles, drones=1, environment=environment)
            stack.directory.mkdir()
            with running(stack):
                stack.names()
                listed = {p["name"]: p["problem"] for p in stack.door.items("/v1/profiles")}
                stack.collect_all([name for name, problem in listed.items() if not problem])
                stack.settle()
                runs = {run["profile"]: run for run in stack.door.items("/v1/runs", limit=500)}
                refused = {name: problem for name, problem in listed.items() if problem}
                yield Collected(stack, zone, inside, source, refused, runs)


def _profiles(source: int, inside: int) -> dict[str, str]:
    """Profile → its text: of each name and literal, once asked for and once redirected to."""
    addresses = {
        "open": f"http://open.test:{source}/good.json",
        "pinned": f"http://pinned.test:{source}/good.json",
    }
    for name in set(PLAIN) - {"rebind-hop.test"}:
        addresses[f"name-{_short(name)}"] = f"http://{name}:{inside}/"
    for name, host in LITERALS.items():
        addresses[f"literal-{name}"] = f"http://{host}:{inside}/"
        addresses[f"to-{name}"] = f"http://open.test:{source}/to-{name}.json"
    for name in HOPS:
        addresses[f"to-name-{_short(name)}"] = f"http://open.test:{source}/to-{name}.json"
    return {name: _profile(name, url, int("rebind" in name)) for name, url in addresses.items()}


def _short(name: str) -> str:
    return name.removesuffix(".test")


def test_what_is_allowed_by_name_is_collected(collected: Collected) -> None:
    """The resolver is asked at all, and what follows is not refused for another reason."""
    assert collected.runs["open"]["status"] == "succeeded"


def test_the_address_that_was_checked_is_the_one_connected_to(collected: Collected) -> None:
    """Between the check and the connection nobody asks again: a second answer is never heard."""
    assert collected.runs["pinned"]["status"] == "succeeded"
    assert collected.zone.asked["pinned.test", 4] == collected.zone.asked["pinned.test", 6] == 1
    records = collected.stack.door.items("/v1/records", profile="pinned", provenance="true")
    found = {record["provenance"]["address"] for record in records}
    assert found == {f"127.0.0.1:{collected.source}"}


@pytest.mark.parametrize("name", [name for name in PLAIN if "rebind" not in name])
def test_a_name_that_leads_inside_is_refused(collected: Collected, name: str) -> None:
    for profile in (f"name-{_short(name)}", f"to-name-{_short(name)}"):
        run = collected.failed(profile)
        assert run["code"] == "guard-refused"
        assert name in run["reason"]
        # Where the name leads is told to the log only.
        for address in (*NAMES[name][0], "127.0.0.1"):
            assert address not in run["reason"]


@pytest.mark.parametrize("name", ["name-rebind", "name-rebind-mapped", "to-name-rebind-hop"])
def test_a_name_that_rebinds_is_not_followed_home(collected: Collected, name: str) -> None:
    """The first answer passes the guard and nobody is there; the second try hears the other one."""
    assert collected.failed(name)["code"] == "guard-refused"
    host = name.removeprefix("to-").removeprefix("name-") + ".test"
    assert collected.zone.asked[host, 4] == collected.zone.asked[host, 6] == 2


@pytest.mark.parametrize("name", LITERALS)
def test_no_spelling_of_an_address_inside_is_taken(collected: Collected, name: str) -> None:
    code = "address-invalid" if name in NUMBERS else "guard-refused"
    assert collected.failed(f"to-{name}")["code"] == code
    if name == "user":
        assert "credentials" in collected.refused[f"literal-{name}"]
    else:
        assert collected.failed(f"literal-{name}")["code"] == code


def test_nobody_was_there(collected: Collected) -> None:
    """No connection has ever come to the listener, which would have kept it; now there is one."""
    with pytest.raises(BlockingIOError):
        collected.inside.accept()
    with socket.create_connection(collected.inside.getsockname()):
        wait_until(lambda: select.select([collected.inside], [], [], 1)[0], what="a connection")
        collected.inside.accept()[0].close()
