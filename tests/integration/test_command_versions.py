"""Programs that follow one another, and documents of tills that come before, between and after them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from cluster.system import ensure_program
from command.program import VERSIONS_KNOWN, ProgramCache, apply_program
from shard_router.topology import TopologyWatch
from tests.command_node import GOLD, PROGRAM, SILVER, Reply, RunningNode, basket, running_command_node
from tests.engine import PostgresServer
from verify.ledger import check_ledger
from verify.part import Audit

NEW_YORK = PROGRAM.replace("Europe/Berlin", "America/New_York")
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
LATE = (TODAY - timedelta(minutes=30)).isoformat().replace("+00:00", "Z")
"""23:30 UTC: tomorrow in Berlin, today in New York, the day before yesterday nowhere."""


async def held(dsn: str, *versions: tuple[timedelta, str]) -> None:
    """Write versions as if applied so long ago."""
    connection = await asyncpg.connect(dsn)
    insert = "INSERT INTO program (version, effective_at, source) VALUES ($1, now() - $2::interval, $3)"
    for number, (ago, source) in enumerate(versions, 1):
        await connection.execute(insert, number, ago, source)
    await connection.close()


@asynccontextmanager
async def node_under(dsn: str, folder: Path, *versions: tuple[timedelta, str]) -> AsyncGenerator[RunningNode]:
    await held(dsn, *versions)
    async with running_command_node(dsn, folder, program=versions[-1][1]) as running:
        yield running


async def rows(node: RunningNode, query: str) -> list[Any]:
    connection = await asyncpg.connect(node.dsn)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


def back(receipt: str, at: str = LATE, line: int = 1, quantity: Any = 1) -> dict[str, Any]:
    lines = [{"line": line, "quantity": quantity}]
    return {"store": "330", "till": "1", "receipt": receipt, "occurred_at": at, "lines": lines}


def same(one: Reply, other: Reply) -> None:
    assert (other.status, other.json) == (201, one.json)
    assert other.headers["Idempotent-Replayed"] == "true"


async def test_a_receipt_and_a_refund_slip_stay_known_when_the_program_moves_to_another_zone(
    database: str, tmp_path: Path
) -> None:
    async with node_under(database, tmp_path, (timedelta(days=9), PROGRAM)) as node:
        (tmp_path / "other").mkdir()
        async with running_command_node(database, tmp_path / "other") as other:
            member = await node.enrol()
            body = basket({"member_id": member["member_id"]}, "z-1", occurred_at=LATE)
            bought = await node.post("/v1/purchases", body)
            path = f"/v1/purchases/{bought.json['purchase_id']}/returns"
            returned = await node.post(path, back("z-2"))
            await apply_program([database], NEW_YORK)
            for name, asked in (("one", node), ("other", other)):
                same(bought, await asked.post("/v1/purchases", body, key=f"{name}-1"))
                same(returned, await asked.post(path, back("z-2"), key=f"{name}-2"))
                changed = await asked.post("/v1/purchases", body | {"lines": body["lines"][:1]}, key=f"{name}-3")
                assert (changed.status, changed.code) == (409, "receipt_conflict")
        assert len(await rows(node, "SELECT FROM receipt")) == 2


async def test_a_version_dates_what_happens_from_its_instant_on_whichever_node_has_heard_of_it(
    database: str, tmp_path: Path
) -> None:
    async with node_under(database, tmp_path, (timedelta(days=9), PROGRAM)) as node:
        member = {"member_id": (await node.enrol())["member_id"]}
        await rows(node, "UPDATE program SET effective_at = now() - interval '9 days'")
        connection = await asyncpg.connect(database)
        insert = "INSERT INTO program (version, effective_at, source) VALUES (2, $1, $2)"
        await connection.execute(insert, TODAY - timedelta(days=1), NEW_YORK)
        await connection.close()
        assert (await node.post("/v1/purchases", basket(member, "1", occurred_at=LATE))).status == 201
        (row,) = await rows(node, "SELECT business_date FROM receipt")
        assert row["business_date"] == (TODAY - timedelta(days=1)).date()


async def test_a_document_that_a_node_of_the_first_release_dated_otherwise_is_found(
    database: str, tmp_path: Path
) -> None:
    async with node_under(database, tmp_path, (timedelta(days=9), PROGRAM), (timedelta(), NEW_YORK)) as node:
        member = {"member_id": (await node.enrol())["member_id"]}
        body = basket(member, "z-1", occurred_at=LATE)
        bought = await node.post("/v1/purchases", body)
        path = f"/v1/purchases/{bought.json['purchase_id']}/returns"
        returned = await node.post(path, back("z-2"))
        await rows(node, "UPDATE receipt SET business_date = business_date - 1, subject = ''")
        same(bought, await node.post("/v1/purchases", body))
        same(returned, await node.post(path, back("z-2")))
        more = await node.post(path, back("z-2", line=2, quantity="0.1"))
        assert (more.status, more.code) == (409, "receipt_conflict")


async def test_another_days_document_under_the_same_number_is_another_document(database: str, tmp_path: Path) -> None:
    async with node_under(database, tmp_path, (timedelta(days=9), PROGRAM), (timedelta(), NEW_YORK)) as node:
        member = {"member_id": (await node.enrol())["member_id"]}
        noon = (TODAY - timedelta(hours=12)).isoformat().replace("+00:00", "Z")
        first = await node.post("/v1/purchases", basket(member, "000200", occurred_at=noon))
        late = await node.post("/v1/purchases", basket(member, "000200", occurred_at=LATE))
        assert (first.status, late.status) == (201, 201)
        assert first.json["purchase_id"] != late.json["purchase_id"]


async def test_daily_numbers_of_a_store_in_another_zone_repeat_each_day_of_its_own(
    database: str, tmp_path: Path
) -> None:
    ohio = PROGRAM.replace('code = "330"', 'time_zone = "America/New_York"\ncode = "330"')
    monday = TODAY - timedelta(days=2, minutes=30)  # 18:30 in Ohio; Berlin has the next day
    tuesday = monday + timedelta(hours=23)
    async with node_under(database, tmp_path, (timedelta(days=9), ohio)) as node:
        member = {"member_id": (await node.enrol())["member_id"]}
        bodies = [basket(member, "000200", occurred_at=at.isoformat()) for at in (monday, tuesday)]
        assert [(await node.post("/v1/purchases", body)).status for body in bodies] == [201, 201]
        dates = [row["business_date"] for row in await rows(node, "SELECT * FROM purchase ORDER BY version")]
        assert dates == [monday.date(), tuesday.date()]
        bodies = [body | {"store": "331", "receipt": "7"} for body in bodies]
        assert [(await node.post("/v1/purchases", body)).status for body in bodies] == [201, 409]


async def test_one_refund_slip_takes_back_from_two_purchases_and_from_two_members(
    database: str, tmp_path: Path
) -> None:
    async with node_under(database, tmp_path, (timedelta(days=9), PROGRAM)) as node:
        members = [{"member_id": (await node.enrol())["member_id"]} for _ in range(2)]
        bought = [await node.post("/v1/purchases", basket(member, str(n))) for n, member in enumerate([*members] * 2)]
        paths = [f"/v1/purchases/{one.json['purchase_id']}/returns" for one in bought]
        returned = [await node.post(path, back("slip")) for path in paths]
        assert [one.status for one in returned] == [201] * 4
        assert len({one.json["return_id"] for one in returned}) == 4
        for path, first in zip(paths, returned, strict=True):
            same(first, await node.post(path, back("slip")))
            other = await node.post(path, back("slip", line=2, quantity="0.1"))
            assert (other.status, other.code) == (409, "receipt_conflict")


async def test_versions_older_than_a_node_keeps_are_read_for_the_batch_that_needs_them(
    database: str, tmp_path: Path
) -> None:
    many = [(timedelta(hours=1), PROGRAM)] * VERSIONS_KNOWN
    versions = [(timedelta(days=30), PROGRAM), (timedelta(days=20), NEW_YORK), *many]
    async with node_under(database, tmp_path, *versions) as node:
        member = {"member_id": (await node.enrol())["member_id"]}
        moments = [TODAY - timedelta(days=ago, minutes=30) for ago in (33, 25, 15)]
        bodies = [basket(member, f"v-{n}", occurred_at=at.isoformat()) for n, at in enumerate(moments)]
        assert [(await node.post("/v1/purchases", body)).status for body in bodies] == [201, 201, 201]
        dates = [row["business_date"] for row in await rows(node, "SELECT * FROM purchase ORDER BY version")]
        tomorrow = timedelta(days=1)  # in Berlin; the first version counts before it was applied, too
        assert dates == [moments[0].date() + tomorrow, moments[1].date() + tomorrow, moments[2].date()]


async def test_one_batch_decides_each_basket_by_the_version_of_its_instant(database: str, tmp_path: Path) -> None:
    campaign = '[[campaigns]]\ncode = "ten"\neffect = { fixed = 10 }\n'
    gone = PROGRAM.replace('code = "331"', 'code = "332"').replace('per_unit = "1"', 'per_unit = "3"')
    async with node_under(
        database, tmp_path, (timedelta(days=9), PROGRAM + campaign), (timedelta(days=2), gone)
    ) as node:
        members = [{"member_id": (await node.enrol())["member_id"]} for _ in range(4)]
        old, new = ((datetime.now(UTC) - timedelta(days=days)).isoformat() for days in (3, 1))
        lines = [{"sku": "a", "quantity": 1, "amount": 1000}]
        bodies = [
            basket(member, f"{n}-{at}", occurred_at=at, store=store, lines=lines)
            for n, member in enumerate(members)
            for at, store in ((old, "331"), (new, "332"), (old, "332"), (new, "331"))
        ]
        replies = await asyncio.gather(*(node.post("/v1/purchases", body) for body in bodies))
        told = [reply.json.get("points_earned", reply.json.get("code")) for reply in replies]
        assert told == [20, 30, "unknown_store", "unknown_store"] * 4
        again = await asyncio.gather(*(node.post("/v1/purchases", body) for body in bodies))
        assert [reply.json.get("points_earned") for reply in again[:2]] == [20, 30]
        bought = await rows(node, "SELECT program_version, points FROM journal WHERE kind = 'purchase_recorded'")
        assert sorted(map(tuple, bought)) == [(1, 20)] * 4 + [(2, 30)] * 4
        paths = [f"/v1/purchases/{reply.json['purchase_id']}/returns" for reply in replies[:2]]
        assert [(await node.post(path, back("r", at=at))).status for path in paths for at in (old, new)] == [
            201, 422, 201, 422,
        ]  # fmt: skip
        await found_right(node, tmp_path)


async def test_a_birthday_counts_under_each_version_that_asks_for_it_and_under_no_other(
    database: str, tmp_path: Path
) -> None:
    gift = f'{PROGRAM}[[campaigns]]\ncode = "b"\nwhen = {{ birthday_within_days = 2 }}\neffect = {{ fixed = 50 }}\n'
    async with node_under(database, tmp_path, (timedelta(days=9), gift), (timedelta(hours=9), PROGRAM)) as node:
        now, then = (datetime.now(UTC) - timedelta(days=days) for days in (0, 1))
        member = {"member_id": (await node.enrol(birth_date=f"1992-{then:%m-%d}"))["member_id"]}

        async def earned(receipt: str, at: datetime) -> int:
            lines = [{"sku": "a", "quantity": 1, "amount": 1000}]
            body = basket(member, receipt, occurred_at=at.isoformat(), lines=lines)
            return (await node.post("/v1/purchases", body)).json["points_earned"]

        assert [await earned("1", now), await earned("2", then)] == [10, 60]
        await apply_program([database], gift)
        assert await earned("3", datetime.now(UTC)) == 60


async def found_right(node: RunningNode, folder: Path) -> None:
    """`verify` finds nothing wrong with the ledger."""
    topology = TopologyWatch(folder / "topology.json").current
    connection = await asyncpg.connect(node.dsn)
    async with connection.transaction():
        findings = await check_ledger(connection, Audit("eu-1", topology))
    await connection.close()
    assert [(one.check, one.examples) for one in findings if not one.ok] == []


NOT_YET = "UPDATE program SET effective_at = now() + interval '10 s' WHERE version = 2"
"""What a server says of the newest version whose clock is that far behind the one that had it in force."""


@pytest.mark.parametrize("known", [False, True])
async def test_a_program_that_has_decided_stays_in_force_where_a_clock_has_not_come_so_far(
    database: str, tmp_path: Path, *, known: bool
) -> None:
    """Else a tier that it alone has is unknown, and the next purchase takes it away."""
    async with node_under(database, tmp_path, (timedelta(days=9), SILVER)) as node:
        (tmp_path / "other").mkdir()
        member = {"member_id": (await node.enrol())["member_id"]}
        await apply_program([database], GOLD)
        for receipt in ("1", "2"):
            bought = await node.post("/v1/purchases", basket(member, receipt))
        assert bought.json["account"]["tier"]["code"] == "gold"
        await rows(node, NOT_YET)
        async with running_command_node(database, tmp_path / "other", program=GOLD) as other:
            bought = await (node if known else other).post("/v1/purchases", basket(member, "3"), key="3")
            assert bought.status == 201, bought.body
            assert bought.json["account"]["tier"]["code"] == "gold"


async def test_a_program_to_come_that_has_decided_nothing_begins_at_its_instant(database: str, tmp_path: Path) -> None:
    async with node_under(database, tmp_path, (timedelta(days=9), SILVER)) as node:
        member = {"member_id": (await node.enrol())["member_id"]}
        await apply_program([database], GOLD, datetime.now(UTC) + timedelta(days=1))
        for receipt in ("1", "2"):
            bought = await node.post("/v1/purchases", basket(member, receipt))
        assert bought.json["account"]["tier"]["code"] == "silver"
        begun = await rows(node, "SELECT version, begun_at IS NOT NULL AS begun FROM program ORDER BY version")
        assert [tuple(row) for row in begun] == [(1, True), (2, False)]


@pytest.mark.parametrize("already", [0, 3], ids=["new", "added by an earlier release"])
async def test_a_shard_that_was_added_gets_every_version_there_is(
    database: str, postgres_server: PostgresServer, already: int
) -> None:
    """A late basket is decided by an older one, and the newest is still to come."""
    added, later = await postgres_server.create_database(), datetime.now(UTC) + timedelta(days=9)
    await held(database, (timedelta(days=9), PROGRAM), (timedelta(days=1), NEW_YORK))
    assert await apply_program([database], PROGRAM, later) == 3
    if already:
        connection = await asyncpg.connect(added)
        await connection.execute(
            "INSERT INTO program (version, effective_at, source) VALUES (3, $1, $2)", later, PROGRAM
        )
        await connection.close()
        assert await apply_program([database, added], PROGRAM) == 3
    else:
        assert await ensure_program([database, added], None) == 3
    found: list[list[Any]] = []
    for dsn in (database, added):
        connection = await asyncpg.connect(dsn)
        found.append(await connection.fetch("SELECT version, effective_at, source FROM program ORDER BY version"))
        assert (await ProgramCache().in_force(connection)).version == 2
        await connection.close()
    assert found[0] == found[1]
    await postgres_server.drop_database(added)
