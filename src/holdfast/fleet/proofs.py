"""Proof that whoever shows a worker's credential holds the key it registered.

Where the door asks for client certificates, the certificate binds. Where it does not, a credential
alone would be good for whoever reads it: in a proxy's log, in a copy of a disk, on a wire without
TLS. So each request of a worker carries one line that its key signed, over what is asked and the
credential it is asked with, at the door's own time, numbered. None counts twice.

``Holdfast-Proof: v1.<session>.<number>.<milliseconds>.<signature>``: ``session`` is 16 random bytes
that the process of the worker drew, ``number`` counts from 1 in it.

Making a proof takes what signs and nothing more: a drone is the base install.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime

from holdfast.kernel.clock import Clock
from holdfast.kernel.errors import Unauthenticated
from holdfast.kernel.http.client import PROOF_REPLAYED, PROOF_STALE
from holdfast.kernel.signing import SigningKey

HEADER = "Holdfast-Proof"
WINDOW_SECONDS = 60.0
"""How far the time of a proof may be behind the door's."""
AHEAD_SECONDS = 3.0
"""How far it may be ahead. A prover takes the door's time, a second more at most, and lets it be
two seconds off; what is dated farther ahead could count again once it is forgotten."""
SESSIONS_MAX = 20_000
"""How many processes of workers a door keeps the numbers of."""
BEHIND_MAX = 1024
"""How far a number may be behind the highest seen: requests side by side overtake each other."""

_PROOF = re.compile(
    r"v1\.([A-Za-z0-9_-]{22})\.([1-9][0-9]{0,14})\.([1-9][0-9]{9,14})\.([A-Za-z0-9_-]{86})"
)
Told = tuple[str, int, int, bytes]


def signed_text(
    method: str, target: str, credential: str, session: str, number: int, moment: int
) -> bytes:
    """The bytes that are signed. They end in a line break, as no other text does that such a key
    signs."""
    shown = hashlib.sha256(credential.encode()).hexdigest()
    lines = ("holdfast-worker-proof/v1", method, target, shown, session, str(number), str(moment))
    return ("\n".join(lines) + "\n").encode()


class Prover:
    """Proves with ``key`` that it is we who show ``credential``; for one process.

    ``moment`` tells the time in seconds since 1970. A door whose clock differs tells its own with
    every answer.
    """

    header = HEADER

    def __init__(
        self,
        key: SigningKey,
        credential: str,
        *,
        moment: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        ahead: float = 0.0,
    ) -> None:
        self._key = key
        self._credential = credential
        self._moment = moment
        self._session = urlsafe_b64encode(random(16)).rstrip(b"=").decode()
        self._number = 0
        self.ahead = ahead
        """How many seconds the door's clock is ahead of ours."""

    def __call__(self, method: str, target: str) -> str:
        """The proof for one request; ``target`` is its path with its query as sent."""
        self._number += 1
        moment = int((self._moment() + self.ahead) * 1000)
        signature = self._key.sign_bytes(
            signed_text(method, target, self._credential, self._session, self._number, moment)
        )
        text = urlsafe_b64encode(signature).rstrip(b"=").decode()
        return f"v1.{self._session}.{self._number}.{moment}.{text}"

    def told(self, date: str) -> None:
        """Take the door's time from the ``Date`` of an answer; what is none is passed over."""
        try:
            found = parsedate_to_datetime(date)
        except ValueError:
            return
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        # The header leaves out fractions. Rather a second ahead than behind: a door takes nothing
        # from before it was started.
        ahead = found.timestamp() + 1.0 - self._moment()
        if abs(ahead - self.ahead) > 2.0:
            self.ahead = ahead


class Proofs:
    """What a door has seen of proofs: the highest number of each session, and which of those
    before it. Bounded; what is forgotten is refused by its time instead.

    So a proof counts once at each door. One that is dated ahead of the door may count again if it
    is forgotten before its time has come: within :data:`AHEAD_SECONDS`, by a start of the door or
    by as many newer sessions as it keeps.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._after = clock.now().timestamp()
        """No new session counts from before this: what was seen then is not known any more."""
        self._seen: OrderedDict[tuple[str, str], tuple[int, int, float]] = OrderedDict()

    def check(self, proof: str, method: str, target: str, credential: str, key: str) -> None:
        """Return if ``proof`` shows, for the first time, that this request comes from whoever
        holds ``key`` (hexadecimal, public half).

        :class:`Unauthenticated`: ``proof-missing``, ``proof-refused``, ``proof-stale`` (its time is
        not the door's), ``proof-replayed``. The signature is looked at first, so that nobody
        without the key leaves a trace here.
        """
        session, number, moment, signature = _read(proof)
        text = signed_text(method, target, credential, session, number, moment)
        if not _verifies(key, signature, text):
            raise _refused("it is not signed by the worker's key, for this request")
        self._once((key, session), number, moment / 1000)

    def _once(self, session: tuple[str, str], number: int, moment: float) -> None:
        now = self._clock.now().timestamp()
        known = self._seen.get(session)
        of_now = now - WINDOW_SECONDS <= moment <= now + AHEAD_SECONDS
        if not of_now or (known is None and moment <= self._after):
            raise _refused("its time is not that of the door", PROOF_STALE)
        highest, before, latest = known or (0, 0, 0.0)
        ahead = number - highest
        if ahead > 0:
            # A bit for each number up to the highest: 0 is the highest itself.
            before = ((before << min(ahead, BEHIND_MAX)) | 1) & ((1 << BEHIND_MAX) - 1)
            highest = number
        elif -ahead >= BEHIND_MAX or before >> -ahead & 1:
            raise _refused("it was used", PROOF_REPLAYED)
        else:
            before |= 1 << -ahead
        self._seen[session] = (highest, before, max(latest, moment))
        self._seen.move_to_end(session)
        while len(self._seen) > SESSIONS_MAX:
            _, (_, _, last) = self._seen.popitem(last=False)
            self._after = max(self._after, min(last, now))


def _read(proof: str) -> Told:
    if not proof:
        raise Unauthenticated(
            "cannot accept the credential: its worker signs for each request, and this one is "
            "not signed",
            code="proof-missing",
            hint="the credential is of no use without the key it was registered with",
        )
    match = _PROOF.fullmatch(proof)
    if match is None:
        raise _refused("it is none")
    signature = urlsafe_b64decode(f"{match[4]}==")
    return match[1], int(match[2]), int(match[3]), signature


def _verifies(key: str, signature: bytes, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _refused(reason: str, code: str = "proof-refused") -> Unauthenticated:
    return Unauthenticated(f"cannot accept the worker's proof: {reason}", code=code)
