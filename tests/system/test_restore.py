"""Shards go back by base backup and WAL archive, as docs/operate.md says, and the system agrees again."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from cluster.system import DEFAULT_PROGRAM
from tests.conftest import eventually
from tests.engine import engine_name
from tests.long import long
from tests.system.conftest import free_range, loyalty
from tests.system.till import STORES, Reply, System, basket

REGIONS = "eu,us"


@pytest.fixture(scope="module")
def place() -> Generator[tuple[Path, int]]:
    """Where a system of two regions lies, and its first port."""
    if engine_name() != "embedded":
        pytest.skip("it restores the servers that `loyalty up` starts")
    folder = Path(tempfile.mkdtemp(prefix="loyalty-restore-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder, free_range()
    loyalty(folder / "data", "down")
    shutil.rmtree(folder, ignore_errors=True)


async def up(place: tuple[Path, int], session: ClientSession) -> System:
    folder, port = place
    program = folder / "program.toml"
    program.write_text(DEFAULT_PROGRAM.read_text())
    words = ("--regions", REGIONS, "--port", str(port), "--archive", str(folder / "archive"), "--program", str(program))
    done = await asyncio.to_thread(loyalty, folder / "data", "up", *words, "--detach")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"loyalty down --data {folder / 'data'}" in done.stdout
    status = await asyncio.to_thread(loyalty, folder / "data", "status", "--json")
    return System(folder / "data", port, json.loads(status.stdout), session)


@pytest.fixture
async def session() -> AsyncGenerator[ClientSession]:
    async with ClientSession() as opened:
        yield opened


async def seen(system: System, member: str, token: str) -> Any:
    """The account as the view shows it, with what the token is of."""

    async def there() -> bool:
        reply = await system.get("eu", f"/v1/members/{member}/account", **{"Consistency-Token": token})
        return reply.status == 200 and reply.headers["Loyalty-Source"] == "cache"

    await eventually(there, deadline_s=30)
    return await system.get("eu", f"/v1/members/{member}/account", **{"Consistency-Token": token})


async def enrol(system: System, region: str, **fields: str) -> str:
    reply = await system.post(region, "/v1/members", {"store": STORES[region]} | fields)
    assert reply.status == 201, reply.body
    return reply.json["member_id"]


async def give(system: System, region: str, member: str, points: int) -> None:
    body = {"member": {"member_id": member}, "points": points, "reason": "test"}
    assert (await system.post(region, "/v1/adjustments", body)).status == 201


async def available(system: System, member: str) -> int:
    reply = await system.get("eu", f"/v1/members/{member}/account")
    assert reply.status == 200, reply.body
    return reply.json["balance"]["available"]


async def run(system: System, *words: str) -> str:
    done = await asyncio.to_thread(loyalty, system.data, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Past:
    """What happened before and after the instant that a shard goes back to."""

    ada: str
    bea: str
    kept: Reply
    instant: str
    lost_body: dict[str, Any]
    lost: Reply
    shown: Reply
    phones: list[str]
    strangers: list[str]


async def live(system: System, backup: Path) -> Past:
    """A back-up, a basket that is kept, then what will be lost: a basket, members with phones, a transfer."""
    ada, bea = await enrol(system, "eu", phone="+4930100001"), await enrol(system, "us")
    await give(system, "eu", ada, 100)
    await give(system, "us", bea, 10)
    await run(system, "backup", str(backup))
    kept = await system.post("eu", "/v1/purchases", basket(ada, "eu", "kept", amount=700))
    assert kept.status == 201
    instant = datetime.now(UTC).isoformat()
    lost_body = basket(ada, "eu", "lost", amount=5_000)
    lost = await system.post("eu", "/v1/purchases", lost_body, key="lost-basket")
    shown = await seen(system, ada, lost.headers["Consistency-Token"])
    phones = [f"+49301{number:06d}" for number in range(6)]  # their claims lie on both shards
    strangers = [await enrol(system, "eu", phone=phone) for phone in phones]
    sent = {"from": {"member_id": ada}, "to": {"member_id": bea}, "points": 60}
    assert (await system.post("eu", "/v1/transfers", sent)).status == 201

    async def arrived() -> bool:
        return await available(system, bea) == 70

    await eventually(arrived, deadline_s=30)
    return Past(ada, bea, kept, instant, lost_body, lost, shown, phones, strangers)


async def check_tokens(system: System, past: Past) -> None:
    """Of what is lost they say so, of what was kept they are as good as before."""
    for token in (past.lost.headers["Consistency-Token"], f"v1.{past.strangers[0]}.1"):
        path = f"/v1/members/{token.split('.')[1]}/account"
        reply = await system.get("eu", path, **{"Consistency-Token": token})
        assert (reply.status, reply.json["code"]) == (409, "state_lost")
    kept = {"Consistency-Token": past.kept.headers["Consistency-Token"]}
    reply = await system.get("eu", f"/v1/members/{past.ada}/account", **kept)
    assert (reply.status, reply.json["version"]) == (200, past.kept.json["account"]["version"])


async def check_again(system: System, past: Past) -> None:
    """What the till sends again is done again, and nothing of it is taken for what was lost."""
    again = await system.post("eu", "/v1/purchases", past.lost_body, key="lost-basket")
    assert (again.status, "Idempotent-Replayed" in again.headers) == (201, False)
    now = await seen(system, past.ada, again.headers["Consistency-Token"])
    assert now.headers["ETag"] != past.shown.headers["ETag"]
    assert again.json["purchase_id"] != past.lost.json["purchase_id"]


@pytest.mark.timeout(400)
async def test_a_shard_goes_back_to_an_instant_and_every_promise_holds(
    place: tuple[Path, int], session: ClientSession
) -> None:
    system, folder = await up(place, session), place[0]
    past = await live(system, folder / "backup")
    await run(system, "down")
    archive = ("--archive", str(folder / "archive"))
    told = await run(system, "restore", "eu-1", str(folder / "backup"), "--at", past.instant, *archive)
    assert "what was there lies in" in told
    system = await up(place, session)
    # Until it is reconciled, claims of the restored shard wait, and those of the other are as they were.
    codes = {(await system.post("us", "/v1/members", {"phone": phone})).json.get("code") for phone in past.phones}
    assert codes == {"member_exists", "shard_unavailable"}
    status = await asyncio.to_thread(loyalty, system.data, "status")
    assert "eu-1 was restored: `loyalty reconcile`" in status.stdout
    assert {one["state"] for one in system.status["processes"].values()} == {"ready"}
    told = await run(system, "reconcile")
    assert "eu-1 had been restored and not reconciled" in told
    assert "1 transfers revoked whose sender's entry is lost" in told
    assert "eu-1: rebuilt" in told
    await run(system, "verify", "--json")
    await check_tokens(system, past)
    assert await available(system, past.bea) == 10
    for phone in past.phones:
        assert (await system.post("us", "/v1/members", {"phone": phone})).status == 201
    await check_again(system, past)
    await run(system, "verify", "--json")
    assert "nothing had to be brought back" in await run(system, "reconcile")
    await run(system, "down")


@long
@pytest.mark.timeout(400)
async def test_all_shards_go_back_to_a_back_up_without_an_archive(
    place: tuple[Path, int], session: ClientSession
) -> None:
    """Each to the end of its own, which are not of one instant."""
    system, folder = await up(place, session), place[0]
    cem = await enrol(system, "eu")
    await give(system, "eu", cem, 100)
    await run(system, "backup", str(folder / "again"))
    await give(system, "eu", cem, 1)
    await run(system, "down")
    for shard in ("eu-1", "us-1"):
        await run(system, "restore", shard, str(folder / "again"))
    system = await up(place, session)
    await run(system, "reconcile")
    await run(system, "verify", "--json")
    assert await available(system, cem) == 100
    await run(system, "down")
