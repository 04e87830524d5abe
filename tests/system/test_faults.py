"""Under load everything is killed in turn. Nothing acknowledged is lost, nothing is doubled, views come right again."""

import asyncio
import json
import os
import signal

import psutil
import pytest

from tests.conftest import eventually
from tests.system.conftest import loyalty, start, told
from tests.system.till import REGIONS, System, basket

TILLS = 9
READY_DEADLINE_S = 60.0
VICTIMS = ("eu-command", "us-query", "eu-1-cdc", "ap-1-valkey", "us-1-postgres-2", "eu-1-postgres-1")


async def shop(system: System, name: str, members: list[str], stop: asyncio.Event) -> list[str]:
    """A till that posts one basket after another until told to stop; tells which were acknowledged."""
    acknowledged: list[str] = []
    number = 0
    while not stop.is_set():
        region = REGIONS[number % 3]
        receipt = f"{name}-{number}"
        body = basket(members[number % len(members)], region, receipt)
        reply = await system.insist(region, "/v1/purchases", body, key=receipt)
        assert reply.status == 201, reply.body
        acknowledged.append(receipt)
        number += 1
    return acknowledged


async def all_ready(system: System) -> bool:
    return (await told(system.data))["ready"]


async def recorded(system: System) -> list[str]:
    receipts: list[str] = []
    for region in REGIONS:
        connection = await system.primary(region)
        receipts += [row["receipt"] for row in await connection.fetch("SELECT receipt FROM purchase")]
        await connection.close()
    return receipts


@pytest.mark.timeout(300)
async def test_whatever_is_killed_under_load_every_acknowledged_basket_is_there_once(system: System) -> None:
    members = [await system.enrol(region) for region in REGIONS for _ in range(4)]
    stop = asyncio.Event()
    tills = [asyncio.create_task(shop(system, f"faults-{till}", members, stop)) for till in range(TILLS)]
    for victim in VICTIMS:
        before = system.processes()[victim]
        system.kill(victim)

        async def replaced(victim: str = victim, before: int = before) -> bool:
            return system.processes().get(victim, before) != before and await all_ready(system)

        await eventually(replaced, deadline_s=READY_DEADLINE_S)
    stop.set()
    acknowledged = [receipt for receipts in await asyncio.gather(*tills) for receipt in receipts]
    found = [receipt for receipt in await recorded(system) if receipt.startswith("faults-")]
    assert sorted(found) == sorted(acknowledged)
    verdict = await asyncio.to_thread(loyalty, system.data, "verify", "--json")
    assert verdict.returncode == 0, verdict.stdout


@pytest.mark.timeout(180)
async def test_without_its_standby_a_shard_acknowledges_nothing_and_a_frozen_one_is_replaced(system: System) -> None:
    member = await system.enrol("us")
    name = "us-1-postgres-2"

    async def shown() -> bool:
        return (await system.get("us", f"/v1/members/{member}/account")).status == 200

    await eventually(shown, deadline_s=READY_DEADLINE_S)
    standby = psutil.Process(system.processes()[name])
    for process in (standby, *standby.children(recursive=True)):
        process.suspend()
    bodies = [basket(member, "us", f"alone-{number}") for number in range(5)]
    sales = [asyncio.create_task(system.post("us", "/v1/purchases", body, key=body["receipt"])) for body in bodies]
    read = await system.get("us", f"/v1/members/{member}/account")
    assert (read.status, read.json["version"]) == (200, 1)  # nothing shows that no standby has

    async def replaced() -> bool:
        return system.processes().get(name, standby.pid) != standby.pid

    await eventually(replaced, deadline_s=READY_DEADLINE_S)
    replies = await asyncio.gather(*sales)
    assert {reply.status for reply in replies} <= {201, 503}
    for reply in replies:
        assert reply.status == 201 or (reply.json["retryable"] and reply.headers["Retry-After"])
    for body in bodies:
        reply = await system.insist("us", "/v1/purchases", body, key=body["receipt"])
        assert reply.status == 201, reply.body
    connection = await system.primary("us")
    assert await connection.fetchval("SELECT count(*) FROM purchase WHERE receipt LIKE 'alone-%'") == len(bodies)
    await connection.close()


def runs(pid: int) -> bool:
    """Whether it is there and no zombie; it may go while we look."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(240)
async def test_after_kill_nine_of_the_supervisor_nothing_is_left_and_a_second_start_goes_on(system: System) -> None:
    member = await system.enrol("ap")
    body = basket(member, "ap", "supervisor-1")
    bought = await system.post("ap", "/v1/purchases", body, key="supervisor-1")
    run = json.loads((system.data / "run.json").read_text())
    children = list(system.processes().values())
    os.kill(run["supervisor"]["pid"], signal.SIGKILL)

    async def gone() -> bool:
        return not any(runs(pid) for pid in children)

    await eventually(gone, deadline_s=30)
    await asyncio.to_thread(start, system.data, system.port)
    again = await system.insist("ap", "/v1/purchases", body, key="supervisor-2")
    assert again.json["purchase_id"] == bought.json["purchase_id"]
    verdict = await asyncio.to_thread(loyalty, system.data, "verify", "--json")
    assert verdict.returncode == 0, verdict.stdout
