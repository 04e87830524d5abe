"""What a projector shows of the servers of its shard: roles, lag, slots, and who acknowledges commits."""

import os
import signal
from typing import Self

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from cdc import servers
from cdc.servers import ServerWatch
from cluster import postgres
from cluster.login import SUPERUSER_NAME, address, secure
from cluster.plan import ServerPlan
from shard_router.server import connection_to
from shard_router.topology import Shard
from tests.conftest import eventually
from tests.engine import (
    FAST,
    PASSWORD,
    PASSWORDS,
    PostgresServer,
    as_login,
    free_port,
    in_database,
    running,
    server_folder,
    skip_where_settings_are_fixed,
)
from tests.sql import fetch


class Shown:
    """The figures of one look."""

    def __init__(self, addresses: list[str]) -> None:
        urls = [as_login(in_database(url, "postgres"), "projector") for url in addresses]
        zones = ["a", "b", "c"][: len(urls)]
        shard = Shard(region="eu", slots=[(0, 4095)], servers=urls, zones=zones, valkey="redis://none")
        self._watch = ServerWatch("eu-1", shard, "projector")
        self._registry = CollectorRegistry()
        self._registry.register(self._watch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._watch.close()

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
    with Shown([postgres_pair.url, postgres_pair.standby_url, gone]) as shown:
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


async def test_a_server_that_ends_the_connection_within_a_statement_is_shown_as_away(
    postgres_pair: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg tells that by an error of its own, neither one of Postgres nor one of its interface."""

    async def ended(*_: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    with Shown([postgres_pair.url]) as shown:
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, "fetchrow", ended)
            assert (await shown.look())["loyalty_server_up a"] == 0
        assert (await shown.look())["loyalty_server_up a"] == 1


async def sessions(server: PostgresServer) -> set[int]:
    """The projector's sessions of a server that look at it."""
    async with connection_to(server.url) as connection:
        rows = await connection.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'loyalty cdc'")
        return {row["pid"] for row in rows}


async def test_a_server_is_asked_by_the_same_session_until_that_is_old_or_ended(
    postgres_pair: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Shown([postgres_pair.url]) as shown:
        others = await sessions(postgres_pair)
        await shown.look()
        first = await sessions(postgres_pair) - others
        await shown.look()
        assert await sessions(postgres_pair) - others == first
        async with connection_to(postgres_pair.url) as superuser:
            await superuser.execute("SELECT pg_terminate_backend($1, 5000)", first.pop())
        monkeypatch.setattr(servers, "KEPT_S", 0.0)
        assert (await shown.look())["loyalty_server_up a"] == 1
        second = await sessions(postgres_pair) - others
        assert (await shown.look())["loyalty_server_up a"] == 1

        async def replaced() -> bool:
            return not second & await sessions(postgres_pair)

        await eventually(replaced)


async def test_a_session_that_falls_silent_is_not_asked_again(
    postgres_pair: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_where_settings_are_fixed()
    others = await sessions(postgres_pair)
    with Shown([postgres_pair.url]) as shown:
        await shown.look()
        (silent,) = await sessions(postgres_pair) - others
        os.kill(silent, signal.SIGSTOP)
        try:
            with monkeypatch.context() as patched:
                patched.setattr(servers, "ASK_TIMEOUT_S", 0.2)
                assert (await shown.look())["loyalty_server_up a"] == 0
            assert (await shown.look())["loyalty_server_up a"] == 1
        finally:
            os.kill(silent, signal.SIGCONT)


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
        shown.close()
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
        shown.close()
        await connection.close()


async def test_a_failover_slot_of_a_former_life_is_dropped_on_a_standby_and_stays_on_a_primary() -> None:
    """As after a failover by an engine that leaves it: the server made it when it was the primary itself."""
    with server_folder() as folder:
        tools = postgres.find_tools(None, folder)
        server = ServerPlan(name="former", folder=folder / "former", port=free_port())
        url = address(postgres.server_address(server), SUPERUSER_NAME, PASSWORD, "postgres")
        spec = postgres.postgres_process(tools, server, password=PASSWORD, log=folder / "log")
        settings = FAST | postgres.primary_settings(with_standby=False)
        await postgres.create_primary(tools, server, PASSWORD)
        postgres.configure(tools, server, settings)
        async with running(spec):
            await secure(url, PASSWORDS)
            await fetch(url, "SELECT pg_create_logical_replication_slot('cdc', 'pgoutput', false, false, true)")
            with Shown([url]) as shown:
                assert (await shown.look())["loyalty_slot_active a cdc"] == 0
        postgres.mark_standby(tools, server.folder)
        gone = ServerPlan(name="gone", folder=folder / "gone", port=free_port())
        postgres.configure(tools, server, settings | postgres.standby_settings(gone, PASSWORD))
        async with running(spec):
            assert len(await fetch(url, "SELECT 1 FROM pg_replication_slots")) == 1
            with Shown([url]) as shown:
                assert (await shown.look())["loyalty_server_primary a"] == 0
            assert not await fetch(url, "SELECT 1 FROM pg_replication_slots")
