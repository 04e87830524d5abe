"""Regions join and go by the document that the operator of containers writes, and `cluster.setup` takes over."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster import transition
from cluster.claims import take_claims_from
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.files import alone
from cluster.setup import main
from cluster.transition import leaving, take_over
from command.program import apply_program
from command.register import STATEMENTS
from command.slot import enter_slots
from command.stock import STATEMENTS as STOCK
from command.stock import give_up_stock
from service.health import EPOCH_METRIC
from shard_router.directory import Directory, Identifier
from shard_router.errors import SlotGivenError
from shard_router.member_id import new_member_id
from shard_router.pool import ShardPools
from shard_router.server import connection_to
from shard_router.topology import Topology, TopologyDocument, TopologyWatch, read_topology
from tests.command_node import PROGRAM
from tests.engine import PostgresServer

SCARCE = """
[[rewards]]
code = "scarce"
name = "Something scarce"
points = 1
stock = 9
"""
BOUGHT = """
INSERT INTO journal (
    member_id, version, kind, program_version, occurred_at, recorded_at, store, points, postings, detail, account_after
)
SELECT $1, 2, 'purchase_recorded', max(version), now(), now(), $2, 0, '[]', '{}', '{}' FROM program
"""
LIVES_HERE = """INSERT INTO account (member_id, version, available, pending, held, spent, expired, debt, issued, state)
    VALUES ($1, 2, 0, 0, 0, 0, 0, 0, 0, '{}')"""
NUMBERS = {"eu": 1, "us": 2, "sa": 4}
PHONES: list[Identifier] = [("phone", f"+4930{number:06}") for number in range(30)]


class Deployment:
    """Three regions that somebody else has started, of which a document names some."""

    def __init__(self, folder: Path, dsns: dict[str, str]) -> None:
        self.documents, self.dsns = Documents(folder), dsns
        self.nodes: list[str] = []

    def document(self, **states: str | None) -> TopologyDocument:
        regions: dict[str, Any] = {}
        for name, state in states.items():
            regions[name] = {"number": NUMBERS[name], "command": self.nodes, "query": []} | (
                {"state": state} if state else {}
            )
        shards = {
            f"{name}-1": {
                "region": name,
                "slots": [[0, 4095]],
                "servers": [self.dsns[f"{name}-1"]],
                "valkey": "redis://x",
            }
            for name in states
        }
        return TopologyDocument.model_validate({"epoch": 1, "regions": regions, "shards": shards})

    async def set_up(self, **states: str | None) -> list[str]:
        """As `cluster.setup` does once the shards are prepared."""
        document = self.document(**states)
        leaving(self.documents, document)
        return await take_over(self.documents, document, self.dsns)

    @property
    def topology(self) -> Topology:
        return read_topology(self.documents.topology)

    async def execute(self, shard: str, sql: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.dsns[shard])
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def scarce(self, region: str) -> int:
        """How many of nine a region's shard may give."""
        found = await self.execute(f"{region}-1", "SELECT allotted FROM reward_stock WHERE reward = 'scarce'")
        return found[0]["allotted"] if found else 0

    async def enrol(self) -> dict[Identifier, int]:
        """Give each phone to a member of us, as a node does."""
        holders = {phone: new_member_id(2, number) for number, phone in enumerate(PHONES)}
        async with self._directory() as directory:
            for phone, member in holders.items():
                assert await directory.lease([phone], member) == []
                await directory.hold([phone], member)
        return holders

    async def found(self) -> dict[Identifier, int | None]:
        async with self._directory() as directory:
            return {phone: await directory.find(phone) for phone in PHONES}

    @asynccontextmanager
    async def _directory(self) -> AsyncGenerator[Directory]:
        watch = TopologyWatch(self.documents.topology)
        pools = ShardPools(watch, size_max=4, statement_timeout_ms=60_000)
        yield Directory(watch, pools)
        await pools.close()


@pytest.fixture
async def deployment(postgres_server: PostgresServer, tmp_path: Path) -> AsyncGenerator[Deployment]:
    dsns = {f"{name}-1": await postgres_server.create_database() for name in NUMBERS}
    yield Deployment(tmp_path, dsns)
    for dsn in dsns.values():
        await postgres_server.drop_database(dsn)


async def test_a_region_that_becomes_active_takes_its_share_of_the_claims(deployment: Deployment) -> None:
    assert await deployment.set_up(eu=None, us=None) == []
    holders = await deployment.enrol()
    assert await deployment.set_up(eu=None, us=None, sa="joining") == []
    assert set(deployment.topology.claim_shards) == {"eu-1", "us-1"}
    refused = await deployment.execute("sa-1", "SELECT DISTINCT state FROM claim_slot")
    assert [row["state"] for row in refused] == ["gone"]
    (words,) = await deployment.set_up(eu=None, us=None, sa="active")
    assert words == "sa takes 2,730 claim slots of others"
    table = deployment.topology.claim_shards
    assert {table.count(f"{name}-1") for name in NUMBERS} <= {2730, 2731}
    assert await deployment.found() == holders
    assert deployment.topology.document.regions["sa"].state == "active"
    assert await deployment.set_up(eu=None, us=None, sa="active") == []


async def test_setup_does_it_with_servers_that_somebody_else_has_started(
    deployment: Deployment, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_slot(_: str) -> None:
        """The databases of the tests share a server, and a slot's name is the server's."""

    monkeypatch.setattr("cluster.setup.create_slot", no_slot)
    file = tmp_path / "wanted.json"
    for states in (
        {"eu": None, "us": None},
        {"eu": None, "us": None, "sa": "joining"},
        {"eu": None, "us": None, "sa": "active"},
        {"eu": "draining", "us": None, "sa": None},
        {"us": None, "sa": None},
    ):
        file.write_text(deployment.document(**states).model_dump_json())
        await asyncio.to_thread(main, file, data=tmp_path)
    assert set(deployment.topology.claim_shards) == {"us-1", "sa-1"}
    told = [line for line in capsys.readouterr().out.splitlines() if "claim slots" in line]
    assert told == [
        "sa takes 2,730 claim slots of others",
        "eu has given 2,731 claim slots and 0 receipts away; its servers can go",
    ]


async def test_who_dies_while_a_region_joins_goes_on_with_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deployment.set_up(eu=None, us=None)
    holders = await deployment.enrol()
    await deployment.set_up(eu=None, us=None, sa="joining")

    async def killed(*_: object, **__: object) -> int:
        raise ClusterError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(transition, "share_claims", killed)
        with pytest.raises(ClusterError, match="killed"):
            await deployment.set_up(eu=None, us=None, sa="active")
    assert deployment.topology.document.regions["sa"].state == "joining"
    assert await deployment.set_up(eu=None, us=None, sa="active") == ["sa takes 2,730 claim slots of others"]
    assert await deployment.found() == holders


async def test_nothing_is_claimed_again_before_every_node_knows_of_the_region_that_joins(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A purchase that goes by an older topology is claimed where its store's receipts were kept until then."""
    epoch = 1

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=f"{EPOCH_METRIC} {epoch}.0\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    claimed: list[str] = []

    async def claim(topology: Topology, name: str, _: object) -> None:
        assert topology.epoch <= epoch
        claimed.append(name)

    monkeypatch.setattr(transition, "claim_receipts_again", claim)
    monkeypatch.setattr("cluster.epoch.DEADLINE_S", 0.0)
    async with TestServer(app) as node:
        deployment.nodes = [str(node.make_url("")).rstrip("/")]
        await deployment.set_up(eu=None, us=None)
        await deployment.set_up(eu=None, us=None, sa="joining")
        with pytest.raises(ClusterError, match=r"http://.* did not take epoch 2"):
            await deployment.set_up(eu=None, us=None, sa="active")
        assert (claimed, deployment.topology.document.regions["sa"].state) == ([], "joining")
        epoch = deployment.topology.epoch
        assert await deployment.set_up(eu=None, us=None, sa="active") == ["sa takes 2,730 claim slots of others"]
    assert claimed == ["sa"]


async def test_a_region_that_the_document_lacks_gives_claims_and_receipts_away(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deployment.set_up(eu=None, us=None, sa=None)
    holders = await deployment.enrol()
    name, whose = (["S"], ["1"], [datetime.now(UTC).date()], ["r-1"]), ([new_member_id(2, 1)], [2], [uuid4()])
    await deployment.execute("eu-1", STATEMENTS["claim_receipts"], *name, *whose)
    with pytest.raises(ClusterError, match="draining"):
        await deployment.set_up(us=None, sa=None)
    await deployment.set_up(eu="draining", us=None, sa=None)
    await apply_program([*deployment.dsns.values()], PROGRAM + SCARCE)
    with monkeypatch.context() as patched:
        patched.setattr(transition, "write_topology", None)
        with pytest.raises(TypeError):
            await deployment.set_up(us=None, sa=None)
    assert "eu" in deployment.topology.document.regions
    (words,) = await deployment.set_up(us=None, sa=None)
    assert words == "eu has given 0 claim slots and 1 receipts away; its servers can go"
    assert set(deployment.topology.claim_shards) == {"us-1", "sa-1"}
    assert await deployment.found() == holders
    keeper = deployment.topology.register_of("eu", "S")
    assert [row["receipt"] for row in await deployment.execute(keeper, "SELECT receipt FROM receipt")] == ["r-1"]
    assert await deployment.set_up(us=None, sa=None) == []
    eu, us, sa = [await deployment.scarce(name) for name in ("eu", "us", "sa")]
    assert (eu, us + sa) == (0, 9)


async def test_what_a_region_that_goes_has_begun_to_give_arrives_once(deployment: Deployment) -> None:
    """A node died when it had taken units there; another one knows the region still, and would take more."""
    await apply_program([*deployment.dsns.values()], PROGRAM + SCARCE)
    sent = (uuid4(), "scarce", 2, "us-1")
    assert await deployment.execute("eu-1", STOCK["send_stock"], *sent)
    rest = {name: dsn for name, dsn in deployment.dsns.items() if name != "eu-1"}
    for _ in range(2):
        await give_up_stock(deployment.dsns["eu-1"], rest)
        assert await deployment.execute("eu-1", STOCK["send_stock"], uuid4(), *sent[1:]) == []
        await apply_program([*rest.values()], PROGRAM + SCARCE)
        assert [await deployment.scarce(name) for name in ("eu", "us", "sa")] == [0, 5, 4]
    assert await deployment.execute("eu-1", "SELECT FROM stock_move") == []


async def test_a_document_that_has_identifiers_elsewhere_is_refused_where_none_is_in_force(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Where the topology is the operator's (Kubernetes), or the folder of documents was lost."""
    await deployment.set_up(eu=None)
    holders = await deployment.enrol()
    elsewhere = Deployment(tmp_path / "lost", deployment.dsns)
    with pytest.raises(ClusterError, match="eu-1 keeps identifiers that this topology has at other shards"):
        await elsewhere.set_up(eu=None, sa=None)
    assert not elsewhere.documents.topology.exists()
    assert await elsewhere.set_up(eu=None) == []
    assert await deployment.found() == holders


async def test_a_region_in_which_somebody_lives_stays(deployment: Deployment) -> None:
    await deployment.set_up(eu=None, us=None)
    await deployment.set_up(eu="draining", us=None)
    await deployment.execute(
        "eu-1", "INSERT INTO member (member_id, version, profile, enrolled_at) VALUES (1, 1, '{}', now())"
    )
    with pytest.raises(ClusterError, match="holds members"):
        await deployment.set_up(us=None)
    assert set(deployment.topology.document.regions) == {"eu", "us"}
    assert set(deployment.topology.claim_shards) == {"eu-1", "us-1"}


async def test_who_is_enrolled_just_as_a_region_goes_is_seen(deployment: Deployment) -> None:
    """By a node that has not heard that the region takes nobody any more; its commit waits for a standby."""
    await deployment.set_up(eu=None, us=None)
    await deployment.set_up(eu="draining", us=None)
    async with connection_to(deployment.dsns["eu-1"]) as node, connection_to(deployment.dsns["eu-1"]) as watcher:
        enrolment = node.transaction()
        await enrolment.start()
        await enter_slots(node, [7])
        sql = "INSERT INTO member (member_id, version, profile, enrolled_at) VALUES ($1, 1, '{}', now())"
        await node.execute(sql, new_member_id(1, 7))
        going = asyncio.create_task(deployment.set_up(us=None))
        while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not going.done()
        await enrolment.commit()
        with pytest.raises(ClusterError, match="holds members"):
            await going
    assert set(deployment.topology.document.regions) == {"eu", "us"}


async def test_nobody_is_enrolled_in_a_region_that_goes_by_who_has_not_heard_of_it(deployment: Deployment) -> None:
    await deployment.set_up(eu=None, us=None)
    await deployment.set_up(eu="draining", us=None)
    await deployment.set_up(us=None)
    async with connection_to(deployment.dsns["eu-1"]) as node:
        with pytest.raises(SlotGivenError):
            await enter_slots(node, [7])
        await deployment.set_up(eu="joining", us=None)
        await enter_slots(node, [7])


async def test_a_region_that_stays_after_all_claims_receipts_and_takes_members_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its removal was cut short, and the next document has it again."""
    await deployment.set_up(eu=None, us=None)
    await deployment.set_up(eu="draining", us=None)
    monkeypatch.setattr(transition, "give_up_stock", None)
    with pytest.raises(TypeError):
        await deployment.set_up(us=None)
    assert await deployment.execute("eu-1", "SELECT FROM receipt_fence")
    await deployment.set_up(eu="active", us=None)
    assert await deployment.execute("eu-1", "SELECT FROM receipt_fence") == []
    async with connection_to(deployment.dsns["eu-1"]) as node:
        await enter_slots(node, [7])


async def test_two_do_not_set_up_at_once(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "wanted.json"
    file.write_text(deployment.document(eu=None).model_dump_json())
    with alone(deployment.documents.setup_lock), pytest.raises(typer.Exit):
        await asyncio.to_thread(main, file, data=tmp_path)
    assert not deployment.documents.topology.exists()


async def test_a_region_that_joins_again_has_the_receipts_claimed_for_which_it_stands_in(
    deployment: Deployment,
) -> None:
    """The region of a store is not there: others have kept its receipts while the one that stood in was gone."""
    await deployment.set_up(eu=None, us=None)
    store = next(code for code in map(str, range(99)) if deployment.topology.register_of("mars", code) == "eu-1")
    of_mars = f'[[stores]]\ncode = "{store}"\nname = "On Mars"\nregion = "mars"\n'
    await apply_program([*deployment.dsns.values()], PROGRAM + of_mars)
    await deployment.set_up(eu="draining", us=None)
    await deployment.set_up(us=None)
    assert deployment.topology.register_of("mars", store) == "us-1"
    member, today = new_member_id(2, 1), datetime.now(UTC).date()
    name, whose = ([store], ["1"], [today], ["r-1"]), ([member], [2], [uuid4()])
    await deployment.execute("us-1", STATEMENTS["claim_receipts"], *name, *whose)
    await deployment.execute("us-1", LIVES_HERE, member)
    await deployment.execute("us-1", BOUGHT, member, store)
    await deployment.set_up(us=None, eu="joining")
    await deployment.set_up(us=None, eu="active")
    assert deployment.topology.register_of("mars", store) == "eu-1"
    assert await deployment.execute("us-1", "SELECT store, region FROM unclaimed_receipt") == [(store, "mars")]


async def test_a_shard_that_goes_gives_its_claims_to_the_regions_that_are_active(deployment: Deployment) -> None:
    await deployment.set_up(eu=None, us=None, sa=None)
    holders = await deployment.enrol()
    await deployment.set_up(eu=None, us=None, sa="draining")
    kept = deployment.topology.claim_shards.count("us-1")
    assert await take_claims_from(deployment.documents, deployment.dsns, "us-1") >= kept > 0
    assert set(deployment.topology.claim_shards) == {"eu-1"}
    assert await deployment.found() == holders
    assert await take_claims_from(deployment.documents, deployment.dsns, "us-1") == 0
