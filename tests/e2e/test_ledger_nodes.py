"""Three served ledgers on one PostgreSQL (guide 3's cluster): one appends and signs, any other
takes over when it is killed, and the log never forks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdfast.kernel.ids import uuid7
from holdfast.ledger import notes, tree
from tests.support.postgres import PostgresServer
from tests.support.program import Program, start, wait_until

pytestmark = pytest.mark.timeout(1200)

NODES = ("0", "1", "2")
KILLS = 2


class Cluster:
    """The nodes, what they have acknowledged, and every checkpoint that any of them gave."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.running: dict[str, Program] = {}
        self.acknowledged: dict[str, int] = {}
        self.notes: set[str] = set()
        self.sent = 0

    def start(self, node: str) -> None:
        first = self.folder / NODES[0]
        environment = {
            "VDB_BIND_ADDR": "127.0.0.1:0",
            "VDB_REPLICATION_MODE": "cluster",
            "VDB_REPLICA_ID": node,
            "VDB_LOG_LEVEL": "error",
            "HOLDFAST_DATABASE_URL": self.url,
            # Whoever may take over signs with the same key and opens the same payloads.
            "HOLDFAST_KEYS_DIR": str(first / "keys"),
            "HOLDFAST_SECRETS_DIR": str(first / "secrets"),
        }
        self.running[node] = start(
            ["serve", "ledger"], self.folder / node, environment=environment, ready="/health"
        )

    def kill(self, node: str) -> None:
        self.running.pop(node).kill()

    def append(self, node: str) -> bool:
        """Whether that node took an event; the refusal of one that may not is a clear one."""
        self.sent += 1
        id_ = uuid7(1_793_000_000_000 + self.sent, self.sent.to_bytes(10, "big"))
        event = {"id": id_, "stream": "nodes/all", "type": "n.sent", "payload": {"node": node}}
        answer = self.running[node].client.post("/v1/ledger/events", json={"events": [event]})
        if answer.status_code == 200:
            self.acknowledged[id_] = answer.json()["events"][0]["position"]
            return True
        assert (answer.status_code, answer.json()["code"]) == (503, "not-sequencer"), answer.text
        assert int(answer.headers["retry-after"]) >= 1
        return False

    def takers(self) -> list[str]:
        """The nodes that take an event, all asked at once."""
        nodes = sorted(self.running)
        with ThreadPoolExecutor(len(nodes)) as pool:
            taken = pool.map(self.append, nodes)
        return [node for node, took in zip(nodes, taken, strict=True) if took]

    def sequencer(self) -> str:
        """The one node that takes events, once there is one."""
        found: list[str] = wait_until(self.takers, what="a node to take events")
        assert len(found) == 1, f"{found} all take events"
        for program in self.running.values():
            self.notes.add(program.client.get("/v1/ledger/checkpoint").text)
        return found[0]


@contextmanager
def cluster(folder: Path, url: str) -> Iterator[Cluster]:
    made = Cluster(folder, url)
    with ExitStack() as stack:
        stack.callback(lambda: [made.kill(node) for node in list(made.running)])
        for node in NODES:
            made.start(node)
        yield made


def view_number(program: Program) -> float:
    text = program.client.get("/metrics").text
    found = re.search(r"^vdb_replication_view_number (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def entries(program: Program) -> list[dict[str, Any]]:
    return list(program.items("/v1/ledger/entries", limit=1000))


def test_one_of_three_nodes_sequences_and_another_takes_over_when_it_is_killed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    postgres.execute("CREATE DATABASE ledger_nodes")
    with cluster(tmp_path, postgres.dsn("ledger_nodes")) as nodes:
        leaders, views = [], []
        for _ in range(KILLS):
            leader = nodes.sequencer()
            assert {nodes.sequencer() for _ in range(10)} == {leader}, "it stays who it is"
            leaders.append(leader)
            views.append(view_number(nodes.running[leader]))
            nodes.kill(leader)
            after = nodes.sequencer()
            assert after != leader
            nodes.start(leader)  # it comes back as one who reads
            assert nodes.sequencer() == after
        last = nodes.sequencer()
        views.append(view_number(nodes.running[last]))
        assert views == sorted(set(views)), "a fence for every change of hands"

        # Every node reads the same log, and it is whole, sound and once.
        told = [entries(program) for program in nodes.running.values()]
        assert told[0] == told[1] == told[2]
        assert [each["position"] for each in told[0]] == list(range(len(told[0])))
        places = {each["id"]: each["position"] for each in told[0]}
        assert len(places) == len(told[0])
        assert {id_: places.get(id_) for id_ in nodes.acknowledged} == nodes.acknowledged
        for program in nodes.running.values():
            lines = program.client.get("/v1/ledger/verify", timeout=60).text.splitlines()
            assert '"sound":true' in lines[-1], lines[-1]
        check_one_history(nodes, nodes.running[last])
        print(
            f"{len(told[0])} entries, {len(nodes.notes)} checkpoints, led by {leaders} and {last}"
        )


def check_one_history(nodes: Cluster, program: Program) -> None:
    """Every checkpoint that was ever given is a prefix of the log, by a proof, under one key."""
    trust = program.get("/v1/ledger/trust")
    assert len(trust["origins"]) == 1
    keys = [notes.VerifierKey.parse(each["key"]) for each in trust["keys"]]
    assert len(keys) == 1
    said = [
        notes.parse_checkpoint(notes.open_note(note, keys)[0].text) for note in sorted(nodes.notes)
    ]
    newest = max(said, key=lambda each: each.size)
    for each in said:
        proof = program.get("/v1/ledger/proofs/consistency", first=each.size, second=newest.size)
        path = [bytes.fromhex(part) for part in proof["path"]]
        tree.check_consistency(each.size, newest.size, each.root, newest.root, path)
