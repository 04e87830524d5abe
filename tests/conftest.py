"""Fixtures for real servers, started once per worker when the first test asks; and fast tests first."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from service.log import configure_logging
from tests import container, engine
from tests.engine import PostgresServer, ValkeyServer

configure_logging("info")  # as the nodes do; structlog's own default draws every exception as a picture

ORDER = ("unit", "tidy", "system", "integration")
LONG = frozenset(
    (
        "test_cdc_rebuild",
        "test_cdc_projector",
        "test_cdc_sources",
        "test_continuity",
        "test_guard",
        "test_openapi_campaign",
    )
)
"""Files that take half a minute and more: early, so that no worker is still at one when the other has nothing left."""
FIRST = frozenset(("test_fork",))
"""Files that fork this very process: early, since uvloop, once used in it, opens files in every fork from then on."""
POLL_INTERVAL_S = 0.02


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast first, whatever order the shuffle gave, then what takes longest: two workers then end together.

    A file stays with one worker, and so do all tests of the running system. Those with a system of their own come
    before, so that there are never more than two.
    """
    tests = Path(__file__).parent

    def folder(item: pytest.Item) -> str:
        return item.path.relative_to(tests).parts[0]

    def shares(item: pytest.Item) -> bool:
        return "running" in getattr(item, "fixturenames", ())

    def rank(item: pytest.Item) -> tuple[int, bool, bool, bool]:
        place = ORDER.index(folder(item)) if folder(item) in ORDER else len(ORDER)
        return place, item.path.stem not in FIRST, shares(item), item.path.stem not in LONG

    items.sort(key=rank)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("system" if shares(item) else item.path.stem))


@pytest.fixture(scope="session")
async def postgres_server() -> AsyncGenerator[PostgresServer]:
    """A running primary without a standby."""
    start = container.container_postgres if engine.engine_name() == "containers" else engine.embedded_postgres
    async with start() as server:
        yield server


@pytest.fixture(scope="session")
async def postgres_pair() -> AsyncGenerator[PostgresServer]:
    """A running primary with a synchronous hot standby."""
    start = container.container_postgres if engine.engine_name() == "containers" else engine.embedded_postgres
    async with start(standby=True) as server:
        yield server


@pytest.fixture(scope="session")
async def valkey_server() -> AsyncGenerator[ValkeyServer]:
    """A running Valkey."""
    start = container.container_valkey if engine.engine_name() == "containers" else engine.embedded_valkey
    async with start() as server:
        yield server


@pytest.fixture
async def database(postgres_server: PostgresServer) -> AsyncGenerator[str]:
    """The DSN of a fresh migrated database."""
    url = await postgres_server.create_database()
    yield url
    await postgres_server.drop_database(url)


@dataclass(frozen=True, slots=True)
class DatabasePair:
    """One database seen on the primary and on its hot standby."""

    primary: str
    standby: str


@pytest.fixture
async def database_pair(postgres_pair: PostgresServer) -> AsyncGenerator[DatabasePair]:
    """A fresh migrated database on a primary, already visible on the standby."""
    assert postgres_pair.standby_url is not None
    primary = await postgres_pair.create_database()
    standby = engine.in_database(postgres_pair.standby_url, primary.rpartition("/")[2])
    await eventually(lambda: _connects(standby))
    yield DatabasePair(primary, standby)
    await postgres_pair.drop_database(primary)


@pytest.fixture
async def valkey_url(valkey_server: ValkeyServer) -> str:
    """The URL of an empty Valkey database."""
    return await valkey_server.fresh_url()


def so(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """A condition that awaits nothing, for `eventually`."""

    async def ask() -> bool:
        return condition()

    return ask


async def eventually(condition: Callable[[], Awaitable[bool]], *, deadline_s: float = 30.0) -> None:
    """Return when the condition holds; fail when it does not by the deadline."""
    until = asyncio.get_running_loop().time() + deadline_s
    while not await condition():
        assert asyncio.get_running_loop().time() < until, f"{condition} did not hold within {deadline_s} s"
        await asyncio.sleep(POLL_INTERVAL_S)


async def _connects(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url)
    except asyncpg.PostgresError:
        return False
    await connection.close()
    return True
