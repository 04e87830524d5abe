"""The requests of a scenario: commands and reads of members, a few of them popular, and looks at the lag.

Everything random comes from one seed; member keys are fixed, so that a second benchmark on the same data finds the same
members. Each answer is shown to the witness, which counts what cannot be right.
"""

import asyncio
import itertools
import random
import secrets
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import orjson

from benchmarks.complete_journey import data_folder
from benchmarks.complete_journey import load as load_journey
from benchmarks.deployment import Deployment, DeploymentError
from benchmarks.history import Purchase
from benchmarks.load import Samples, Shoot
from benchmarks.order import BenchMember, Lines, Order, Till
from benchmarks.replay import version_of, visible_after
from benchmarks.scenario import Traffic
from benchmarks.volley import Shot
from benchmarks.wire import Answer, Client, exchange
from benchmarks.witness import Witness

ENROLMENTS_AT_ONCE: Final = 64
PROBE_SHARE: Final = 0.1
PROBE_TIMEOUT_S: Final = 5.0
ENROLMENT_TIMEOUT_S: Final = 60.0
JOURNEY_BASKETS: Final = 2000
LOOK_AGAIN_S: Final = 20.0
LOOK_AGAIN_PAUSE_S: Final = 0.5
IN_PROGRESS: Final = "in_progress"
OVERLOADED: Final = "overloaded"
OVERLOADED_PAUSE_S: Final = 0.1


@dataclass(slots=True)
class Workload:
    """Sends one request after another; `command` and `query` are what load.Flow calls."""

    deployment: Deployment
    members: list[BenchMember]
    stores: dict[str, list[str]]
    traffic: Traffic
    seed: int
    baskets: Sequence[Lines] = ()
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    visible: Samples = field(default_factory=Samples)
    witness: Witness = field(default_factory=Witness)
    _aside: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _random: random.Random = field(init=False)
    _till: Till = field(init=False)
    _keys: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        """Draw from the seed."""
        self._random = random.Random(self.seed)
        self._till = Till(self.run_id, self._random, self.baskets)

    def choose(self, count: int) -> list[int]:
        """Member numbers, popular ones often (Zipf), the hot one as often as the scenario says."""
        ranks = range(1, len(self.members) + 1)
        weights = list(itertools.accumulate(rank**-self.traffic.zipf for rank in ranks))
        chosen = self._random.choices(range(len(self.members)), cum_weights=weights, k=count)
        hot = self.traffic.hot_member_share
        return [0 if self._random.random() < hot else number for number in chosen] if hot else chosen

    def kinds(self, count: int) -> list[str]:
        """Kinds of query in the scenario's mix."""
        mix = self.traffic.queries
        return self._random.choices(list(mix), weights=list(mix.values()), k=count)

    def at_home(self, region: str, side: str) -> Shoot:
        """Requests of one side for members of one region at its nodes: purchases, or reads of the account."""
        numbers = [number for number, member in enumerate(self.members) if member.region == region]
        self._random.shuffle(numbers)

        async def shoot(index: int) -> str:
            number = numbers[index % len(numbers)]
            if side == "command":
                return await self.command(number, region=region, probe=False)
            return await self.query(number, "account", region=region)

        return shoot

    def accounts(self, region: str) -> Shoot:
        """Reads of the accounts of one region, rendered now and not looked at: what the client does for peers."""
        client = self.deployment.regions[region].query
        members = [member.member_id for member in self.members if member.region == region]
        requests = [client.request("GET", f"/v1/members/{member_id}/account", {}) for member_id in members]

        async def shoot(index: int) -> str:
            return (await exchange(client, requests[index % len(requests)]))[1]

        return shoot

    async def command(self, number: int, *, region: str | None = None, probe: bool = True) -> str:
        """Post an order of a member, at home mostly or in the region given."""
        traffic, chance = self.traffic, self._random.random
        member = self.members[number]
        region = region or self._region_for(member)
        if traffic.hot_store_share and chance() < traffic.hot_store_share:
            region = next(iter(self.stores))
            store = self.stores[region][0]
        else:
            store = self._random.choice(self.stores[region])
        kind = self._random.choices(list(traffic.commands), weights=list(traffic.commands.values()))[0]
        order = self._till.order(kind, member, store)
        client = self.deployment.regions[region].command
        request = self._render(client, order)
        if traffic.duplicate_share and chance() < traffic.duplicate_share:
            answer, code = await self._twice(client, request)
        else:
            answer, code = await exchange(client, request)
        if answer is None or code != "ok":
            return code
        document = self._learn(order, member, answer)
        if traffic.read_back_share and chance() < traffic.read_back_share:
            self._set_aside(self._read_back(number, self._region_for(member)))
        if probe and chance() < PROBE_SHARE:
            self._set_aside(self._probe(member, document["account"]["version"]))
        return code

    async def query(self, number: int, kind: str, *, region: str | None = None, token: bool | None = None) -> str:
        """Read a member's account, profile or activity; some with a token, some with the ETag they hold."""
        member = self.members[number]
        asked = region or self._region_for(member)
        client = self.deployment.regions[asked].query
        chance, demanded = self._random.random(), 0
        headers: dict[str, str] = {}
        if (chance < self.traffic.token_share if token is None else token) and member.token is not None:
            headers["Consistency-Token"], demanded = member.token, member.version
        elif chance > 1 - self.traffic.etag_share and member.etag is not None and kind == "account":
            headers["If-None-Match"] = member.etag
        path = f"/v1/members/{member.member_id}" + ("" if kind == "member" else f"/{kind}")
        before = self.witness.shown(member.member_id)
        answer, code = await exchange(client, client.request("GET", path, headers))
        if answer is None or code != "ok":
            return code
        # A node shows no less than it has shown, whoever tells it; which node of another region it was nobody knows.
        is_own = answer.header("Loyalty-Region") == asked
        source = client.base_url if is_own else f"{asked} {answer.header('Loyalty-Source')} {kind}"
        self.witness.read(member.member_id, version_of(answer), source=source, before=before, token=demanded)
        if answer.body and kind != "activity":
            document = orjson.loads(answer.body)
            self.witness.account(document["account"] if kind == "member" else document)
        if kind == "account":
            member.etag = answer.header("ETag") or member.etag
        return code

    def rendered(self, region: str, count: int) -> list[Shot]:
        """Purchases of members of one region, rendered now for its command node."""
        members = [member for member in self.members if member.region == region]
        client = self.deployment.regions[region].command

        def one(member: BenchMember) -> Shot:
            order = self._till.order("purchase", member, self._random.choice(self.stores[region]))
            return Shot(self._render(client, order), partial(self._learn, order, member))

        return [one(members[number % len(members)]) for number in range(count)]

    async def settle(self) -> Samples:
        """Wait for what was set aside and hand over what was measured of the lag since the last time."""
        while self._aside:
            await asyncio.gather(*self._aside)
        measured, self.visible = self.visible, Samples()
        return measured

    async def look_again(self) -> None:
        """Read every member that was changed, with the newest token: nothing acknowledged may be missing.

        A system that is just recovering is asked again for a while.
        """
        left = [number for number, member in enumerate(self.members) if member.token is not None]
        until = time.monotonic() + LOOK_AGAIN_S
        while left:
            numbers, left = left, []
            for first in range(0, len(numbers), ENROLMENTS_AT_ONCE):
                some = numbers[first : first + ENROLMENTS_AT_ONCE]
                codes = await asyncio.gather(*(self._look(number) for number in some))
                left += [number for number, code in zip(some, codes, strict=True) if code != "ok"]
            if left and time.monotonic() > until:
                self.witness.unread += len(left)
                return
            await asyncio.sleep(LOOK_AGAIN_PAUSE_S if left else 0)

    async def _look(self, number: int) -> str:
        return await self.query(number, "account", region=self.members[number].region, token=True)

    def another(self, traffic: Traffic, baskets: Sequence[Lines] = ()) -> "Workload":
        """Other requests for the same members, watched by the same witness; its receipts are its own."""
        own = {"run_id": secrets.token_hex(4), "visible": Samples(), "_aside": set[asyncio.Task[None]]()}
        return replace(self, traffic=traffic, baskets=baskets, **own)

    def _region_for(self, member: BenchMember) -> str:
        """Where the request arrives: mostly at home."""
        if self._random.random() < self.traffic.away_share:
            return self._random.choice(list(self.deployment.regions))
        return member.region

    def _learn(self, order: Order, member: BenchMember, answer: Answer) -> dict[str, Any]:
        document: dict[str, Any] = orjson.loads(answer.body)
        order.learn(document, self.witness)
        member.learn(document["account"], answer.header("Consistency-Token"))
        return document

    def _render(self, client: Client, order: Order) -> bytes:
        return client.command(order.path, order.body, key=f"bench-{self.run_id}-{next(self._keys)}")

    async def _twice(self, client: Client, request: bytes) -> tuple[Answer | None, str]:
        """The answer to one command sent twice at the same time."""
        (first, code), (second, other) = await asyncio.gather(exchange(client, request), exchange(client, request))
        if first is None or code == IN_PROGRESS:
            return second, other
        if second is not None and code == other == "ok":
            self.witness.repeated(first.body, second.body)
        return first, code

    def _set_aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _read_back(self, number: int, region: str) -> None:
        await self.query(number, "account", region=region, token=True)

    async def _probe(self, member: BenchMember, version: int) -> None:
        query = self.deployment.regions[member.region].query
        now_ns = time.monotonic_ns()
        lag_s = await visible_after(query, member.member_id, version, timeout_s=PROBE_TIMEOUT_S)
        code = "ok" if lag_s is not None else "never_visible"
        self.visible.record(
            scheduled_ns=now_ns, lateness_ns=0, latency_ns=int((lag_s or 0.0) * 1_000_000_000), code=code
        )


async def prepare(deployment: Deployment, traffic: Traffic, *, seed: int, members: int | None = None) -> Workload:
    """Enrol the members (those of an earlier benchmark are found again) and wait until all can be read."""
    stores: dict[str, list[str]] = {region: [] for region in deployment.regions}
    for store, region in (await deployment.stores()).items():
        stores[region].append(store)
    if empty := [region for region, names in stores.items() if not names]:
        raise DeploymentError(f"the program has no store in {', '.join(empty)}: nothing can be bought there")
    baskets = real_baskets() if "basket" in traffic.commands else ()
    workload = Workload(deployment, [], stores, traffic, seed, baskets)
    await enrol(workload, members or traffic.members)
    return workload


async def enrol(workload: Workload, count: int) -> None:
    """Add members until there are so many; returns when the last of each region can be read."""
    numbers = iter(range(len(workload.members), count))
    regions = list(workload.deployment.regions)

    async def work() -> None:
        for number in numbers:
            workload.members.append(await _enrol(workload, regions[number % len(regions)], number))

    async with asyncio.TaskGroup() as group:
        for _ in range(ENROLMENTS_AT_ONCE):
            group.create_task(work())
    await wait_for_newest(workload, timeout_s=ENROLMENT_TIMEOUT_S)


async def wait_for_newest(workload: Workload, *, timeout_s: float) -> None:
    """Return when the last member of each region can be read."""
    newest = {member.region: member for member in workload.members}
    for region, member in newest.items():
        query = workload.deployment.regions[region].query
        if await visible_after(query, member.member_id, 1, timeout_s=timeout_s) is None:
            raise DeploymentError(f"a new member of {region} did not become visible within {timeout_s:g} s")


async def _enrol(workload: Workload, region: str, number: int) -> BenchMember:
    client = workload.deployment.regions[region].command
    member_id = str(
        await _ask(client, "/v1/members", {"name": f"Bench {number}"}, f"bench-{region}-{number}", "member_id")
    )
    member = BenchMember(member_id, region)
    if points := workload.traffic.points_to_begin:
        body = {"member": {"member_id": member_id}, "points": points, "reason": "goodwill"}
        await _ask(client, "/v1/adjustments", body, f"bench-{workload.run_id}-begin-{number}", "entry_id")
    return member


async def _ask(client: Client, path: str, body: object, key: str, name: str) -> object:
    """A field of the answer to a command without which no benchmark can begin."""
    while (answer := await client.post(path, body, key=key)).code == OVERLOADED:  # noqa: ASYNC110 - as a till would
        await asyncio.sleep(OVERLOADED_PAUSE_S)
    if answer.code != "ok":
        raise DeploymentError(f"{client.base_url}{path} answers {answer.code}")
    return orjson.loads(answer.body)[name]


def real_baskets(*, line_count: int | None = None) -> list[Lines]:
    """Lines of the newest baskets of the Complete Journey, all or those of so many lines."""
    events = load_journey(data_folder()).events(newest_count=JOURNEY_BASKETS)
    found: list[Lines] = [event.body["lines"] for event in events if isinstance(event, Purchase)]
    return [lines for lines in found if line_count is None or len(lines) == line_count]
