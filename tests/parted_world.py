"""Two regions of a shard each, whose nodes meet each other's servers and nodes over links that can be cut."""

import itertools
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from aiohttp import ClientSession

from command.program import apply_program
from command.register import Register
from command.request import COURIER, NODE
from command.settings import CommandSettings
from shard_router.member_id import SLOT_COUNT, parse_member_id
from shard_router.slot_table import ranges_of
from tests.command_node import Reply, RunningNode, _region, _served, _settings, _shard
from tests.conftest import eventually
from tests.engine import as_login, as_superuser, free_port
from tests.keys import write_credentials
from tests.partition import Link, linked

OTHER = {"eu": "us", "us": "eu"}
DEADLINE_MS = 1_200


@dataclass
class Parted:
    """Both regions' nodes, and each one's links to the other: to its server and to its node."""

    nodes: dict[str, RunningNode]
    dsns: dict[str, str]
    links: dict[tuple[str, str], Link]
    seen: dict[tuple[str, str], str]
    """what a link leads to, as the region that uses it writes it"""
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def part(self, moment: str, region: str, to: str, mark: str) -> None:
        """Part the regions: now (`whole`), or once `region` sends `mark` to the other's server or node (`to`)."""
        for link in self.links.values():
            link.was_cut = False
        if moment == "whole":
            for link in self.links.values():
                link.cut()
        else:
            self.links[region, to].cut_at(mark.encode(), "before" if moment == "before" else "after")

    def was_parted(self) -> bool:
        return any(link.was_cut for link in self.links.values())

    def heal(self) -> None:
        for link in self.links.values():
            link.heal()

    async def claim_receipts(self) -> None:
        for region, node in self.nodes.items():
            await Register(node.inner).work_off(f"{region}-1")

    async def try_errands(self) -> None:
        """One look at what is due, whether it can be done or not."""
        for region, node in self.nodes.items():
            await node.courier.work_off(f"{region}-1")

    async def all_done(self) -> None:
        """Let errands and registers end all there is."""

        async def nothing_left() -> bool:
            await self.change("UPDATE errand SET due_at = now(); UPDATE unclaimed_receipt SET due_at = now()")
            await self.try_errands()
            await self.claim_receipts()
            return not await self.rows("SELECT 1 FROM errand UNION ALL SELECT 1 FROM unclaimed_receipt")

        await eventually(nothing_left)

    async def final(self, region: str, path: str, body: Any, key: str) -> Reply:
        """As a till does: the same again until the answer is neither a 503 nor `in_progress`."""
        found: list[Reply] = []

        async def answered() -> bool:
            found.append(await self.nodes[region].post(path, body, key=key))
            if found[-1].status != 503 and not (found[-1].status == 409 and found[-1].code == "in_progress"):
                return True
            await self.change("UPDATE claim SET leased_until = now() WHERE leased_until IS NOT NULL")  # as 30 s would
            return False

        await eventually(answered, deadline_s=60)
        return found[-1]

    async def rows(self, sql: str, *arguments: Any) -> list[Any]:
        """What both shards have."""
        found: list[Any] = []
        for dsn in self.dsns.values():
            connection = await asyncpg.connect(as_superuser(dsn))
            found += await connection.fetch(sql, *arguments)
            await connection.close()
        return found

    async def change(self, sql: str) -> None:
        for dsn in self.dsns.values():
            connection = await asyncpg.connect(as_superuser(dsn))
            await connection.execute(sql)
            await connection.close()

    async def enrol(self, region: str, **fields: Any) -> str:
        return (await self.nodes[region].enrol(**fields))["member_id"]

    async def journal(self, member: str) -> list[str]:
        sql = "SELECT kind FROM journal WHERE member_id = $1 ORDER BY version"
        return [row["kind"] for row in await self.rows(sql, parse_member_id(member))]

    def add_region(self, region: str) -> None:
        """Have the node of a region adopt a topology with one region more, which the other has not heard of."""
        watch = self.nodes[region].inner.topology
        document = json.loads(watch.path.read_text())
        document["epoch"] += 1
        document["regions"]["sa"] = _region(3)
        document["shards"]["sa-1"] = document["shards"]["us-1"] | {"region": "sa"}
        watch.path.write_text(json.dumps(document))
        watch.look()
        assert "sa" in watch.current.document.regions

    def say_shard(self, region: str, second: str | None, slots: Sequence[int]) -> None:
        """Have a region's document say where eu-2 is, with these slots of eu; None: that it has gone."""
        watch = self.nodes[region].inner.topology
        document = json.loads(watch.path.read_text())
        ranges = ranges_of(["eu-2" if slot in slots else "eu-1" for slot in range(SLOT_COUNT)])
        first = document["shards"]["eu-1"] | {"slots": ranges["eu-1"], "receipts": [[0, SLOT_COUNT - 1]]}
        document["shards"]["eu-1"] = first
        document["shards"].pop("eu-2", None)
        document["claim_slots"] = ranges_of(watch.current.claim_shards)
        if second:
            its = {"slots": ranges.get("eu-2", []), "servers": [as_login(second, "node")], "receipts": []}
            document["shards"]["eu-2"] = first | its
        watch.path.write_text(json.dumps(document | {"epoch": document["epoch"] + 1}))
        watch.look()

    def say_claims(self, table: Sequence[str]) -> None:
        """Have both regions' documents say who keeps which claim slots; their nodes look when they are refused."""
        for node in self.nodes.values():
            path = node.inner.topology.path
            document = json.loads(path.read_text())
            claims = {"epoch": document["epoch"] + 1, "claim_slots": ranges_of(table)}
            path.write_text(json.dumps(document | claims))

    def kept_in(self, region: str, make: Callable[[int], tuple[str, str]]) -> tuple[str, str]:
        """An identifier whose claim a region keeps, and what is remembered of those who had it and left."""
        directory, claims = self.nodes[region].inner.directory, self.nodes[region].inner.claims

        def is_kept(one: tuple[str, str]) -> bool:
            places = {directory.place_of(one), *map(directory.place_of_hash, claims.hashes(one))}
            return places == {f"{region}-1"}

        return next(one for one in map(make, self.numbers) if is_kept(one))


@asynccontextmanager
async def parted_regions(dsns: dict[str, str], folder: Path, program: str) -> AsyncGenerator[Parted]:
    """A node for each of eu and us. Their documents differ in how the other region is reached, and in nothing else."""
    await apply_program(list(dsns.values()), program)
    ports = {region: free_port() for region in dsns}
    own = {(region, "node"): f"http://127.0.0.1:{port}" for region, port in ports.items()}
    own |= {(region, "server"): dsn for region, dsn in dsns.items()}
    keys, signing_key = write_credentials(folder / "credentials.json")
    numbers = itertools.count(1)
    async with AsyncExitStack() as stack:
        links: dict[tuple[str, str], Link] = {}
        seen: dict[tuple[str, str], str] = {}
        for (region, to), url in own.items():
            name = OTHER[region], to
            links[name], seen[name] = await stack.enter_async_context(linked(url))
        session = await stack.enter_async_context(ClientSession())
        nodes: dict[str, RunningNode] = {}
        for region, dsn in dsns.items():
            ways = {region: {to: own[region, to] for to in ("node", "server")}}
            ways[OTHER[region]] = {to: seen[region, to] for to in ("node", "server")}
            _write_topology(folder / region, ways)
            (folder / region / "credentials.json").write_text((folder / "credentials.json").read_text())
            settings = CommandSettings(
                **_settings(folder / region, region), port=ports[region], deadline_ms=DEADLINE_MS
            )
            url, app = await stack.enter_async_context(_served(settings))
            inner, courier = app[NODE], app[COURIER]
            nodes[region] = RunningNode(url, session, keys, signing_key, inner, dsn, courier, numbers)
        world = Parted(nodes, dsns, links, seen)
        yield world
        world.heal()


def _write_topology(folder: Path, ways: dict[str, dict[str, str]]) -> None:
    folder.mkdir()
    numbers = {"eu": 1, "us": 2}
    regions = {region: _region(numbers[region], ways[region]["node"]) for region in numbers}
    shards = {f"{region}-1": _shard(region, ways[region]["server"], [0, 4095]) for region in numbers}
    document = {"epoch": 1, "regions": regions, "shards": shards, "claims": ["eu", "us"]}
    (folder / "topology.json").write_text(json.dumps(document))
