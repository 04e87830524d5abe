"""What a projector shows of the servers of its shard: roles, lag, slots, and who acknowledges commits."""

import asyncpg
from prometheus_client import CollectorRegistry

from cdc.servers import ServerWatch
from shard_router.topology import Shard
from tests.conftest import eventually
from tests.engine import PostgresServer, as_login, free_port, in_database, skip_where_settings_are_fixed


class Shown:
    """The figures of one look."""

    def __init__(self, servers: list[str]) -> None:
        urls = [as_login(in_database(url, "postgres"), "projector") for url in servers]
        zones = ["a", "b", "c"][: len(urls)]
        shard = Shard(region="eu", slots=[(0, 4095)], servers=urls, zones=zones, valkey="redis://none")
        self._watch = ServerWatch("eu-1", shard)
        self._registry = CollectorRegistry()
        self._registry.register(self._watch)

    async def look(self) -> dict[str, float]:
        """Zone and slot to figure: `loyalty_server_up a`, `loyalty_slot_active a watched`."""
        await self._watch.look()
        return {
            " ".join(filter(None, (sample.name, sample.labels["zone"], sample.labels.get("slot")))): sample.value
            for family in self._registry.collect()
            for sample in family.samples
        }


async def test_each_server_is_shown_in_its_role_with_its_lag_and_slots(postgres_pair: PostgresServer) -> None:
    assert postgres_pair.standby_url
    gone = f"postgresql://loyalty_projector:test@127.0.0.1:{free_port()}/postgres"
    shown = Shown([postgres_pair.url, postgres_pair.standby_url, gone])
    found = await shown.look()
    assert [found[f"loyalty_server_up {zone}"] for zone in "abc"] == [1, 1, 0]
    assert (found["loyalty_server_primary a"], found["loyalty_server_primary b"]) == (1, 0)
    assert "loyalty_server_primary c" not in found
    assert found["loyalty_server_timeline a"] == found["loyalty_server_timeline b"] == 1
    assert found["loyalty_server_synchronous_standbys a"] == 1
    assert found["loyalty_server_anybody_acknowledges a"] == 0
    assert found["loyalty_server_lag_bytes b"] >= 0
    assert "loyalty_server_lag_bytes a" not in found
    assert found["loyalty_slot_active a standby"] == 1
    assert found["loyalty_slot_lost a standby"] == 0
    assert found["loyalty_slot_room_bytes a standby"] > 0


async def test_a_standby_that_replays_no_more_is_shown_behind(postgres_pair: PostgresServer) -> None:
    assert postgres_pair.standby_url
    shown = Shown([postgres_pair.url, postgres_pair.standby_url])
    primary, standby = (
        await asyncpg.connect(postgres_pair.url),
        await asyncpg.connect(postgres_pair.standby_url),
    )
    try:
        await primary.execute("CREATE TABLE watched (number integer)")

        async def replayed() -> bool:
            return bool(await standby.fetchval("SELECT pg_last_xact_replay_timestamp() IS NOT NULL"))

        await eventually(replayed)
        await standby.execute("SELECT pg_wal_replay_pause()")
        await primary.execute("INSERT INTO watched SELECT generate_series(1, 1000)")

        async def behind() -> bool:
            found = await shown.look()
            return found["loyalty_server_lag_bytes b"] > 10_000 and found["loyalty_server_lag_seconds b"] > 0

        await eventually(behind)
    finally:
        await standby.execute("SELECT pg_wal_replay_resume()")
        await primary.execute("DROP TABLE IF EXISTS watched")
        await standby.close()
        await primary.close()


async def test_commits_that_anybody_acknowledges_are_shown(postgres_pair: PostgresServer) -> None:
    skip_where_settings_are_fixed()
    shown = Shown([postgres_pair.url])
    connection = await asyncpg.connect(postgres_pair.url)
    try:
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")

        async def told() -> bool:
            return (await shown.look())["loyalty_server_anybody_acknowledges a"] == 1

        await eventually(told)
    finally:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
