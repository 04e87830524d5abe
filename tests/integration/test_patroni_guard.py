"""What deploy/patroni says, held to Patroni, to Postgres and to the settings of our own servers."""

import importlib.util
import os
import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from types import ModuleType

import asyncpg
import pytest
import yaml

from cluster.postgres import SETTINGS
from tests.conftest import DatabasePair, eventually
from tests.engine import PostgresServer, skip_where_settings_are_fixed
from tests.patroni_world import DEPLOY, OF_TESTS, variables

OF_THE_NODE = {"listen_addresses", "unix_socket_directories", "shared_buffers"}


def guard() -> ModuleType:
    spec = importlib.util.spec_from_file_location("guard", DEPLOY / "guard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def setting(server: PostgresServer, **values: str) -> AsyncGenerator[asyncpg.Connection]:
    """Settings of a server while the block lasts."""
    connection = await asyncpg.connect(server.url, server_settings={"synchronous_commit": "local"})

    async def shows(wanted: dict[str, str]) -> bool:
        return {name: await connection.fetchval(f"SHOW {name}") for name in wanted} == wanted

    before = {name: await connection.fetchval(f"SHOW {name}") for name in values}
    try:
        for name, value in values.items():
            await connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
        await connection.execute("SELECT pg_reload_conf()")
        await eventually(lambda: shows(values))
        yield connection
    finally:
        for name in values:
            await connection.execute(f"ALTER SYSTEM RESET {name}")
        await connection.execute("SELECT pg_reload_conf()")
        await eventually(lambda: shows(before))
        await connection.close()


async def test_the_guard_has_decoding_wait_for_the_standby_that_acknowledges(
    postgres_pair: PostgresServer, database_pair: DatabasePair
) -> None:
    skip_where_settings_are_fixed()
    assert database_pair.primary
    look = guard().look
    assert look(postgres_pair.url) is None
    assert postgres_pair.standby_url is not None
    assert look(postgres_pair.standby_url) is None
    async with setting(postgres_pair, synchronized_standby_slots="nobody_yet"):
        assert look(postgres_pair.url) == "standby"


async def test_the_guard_changes_nothing_while_anybody_acknowledges(postgres_pair: PostgresServer) -> None:
    skip_where_settings_are_fixed()
    async with setting(postgres_pair, synchronized_standby_slots="nobody_yet", synchronous_standby_names="*"):
        assert guard().look(postgres_pair.url) is None


def test_servers_under_patroni_have_the_settings_of_our_own() -> None:
    document = yaml.safe_load((DEPLOY / "patroni.yml").read_text(encoding="utf-8"))
    dynamic = document["bootstrap"]["dcs"]
    local = document["postgresql"]["parameters"]
    given = {name: str(value) for name, value in (dynamic["postgresql"]["parameters"] | local).items()}
    embedded = {name: value for name, value in SETTINGS.items() if name not in OF_THE_NODE}
    assert {name: given.get(name) for name in embedded} == embedded
    assert given["synchronized_standby_slots"]
    assert dynamic["loop_wait"] + 2 * dynamic["retry_timeout"] <= dynamic["ttl"]
    assert document["watchdog"]["mode"] == "required"
    assert OF_TESTS["watchdog"] == {"mode": "off"}


@pytest.mark.parametrize("unit", ["loyalty-patroni.service", "loyalty-guard.service"])
def test_a_unit_starts_what_the_readme_installs(unit: str) -> None:
    text = (DEPLOY / unit).read_text(encoding="utf-8")
    installed = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for file in re.findall(r"/etc/loyalty-patroni/(\S+)", text):
        assert (DEPLOY / file).is_file()
        assert file in re.findall(r"[\w.]+", installed)


@pytest.fixture
def umask() -> Generator[None]:
    """Patroni sets it when it is imported."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_patroni_takes_the_file_and_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pytest.importorskip("patroni.config", reason="no Patroni: install the extra `patroni`")
    for name, value in variables("node.env").items():
        monkeypatch.setenv(name, value)
    taken = config.Config(str(DEPLOY / "patroni.yml"))
    assert taken["name"] in taken["bootstrap"]["dcs"]["slots"]
    assert taken["postgresql"]["authentication"]["replication"]["username"] == "loyalty_standby"
    assert taken["etcd3"]["hosts"] == ["db-a.example:2379", "db-b.example:2379", "db-c.example:2379"]
