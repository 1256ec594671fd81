"""Dealing places at a host: never more than there are, and nobody waits for ever."""

from __future__ import annotations

import random

from holdfast.fleet.model import PlacesWanted
from holdfast.fleet.places import Place, again_seconds, deal


def wants(places: int, busy: int = 0, *, turn: bool = False) -> PlacesWanted:
    return PlacesWanted(fence=1, source="h:443", places=places, busy=busy, turn=turn)


def test_what_is_free_is_given_and_no_more() -> None:
    nobody = Place("a", 0, "1")
    assert deal(nobody, [], wants(1), 4) == 1
    assert deal(nobody, [], wants(9), 4) == 4
    assert deal(nobody, [Place("b", 3, "0")], wants(2), 4) == 1
    assert deal(nobody, [Place("b", 4, "0")], wants(2), 4) == 0


def test_what_is_not_wanted_any_more_is_given_back() -> None:
    assert deal(Place("a", 3, "1"), [], wants(1), 4) == 1
    assert deal(Place("a", 3, "1"), [], wants(0), 4) == 0


def test_who_came_first_is_served_first() -> None:
    holder = Place("x", 3, "0")
    first, second = Place("a", 0, "1", waits=True), Place("b", 0, "2", waits=True)
    assert deal(second, [holder, first], wants(1), 4) == 0
    assert deal(first, [holder, second], wants(1), 4) == 1
    assert again_seconds(first, [holder, second]) < again_seconds(second, [holder, first])


def test_who_has_some_gets_no_more_while_another_has_none() -> None:
    waiting = Place("b", 0, "9", waits=True)
    assert deal(Place("a", 1, "0"), [waiting], wants(4, 1), 2) == 1
    assert deal(Place("a", 1, "0"), [waiting], wants(4, 1), 3) == 2


def test_at_the_end_of_a_turn_those_who_wait_go_first() -> None:
    mine, waiting = Place("a", 2, "0"), Place("b", 0, "5", waits=True)
    assert deal(mine, [waiting], wants(2, 1, turn=True), 2) == 1
    assert deal(mine, [waiting], wants(2, 0, turn=True), 1) == 0
    # Nobody waits: it goes on. What is in use is never taken away.
    assert deal(mine, [], wants(2, 1, turn=True), 2) == 2
    assert deal(mine, [waiting], wants(2, 2, turn=True), 2) == 2


def test_no_order_of_asking_deals_more_places_than_there_are_and_everybody_is_served() -> None:
    for seed in range(100):
        chance = random.Random(seed)
        limit, names = chance.randint(1, 5), "abcdef"[: chance.randint(1, 6)]
        held = dict.fromkeys(names, 0)
        since = dict.fromkeys(names, "")
        served: set[str] = set()
        for step in range(3000):
            name = chance.choice(names)
            since[name] = since[name] or f"{step:05}"
            mine = Place(name, held[name], since[name])
            others = [
                Place(n, held[n], since[n], waits=held[n] == 0 and bool(since[n]))
                for n in names
                if n != name
            ]
            busy = chance.randint(0, held[name])
            turn = held[name] > 0 and chance.random() < 0.5
            places = max(busy, chance.randint(0, 3))
            before = held[name]
            held[name] = deal(mine, others, wants(places, busy, turn=turn), limit)
            if held[name] == 0:
                since[name] = "" if places == 0 else (f"{step:05}" if before else since[name])
            assert busy <= held[name] <= max(places, busy)
            assert sum(held.values()) <= limit
            served |= {name} if held[name] else set()
        assert served == set(names), seed
