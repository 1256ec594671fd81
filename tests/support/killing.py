"""Kills programs of a stack at seeded moments: a seeded victim, at a seeded request on the wire."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.program import wait_until
from tests.support.stack import Stack
from tests.support.wire import LATER_SECONDS_MAX, MOMENTS, PHASES, Trap, Wire


@dataclass
class Killer:
    """Each phase and each of ``victims`` comes round before one comes again.

    ``occurrence_max`` says of a phase at which of its requests, at the latest, a victim dies.
    ``hit`` counts kills by phase, ``struck`` by victim (drones together).
    """

    stack: Stack
    line: Wire
    chance: random.Random
    victims: Sequence[str]
    occurrence_max: Callable[[str], int]
    hit: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    _phases: list[str] = field(default_factory=list)
    _deck: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(self.hit.values())

    def killed(self) -> bool:
        """Kill at the next moment; false if nothing was left to do before that came."""
        if not self._phases:
            self._phases = self.chance.sample(sorted(PHASES), len(PHASES))
        if not self._deck:
            self._deck = self.chance.sample(self.victims, len(self.victims))
        phase, victim = self._phases[-1], self._deck[-1]
        trap = Trap(
            phase,
            self.chance.randint(1, self.occurrence_max(phase)),
            self.chance.choice(MOMENTS),
            self.stack.process(victim).kill,
            later_seconds=self.chance.uniform(0, LATER_SECONDS_MAX),
        )
        self.line.arm(trap)
        if not self._sprung(trap):
            return False
        trap.sprung.result()
        self._phases.pop()
        self._deck.pop()
        self.stack.kill(victim)
        self.hit[phase] += 1
        self.struck[victim.partition("-")[0]] += 1
        return True

    def told(self) -> str:
        """What was hit, in words."""
        return (
            f"by phase {dict(sorted(self.hit.items()))}, "
            f"by victim {dict(sorted(self.struck.items()))}"
        )

    def _sprung(self, trap: Trap) -> bool:
        def over() -> bool:
            return _done(trap.sprung, 0.1) or not self._unfinished()

        wait_until(over, what=f"a request to {trap.phase}, or the end of the work")
        self.line.arm(Trap("", 1, "before", lambda: None))
        return _done(trap.sprung, 0.1)

    def _unfinished(self) -> bool:
        try:
            return bool(self.stack.unfinished())
        except (httpx.HTTPError, KeyError, AssertionError):
            return True  # just killed


def _done(future: Future[Any], seconds: float) -> bool:
    try:
        future.exception(timeout=seconds)
    except TimeoutError:
        return False
    return True
