"""A small world with everything `verify` looks at, in which nothing is wrong."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from command.register import Register
from shard_router.card import new_card
from shard_router.member_id import SLOT_COUNT, format_member_id, parse_member_id, slot_of
from tests.command_node import PROGRAM, Reply, RunningNode, basket, running_command_node
from tests.engine import PostgresServer, ValkeyServer, as_superuser
from verify.finding import Finding
from verify.stream import STATEMENTS
from verify.verify import verify
from verify.view import Wanted, wanted_views

RICH = PROGRAM.replace("[points]\n", "[points]\nworth = { points = 1, amount = 1 }\n") + (
    '[[tiers]]\ncode = "basic"\nthreshold = 0\nmultiplier = "1"\n'
    '[[tiers]]\ncode = "silver"\nthreshold = 20\nmultiplier = "1.5"\n'
    "[referral]\nreferrer = 100\nnewcomer = 50\n"
    '[[campaigns]]\ncode = "hello"\neffect = { fixed = 1 }\nlimits = { per_member = 9, per_member_per_day = 9 }\n'
    '[[coupons]]\ncode = "HELLO"\nwhen = { min_amount = 5000 }\neffect = { fixed = 5 }\n'
    '[[rewards]]\ncode = "coffee"\nname = "A coffee"\npoints = 10\nstock = 20\nvalid_days = 30\n'
    '[[rewards]]\ncode = "mug"\nname = "A mug"\npoints = 10\nper_member = 5\n'
)
TABLES = (
    "program", "member", "identifier", "former_identifier", "claim", "claim_slot", "account", "journal", "purchase",
    "receipt", "errand", "unclaimed_receipt", "reward_stock", "stock_move", "stock_arrival", "idempotency",
    "incarnation", "wrong_guess",
)  # fmt: skip


@dataclass
class Shard:
    """A shard's database, with copies of every table to go back to, and its Valkey."""

    connection: asyncpg.Connection
    valkey: Redis

    async def lift_constraints(self) -> None:
        """`verify` is what finds it when the database did not back the rules up."""
        await self.connection.execute(
            "ALTER TABLE account DROP CONSTRAINT account_no_negative_bucket, DROP CONSTRAINT account_sums_to_zero"
        )

    async def keep(self, name: str = "kept") -> None:
        await self.connection.execute(f"CREATE SCHEMA {name}")
        for table in TABLES:
            await self.connection.execute(f"CREATE TABLE {name}.{table} AS TABLE {table}")

    async def restore(self, name: str = "kept") -> None:
        back = (f"INSERT INTO {table} SELECT * FROM {name}.{table}" for table in TABLES)  # noqa: S608 - our own names
        await self.connection.execute("; ".join((f"TRUNCATE {', '.join(TABLES)}", *back)))

    async def fill_views(self) -> None:
        """Write all views anew, as a rebuild would, as far as the rows can be shown."""
        await self.valkey.flushdb()
        rows = await self.connection.fetch(STATEMENTS["member_page"], 0, 1000)
        wanted: Wanted = await wanted_views(self.connection, [row["member_id"] for row in rows])  # pyright: ignore[reportArgumentType]
        pipeline = self.valkey.pipeline()
        for key, value in wanted.views.items():
            pipeline.set(key, value)
        for key, items in wanted.activity.items():
            pipeline.zadd(key, dict(items))
        await pipeline.execute()


@dataclass
class World:
    """Two shards, and how statements name what lives there: `$ada` a member, `$Ada` his id as people know it."""

    path: Path
    shards: dict[str, Shard] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    known: Path | None = None
    """Where a clean run has seen every member, so that only those who changed since are folded."""

    def home(self, member: str) -> Shard:
        half = slot_of(int(self.names[member])) * 2 // SLOT_COUNT
        return self.shards[f"eu-{half + 1}"]

    async def verify(self) -> list[Finding]:
        return await verify(self.path, known=self.known)

    async def broken(self) -> dict[str, list[str]]:
        """What is found broken: examples by promise."""
        found: dict[str, list[str]] = {}
        for one in await self.verify():
            if not one.ok:
                assert one.examples
                found.setdefault(one.check, []).extend(one.examples)
        return found


@asynccontextmanager
async def prepared_world(postgres: PostgresServer, valkey: ValkeyServer, folder: Path) -> AsyncGenerator[World]:
    """The world after its members have done all there is to do, with views, and a copy to go back to."""
    dsns = [await postgres.create_database(), await postgres.create_database()]
    world = World(folder / "verified.json")
    async with running_command_node(dsns[0], folder, program=RICH, second=dsns[1]) as node:
        await live(node, world)
    document = json.loads((folder / "topology.json").read_text())
    for name, shard in document["shards"].items():
        shard["valkey"] = await valkey.fresh_url()
        connection = await asyncpg.connect(as_superuser(shard["servers"][0]))
        world.shards[name] = Shard(connection, Redis.from_url(shard["valkey"]))
        await world.shards[name].lift_constraints()
        await world.shards[name].keep()
        await world.shards[name].fill_views()
    world.path.write_text(json.dumps(document))
    yield world
    for shard in world.shards.values():
        await shard.connection.close()
        await shard.valkey.aclose()
    for dsn in dsns:
        await postgres.drop_database(dsn)


async def live(node: RunningNode, world: World) -> None:
    """Ada does what a member can do, Bea on another shard receives, Cem was brought by Ada, Dan is erased."""
    ada = await node.enrol(name="Ada", phone="+4930111", card="FOREIGN-1", email="ada@example.org")
    far = (slot_of(parse_member_id(ada["member_id"])) + SLOT_COUNT // 2) % SLOT_COUNT
    bea = await node.enrol(email="bea@example.org", card=new_card(1, far))
    cem = await node.enrol(referred_by=ada["member_id"], email="cem@example.org")
    dan = await node.enrol(name="Dan", email="dan@example.org", phone="+4930444")
    for name, one in (("ada", ada), ("bea", bea), ("cem", cem), ("dan", dan)):
        world.names |= {name: str(parse_member_id(one["member_id"])), name.title(): one["member_id"]}
    await shop(node, ada["member_id"], world)
    await spend(node, ada["member_id"])
    await done(node, "/v1/transfers", {"from": {"phone": "+4930111"}, "to": {"email": "bea@example.org"}, "points": 40})
    await done(node, "/v1/purchases", basket({"member_id": cem["member_id"]}, "cem-1"))
    change = {"add": [{"phone": "+4930222"}], "new_card": True, "remove": [{"card": bea["card"]}]}
    await done(node, f"/v1/members/{bea['member_id']}/identifiers", change)
    await bring_all_back(node, bea["member_id"], "bea")
    await leave_debt(node, dan["member_id"])
    assert (await node.delete(f"/v1/members/{dan['member_id']}")).status == 200
    await node.run_errands()
    await refer(node, ada["member_id"])
    await quarrel(node, world)
    poor = await node.post("/v1/holds", {"member": {"member_id": cem["member_id"]}, "points": 10_000})
    assert poor.code == "insufficient_points"


async def shop(node: RunningNode, member: str, world: World) -> None:
    """A basket that comes back in part, one paid with points and a hold that comes back in part, one more."""
    named = {"member_id": member}
    await node.give(member, 500)
    first = (await done(node, "/v1/purchases", basket(named, "ada-1"))).json["purchase_id"]
    back = {"store": "330", "till": "1", "receipt": "back-1", "occurred_at": basket(named, "")["occurred_at"]}
    await done(node, f"/v1/purchases/{first}/returns", back | {"lines": [{"line": 1, "quantity": 1}]})
    hold = (await done(node, "/v1/holds", {"member": named, "points": 60})).json["hold_id"]
    paid = basket(named, "ada-2", capture_holds=[hold], pay_with_points=30, coupons=["HELLO"])
    second = (await done(node, "/v1/purchases", paid)).json["purchase_id"]
    back |= {"receipt": "back-2", "lines": [{"line": 1, "quantity": 1}]}
    await done(node, f"/v1/purchases/{second}/returns", back)
    await done(node, "/v1/purchases", basket(named, "ada-3"))
    world.names |= {"first": first.rpartition("-")[2], "second": second.rpartition("-")[2]}


async def refer(node: RunningNode, referrer: str) -> None:
    """Two newcomers whose first baskets came back: one bought again, of the other the thanks are not back yet."""
    for name in ("eve", "gil"):
        newcomer = (await node.enrol(referred_by=referrer))["member_id"]
        await bring_all_back(node, newcomer, name)
        if name == "eve":
            await node.run_errands()
            await done(node, "/v1/purchases", basket({"member_id": newcomer}, "eve-again"))
            await node.run_errands()


async def quarrel(node: RunningNode, world: World) -> None:
    """Hal and Ida, of two shards, are both booked one receipt: Hal lives where those of the store are kept.

    Of a second one of both Ida has brought all back before.
    """
    topology = node.inner.topology.current
    for name, is_there in (("hal", True), ("ida", False)):
        while True:
            member = parse_member_id((await node.enrol())["member_id"])
            if (topology.shard_of(member) == topology.register_of("eu", "330")) == is_there:
                break
        world.names[name] = str(member)
        await done(node, "/v1/purchases", basket({"member_id": format_member_id(member)}, "quarrel"))
        if name == "hal":
            await done(node, "/v1/purchases", basket({"member_id": format_member_id(member)}, "ida-1"))
    await bring_all_back(node, format_member_id(member), "ida")
    for shard in node.inner.shards():
        await Register(node.inner).work_off(shard)


async def leave_debt(node: RunningNode, member: str) -> None:
    """A basket whose points are spent, and then its goods come back."""
    sold = basket({"member_id": member}, "dan-1")
    purchase = (await done(node, "/v1/purchases", sold)).json["purchase_id"]
    hold = (await done(node, "/v1/holds", {"member": {"member_id": member}, "points": 14})).json["hold_id"]
    await done(node, f"/v1/holds/{hold}/capture", {})
    back = {name: sold[name] for name in ("store", "till", "occurred_at")} | {"receipt": "dan-back"}
    await done(node, f"/v1/purchases/{purchase}/returns", back | {"lines": [{"line": 1, "quantity": 2}]})


async def bring_all_back(node: RunningNode, member: str, receipt: str) -> None:
    """A basket that comes back whole, in two parts."""
    sold = basket({"member_id": member}, f"{receipt}-1")
    purchase = (await done(node, "/v1/purchases", sold)).json["purchase_id"]
    for number, one in enumerate(sold["lines"], 1):
        back = {name: sold[name] for name in ("store", "till", "occurred_at")} | {"receipt": f"{receipt}-{number}"}
        lines = [{"line": number, "quantity": one["quantity"]}]
        await done(node, f"/v1/purchases/{purchase}/returns", back | {"lines": lines})


async def spend(node: RunningNode, member: str) -> None:
    """Holds captured, voided and open; redemptions used, cancelled and open; points taken by hand."""
    named = {"member": {"member_id": member}}
    holds = [(await done(node, "/v1/holds", named | {"points": 20})).json["hold_id"] for _ in range(3)]
    await done(node, f"/v1/holds/{holds[0]}/capture", {"points": 15})
    await done(node, f"/v1/holds/{holds[1]}/void", {})
    rewards = ("coffee", "coffee", "mug", "mug")
    asked = [(await done(node, "/v1/redemptions", named | {"reward": one})).json["redemption_id"] for one in rewards]
    await done(node, f"/v1/redemptions/{asked[0]}/cancel", {"store": "330"})
    await done(node, f"/v1/redemptions/{asked[2]}/use", {"store": "330"})
    await done(node, "/v1/adjustments", named | {"points": -5, "reason": "correction"})


async def done(node: RunningNode, path: str, body: dict[str, Any]) -> Reply:
    reply = await node.post(path, body)
    assert reply.status in {200, 201}, reply.body
    return reply
