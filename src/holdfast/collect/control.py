"""The drone's view of the system over HTTP: one address, one credential."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from holdfast.collect.batches import Filled
from holdfast.collect.ports import ControlPlane, Fleet, Opening, Profiles, RunLog
from holdfast.fleet.client import FleetClient
from holdfast.fleet.model import (
    Beat,
    BeatAnswer,
    Claim,
    ClaimedTask,
    Complete,
    Grant,
    PaceGiven,
    PaceWanted,
    PlacesHeld,
    PlacesWanted,
    RequestsGranted,
    RequestsWanted,
    Task,
    WorkerCredential,
    WorkerRegister,
)
from holdfast.fleet.proofs import Prover
from holdfast.kernel.errors import Invalid, Unavailable
from holdfast.kernel.files import opened
from holdfast.kernel.http.client import ApiClient
from holdfast.kernel.ids import DEFAULT_TENANT
from holdfast.kernel.principal import WORKER_PERMISSIONS, Principal, PrincipalKind
from holdfast.kernel.signing import SigningKey
from holdfast.kernel.tls import ClientTls
from holdfast.records.client import RecordsClient
from holdfast.records.model import (
    BatchReceipt,
    RawResponse,
    RemapSource,
    Run,
    RunFinish,
    RunOpen,
    RunPlan,
)
from holdfast.records.signed import Signers
from holdfast.records.wire import GRANT_HEADER
from holdfast.registry.client import RegistryClient
from holdfast.registry.model import Profile

_PIECE_BYTES = 64 * 1024
TIMEOUT_SECONDS = 60.0

# The clients take a principal so that callers can hold a service or a client; over HTTP it is the
# credential that says who asks, and this is never sent.
_SELF = Principal(DEFAULT_TENANT, "drone", PrincipalKind.WORKER, WORKER_PERMISSIONS)


class HttpControlPlane:
    """The services behind one gateway, with the credential that was last given to :meth:`use`."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self._proving: Prover | None = None
        self.signers = Signers()
        self.fleet: Fleet = _HttpFleet(self)
        self.profiles: Profiles = _HttpProfiles(self)

    @property
    def api(self) -> ApiClient:
        """The connection under the newest credential."""
        return self._api

    def use(self, credential: str, key: SigningKey) -> None:
        """Present ``credential`` from now on, and prove with ``key`` that it is ours; sign batches
        with ``key``, too, where a grant names it."""
        self.signers.add(key)
        self._proving = Prover(key, credential, ahead=self._proving.ahead if self._proving else 0.0)
        self._api = self._api.authorised(credential, self._proving)

    def joining(self, join_token: str, key: SigningKey) -> ApiClient:
        """The connection without a credential, proving that ``key`` is ours."""
        self._proving = Prover(key, join_token, ahead=self._proving.ahead if self._proving else 0.0)
        return self._api.authorised(None, self._proving)

    def run_log(self, run: str, fence: int, grant: Callable[[], str]) -> RunLog:
        """The aggregator for one attempt."""
        return _HttpRunLog(self, run, fence, grant)


class _HttpFleet:
    def __init__(self, control: HttpControlPlane) -> None:
        self._control = control

    async def register(
        self, request: WorkerRegister, join_token: str, key: SigningKey
    ) -> WorkerCredential:
        api = self._control.joining(join_token, key)
        return await FleetClient(api).register(join_token, request)

    async def claim(self, request: Claim) -> list[ClaimedTask]:
        return await FleetClient(self._control.api).claim(_SELF, request)

    async def beat(self, request: Beat) -> BeatAnswer:
        return await FleetClient(self._control.api).beat(_SELF, request)

    async def admit(self, task: str, request: RequestsWanted) -> RequestsGranted:
        return await FleetClient(self._control.api).admit(_SELF, task, request)

    async def places(self, task: str, request: PlacesWanted) -> PlacesHeld:
        return await FleetClient(self._control.api).places(_SELF, task, request)

    async def pace(self, task: str, request: PaceWanted) -> PaceGiven:
        return await FleetClient(self._control.api).pace(_SELF, task, request)

    async def complete(self, task: str, request: Complete) -> Task:
        return await FleetClient(self._control.api).complete(_SELF, task, request)


class _HttpProfiles:
    def __init__(self, control: HttpControlPlane) -> None:
        self._control = control

    async def version(self, name: str, digest: str) -> Profile:
        return (await RegistryClient(self._control.api).show(_SELF, name, digest)).profile


class _HttpRunLog:
    def __init__(
        self, control: HttpControlPlane, run: str, fence: int, grant: Callable[[], str]
    ) -> None:
        self._control = control
        self._run = run
        self._fence = fence
        self._grant = grant

    @property
    def _records(self) -> RecordsClient:
        return RecordsClient(self._control.api)

    async def open(self, how: Opening) -> Run:
        request = RunOpen(
            run=self._run,
            fence=self._fence,
            kind=how.kind,
            range_start=how.range_start,
            range_end=how.range_end,
            rehearsal=how.rehearsal,
        )
        return await self._records.open(_SELF, self._grant(), request)

    async def plan(self) -> RunPlan:
        return await self._records.plan(_SELF, self._grant(), self._run)

    async def store_response(self, response: RawResponse, body: Path) -> None:
        await self._records.put_response(_SELF, self._grant(), self._run, response, _pieces(body))

    async def kept(self, after: int) -> list[RawResponse]:
        return await self._records.kept(_SELF, self._grant(), self._run, after=after)

    async def copy_known(self, digest: str, target: Path) -> None:
        chunks = self._records.known_chunks(_SELF, self._grant(), self._run, digest)
        await write_checked(chunks, target, digest)

    async def store_known(self, response: RawResponse) -> None:
        await self._records.put_known(_SELF, self._grant(), self._run, response)

    async def post(
        self, sequence: int, filled: Filled, responses: Mapping[int, str]
    ) -> BatchReceipt:
        # As RecordsClient.post_batch, but encoded beside the loop and sent in pieces. Signed each
        # time it is sent, as the newest grant wants it.
        grant = self._grant()
        signed = self._control.signers.sign(
            grant_claims(grant), sequence, filled.records, filled.root, responses, filled.seed
        )
        return await self._control.api.request(
            "POST",
            "/v1/batches",
            content=_each(filled.encoded(self._run, self._fence, sequence, signed)),
            headers={GRANT_HEADER: grant},
            type=BatchReceipt,
        )

    async def finish(self, request: RunFinish) -> Run:
        return await self._records.finish(_SELF, self._grant(), request)

    async def remap_sources(self) -> list[RemapSource]:
        return await self._records.remap_sources(_SELF, self._grant(), self._run)

    async def remap_responses(self, source: str) -> list[RawResponse]:
        return await self._records.remap_responses(_SELF, self._grant(), self._run, source)

    def remap_body(self, source: str, sequence: int) -> AsyncIterator[bytes]:
        return self._records.remap_chunks(_SELF, self._grant(), self._run, source, sequence)


def grant_claims(grant: str) -> Grant:
    """What a grant says. The drone does not check the signature: it got it from the coordinator it
    trusts, and the aggregator checks it."""
    try:
        payload = grant.split(".")[1]
        data = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
        return msgspec.json.decode(data, type=Grant)
    except (IndexError, ValueError, msgspec.DecodeError) as error:
        raise Invalid("cannot read the grant: it is not one") from error


async def write_checked(chunks: AsyncIterator[bytes], target: Path, digest: str) -> None:
    """Write ``chunks`` to a file, whose bytes have that digest when this returns.

    Not flushed: the bytes are safe where they came from. Raises ``Unavailable`` where they end
    early or are others: asked for again they may be right. A file may stay then.
    """
    found = hashlib.sha256()
    file = await opened(target, "wb")
    with file:
        async for chunk in chunks:
            found.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    if f"sha256:{found.hexdigest()}" != digest:
        raise Unavailable(f"cannot use the stored bytes {digest}: others came")


async def _each(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """A spooled file, a piece at a time, read beside the loop."""
    file = await opened(path, "rb")
    try:
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            yield piece
    finally:
        file.close()


@asynccontextmanager
async def connect(
    url: str, ca_file: Path | None = None, tls: ClientTls | None = None
) -> AsyncIterator[ControlPlane]:
    """The control plane at ``url``; nothing is sent yet."""
    verify: ssl.SSLContext | bool = True
    if url.startswith("https://"):
        try:
            verify = ssl.create_default_context() if tls is None else tls.context
            if ca_file is not None:
                verify.load_verify_locations(cafile=str(ca_file))
        except (OSError, ssl.SSLError) as error:
            raise Invalid(f"cannot read the certificates in {ca_file}: {error}") from error
    async with ApiClient.connect(url, timeout_seconds=TIMEOUT_SECONDS, verify=verify) as api:
        yield HttpControlPlane(api)
