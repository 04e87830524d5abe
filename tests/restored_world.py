"""Three regions of a shard each, of which any may go back to an earlier state while the others go on."""

import itertools
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from cluster.command_node import command_node
from cluster.reconcile import lines_of
from command.reconcile import reconcile
from command.register import Register
from shard_router.errors import ProblemError
from shard_router.incarnation import begin_incarnation
from shard_router.member_id import parse_member_id
from tests.command_node import REWARDS, Reply, RunningNode, basket, recent, running_regions
from tests.conftest import eventually
from tests.engine import PostgresServer, as_login
from tests.verify_world import TABLES
from verify import verify
from verify.part import Audit

REGIONS = ("eu", "us", "ap")


@dataclass
class World:
    """Three regions of one shard each; a shard's rows can be kept, and brought back as a restore does."""

    nodes: dict[str, RunningNode]
    folder: Path
    numbers: "itertools.count[int]"

    async def keep(self, region: str, name: str = "kept") -> None:
        await self._execute(
            region, f"CREATE SCHEMA {name}", *(f"CREATE TABLE {name}.{table} AS TABLE {table}" for table in TABLES)
        )

    async def restore(self, region: str, name: str = "kept") -> None:
        back = [f"INSERT INTO {table} SELECT * FROM {name}.{table}" for table in TABLES]  # noqa: S608 - our own names
        await self._execute(region, f"TRUNCATE {', '.join(TABLES)}", *back)
        connection = await asyncpg.connect(as_login(self.nodes[region].dsn, "projector"))
        await begin_incarnation(connection, "a test restored it", "none")
        await connection.close()
        for node in self.nodes.values():
            await eventually(lambda node=node: _reaches(node, f"{region}-1"))

    async def _execute(self, region: str, *statements: str) -> None:
        connection = await asyncpg.connect(self.nodes[region].dsn)
        await connection.execute("; ".join(statements))
        await connection.close()

    async def reconcile(self) -> list[str]:
        """As the command line does, as owner, once the restored shards have begun another incarnation."""
        document = json.loads((self.folder / "topology.json").read_text())
        for shard in document["shards"].values():
            shard["servers"] = [self.nodes[shard["region"]].dsn]
        path = self.folder / "owner.json"
        path.write_text(json.dumps(document))
        async with command_node(path) as node:
            return lines_of(await reconcile(node))

    async def broken(self) -> dict[str, list[str]]:
        node = next(iter(self.nodes.values())).inner
        findings = await verify.across_shards(node.topology, node.pools)
        for shard in node.topology.current.document.shards:
            findings += await verify._check_ledger(node.pools[shard], Audit(shard, node.topology.current))
        return {f"{one.where}: {one.check}": one.examples for one in findings if not one.ok}

    async def enrol(self, region: str, **fields: Any) -> str:
        return (await self.nodes[region].enrol(**fields))["member_id"]

    async def member(self, region: str, points: int = 0, **fields: Any) -> str:
        member_id = await self.enrol(region, **fields)
        if points:
            assert (await self.nodes[region].give(member_id, points)).status == 201
        return member_id

    async def send(self, sender: str, receiver: str, points: int) -> None:
        body = {"from": {"member_id": sender}, "to": {"member_id": receiver}, "points": points}
        assert (await self.post(sender, "/v1/transfers", body)).status == 201
        await self.errands()

    async def buy(self, member: str) -> str:
        answer = await self.post(member, "/v1/purchases", basket({"member_id": member}, f"r{next(self.numbers)}"))
        assert answer.status == 201, answer.body
        return answer.json["purchase_id"]

    async def bring_back(self, purchase: str) -> None:
        body = {
            "store": "330", "till": "1", "receipt": f"b{next(self.numbers)}", "occurred_at": recent(),
            "lines": [{"line": 1, "quantity": 2}, {"line": 2, "quantity": "0.375"}],
        }  # fmt: skip
        answer = await self.post(purchase.partition("_")[2][:14], f"/v1/purchases/{purchase}/returns", body)
        assert answer.status == 201, answer.body

    async def post(self, member: str, path: str, body: Any) -> Reply:
        return await self.node_of(member).post(path, body)

    def node_of(self, member: str) -> RunningNode:
        topology = self.nodes["eu"].inner.topology.current
        return self.nodes[topology.region_of(parse_member_id(member))]

    async def errands(self) -> None:
        for _ in range(2):
            for node in self.nodes.values():
                await node.run_errands()

    async def claim_receipts(self) -> None:
        """Let the registers do all there is to do now."""
        for region, node in self.nodes.items():
            await Register(node.inner).work_off(f"{region}-1")

    async def balance(self, member: str) -> dict[str, int]:
        connection = await asyncpg.connect(self.node_of(member).dsn)
        row = await connection.fetchrow(
            "SELECT available, held, debt FROM account WHERE member_id = $1", parse_member_id(member)
        )
        await connection.close()
        return dict(row)

    def phone_kept_in(self, region: str) -> str:
        """A phone whose claim is kept in that region."""
        place_of = self.nodes["eu"].inner.directory.place_of
        phones = (f"+49301{next(self.numbers):06d}" for _ in itertools.count())
        return next(phone for phone in phones if place_of(("phone", phone)) == f"{region}-1")


@asynccontextmanager
async def restorable_world(postgres_server: PostgresServer, folder: Path) -> AsyncGenerator[World]:
    dsns = {region: await postgres_server.create_database() for region in REGIONS}
    async with running_regions(dsns, folder, program=REWARDS) as nodes:
        world = World(nodes, folder, itertools.count(1))
        for region in REGIONS:
            await world._execute(region, "INSERT INTO incarnation VALUES (0, now(), 'made', now())")
        yield world
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


async def _reaches(node: RunningNode, shard: str) -> bool:
    """Whether a node has noticed that its sessions were ended, and has others."""
    with suppress(ProblemError):
        async with node.inner.pools[shard].primary() as connection:
            return await connection.fetchval("SELECT true")
    return False
