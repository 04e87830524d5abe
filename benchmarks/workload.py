"""The requests a benchmark sends: purchases and reads of members, a few of them popular, and looks at the lag.

Everything random comes from one seed and is drawn before the first request; member keys are fixed, so that a second
benchmark on the same data finds the same members.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import orjson

from benchmarks.deployment import Deployment, DeploymentError
from benchmarks.load import Samples
from benchmarks.replay import visible_after
from benchmarks.wire import Answer, Client, WireError

ZIPF_EXPONENT: Final = 0.99  # YCSB's default skew
ENROLMENTS_AT_ONCE: Final = 32
AWAY_SHARE: Final = 0.15  # the Complete Journey's households shop 17 % away from home when stores spread over 3 regions
PROBE_SHARE: Final = 0.05
PROBE_TIMEOUT_S: Final = 5.0
QUERY_MIX: Final = {"account": 70, "member": 15, "activity": 15}
TOKEN_SHARE: Final = 0.2
ETAG_SHARE: Final = 0.2
_CURRENCY: Final = "EUR"
_PRODUCTS: Final = (
    ("milk", "dairy", 129),
    ("bread", "bakery", 249),
    ("coffee", "grocery", 699),
    ("apples", "fruit", 318),
)


@dataclass(slots=True)
class BenchMember:
    """A member and what a client of his knows."""

    member_id: str
    region: str
    token: str | None = None
    etag: str | None = None


@dataclass(slots=True)
class Workload:
    """Sends one request after another; `command` and `query` are what load.Flow calls."""

    deployment: Deployment
    members: Sequence[BenchMember]
    stores: dict[str, list[str]]
    seed: int
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    visible: Samples = field(default_factory=Samples)
    _probes: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _receipts: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _random: random.Random = field(init=False)
    _weights: list[float] = field(init=False)

    def __post_init__(self) -> None:
        """Draw from the seed."""
        self._random = random.Random(self.seed)
        self._weights = list(itertools.accumulate((rank + 1) ** -ZIPF_EXPONENT for rank in range(len(self.members))))

    def choose(self, count: int) -> list[int]:
        """Member numbers, popular ones often (Zipf)."""
        return self._random.choices(range(len(self.members)), cum_weights=self._weights, k=count)

    def kinds(self, count: int) -> list[str]:
        """Kinds of query in the usual mix."""
        return self._random.choices(list(QUERY_MIX), weights=list(QUERY_MIX.values()), k=count)

    def region_for(self, member: BenchMember) -> str:
        """Where the request arrives: mostly at home."""
        if self._random.random() < AWAY_SHARE:
            return self._random.choice(list(self.deployment.regions))
        return member.region

    async def command(self, number: int, *, region: str | None = None, probe: bool = True) -> str:
        """Post a purchase of a member, at home mostly or in the region given."""
        member = self.members[number]
        region = region or self.region_for(member)
        receipt = next(self._receipts)
        request = self._purchase(self.deployment.regions[region].command, member, region, receipt)
        answer, code = await _exchange(self.deployment.regions[region].command, request)
        if answer is None or code != "ok":
            return code
        member.token = answer.header("Consistency-Token")
        if probe and self._random.random() < PROBE_SHARE:
            task = asyncio.create_task(self._probe(member, orjson.loads(answer.body)["account"]["version"]))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)
        return code

    async def query(self, number: int, kind: str, *, region: str | None = None) -> str:
        """Read a member's account, profile or activity; some with a token, some with the ETag they hold."""
        member = self.members[number]
        client = self.deployment.regions[region or self.region_for(member)].query
        chance = self._random.random()
        headers: dict[str, str] = {}
        if chance < TOKEN_SHARE and member.token is not None:
            headers["Consistency-Token"] = member.token
        elif chance > 1 - ETAG_SHARE and member.etag is not None and kind == "account":
            headers["If-None-Match"] = member.etag
        path = f"/v1/members/{member.member_id}" + ("" if kind == "member" else f"/{kind}")
        answer, code = await _exchange(client, client.request("GET", path, headers))
        if answer is not None and kind == "account":
            member.etag = answer.header("ETag") or member.etag
        return code

    async def settle(self) -> Samples:
        """Wait for the looks under way and hand over what was measured of the lag since the last time."""
        await asyncio.gather(*self._probes)
        measured, self.visible = self.visible, Samples()
        return measured

    def _purchase(self, client: Client, member: BenchMember, region: str, receipt: int) -> bytes:
        sku, category, amount = self._random.choice(_PRODUCTS)
        body = {
            "member": {"member_id": member.member_id},
            "store": self._random.choice(self.stores[region]),
            "till": f"bench-{self.run_id}",
            "receipt": str(receipt),
            "occurred_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "currency": _CURRENCY,
            "lines": [{"sku": sku, "quantity": 1, "amount": amount, "category": category}],
        }
        headers = {"Idempotency-Key": f"bench-{self.run_id}-{receipt}"}
        return client.request("POST", "/v1/purchases", headers, orjson.dumps(body))

    async def _probe(self, member: BenchMember, version: int) -> None:
        query = self.deployment.regions[member.region].query
        now_ns = time.monotonic_ns()
        lag_s = await visible_after(query, member.member_id, version, timeout_s=PROBE_TIMEOUT_S)
        code = "ok" if lag_s is not None else "never_visible"
        self.visible.record(
            scheduled_ns=now_ns, lateness_ns=0, latency_ns=int((lag_s or 0.0) * 1_000_000_000), code=code
        )


async def prepare(deployment: Deployment, *, member_count: int, seed: int) -> Workload:
    """Enrol the members (those of an earlier benchmark are found again) and wait until all can be read."""
    stores: dict[str, list[str]] = {region: [] for region in deployment.regions}
    for store, region in (await deployment.stores()).items():
        stores[region].append(store)
    if empty := [region for region, names in stores.items() if not names]:
        raise DeploymentError(f"the program has no store in {', '.join(empty)}: nothing can be bought there")
    regions = itertools.cycle(deployment.regions)
    places = asyncio.Semaphore(ENROLMENTS_AT_ONCE)
    members = await asyncio.gather(
        *(
            _enrol(deployment, places, region, number)
            for region, number in zip(regions, range(member_count), strict=False)
        )
    )
    return Workload(deployment, members, stores, seed)


async def _enrol(deployment: Deployment, places: asyncio.Semaphore, region: str, number: int) -> BenchMember:
    async with places:
        client = deployment.regions[region].command
        answer = await client.post("/v1/members", {"name": f"Bench {number}"}, key=f"bench-{region}-{number}")
        if answer.code != "ok":
            raise DeploymentError(f"{client.base_url} enrols nobody: {answer.code}")
        member_id = str(orjson.loads(answer.body)["member_id"])
        lag_s = await visible_after(deployment.regions[region].query, member_id, 1, timeout_s=PROBE_TIMEOUT_S)
        if lag_s is None:
            raise DeploymentError(f"a new member of {region} did not become visible within {PROBE_TIMEOUT_S:g} s")
        return BenchMember(member_id, region)


async def _exchange(client: Client, request: bytes) -> tuple[Answer | None, str]:
    try:
        answer = await client.send(request)
    except WireError as error:
        return None, error.kind
    return answer, answer.code
