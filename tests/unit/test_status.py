"""What `loyalty status` makes of servers that are no more."""

from typing import Any

import asyncpg
import pytest

from cluster.status import ShardHealth, _ask_server

URL = "postgresql://node@127.0.0.1/loyalty"


class Dying:
    """A connection whose server is killed once it has let somebody in."""

    async def fetchval(self, _sql: str) -> Any:
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    async def close(self) -> None:
        pass


async def test_a_server_that_dies_while_it_is_asked_could_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_words: Any, **_options: Any) -> Dying:
        return Dying()

    monkeypatch.setattr(asyncpg, "connect", connect)
    health = ShardHealth()
    await _ask_server(URL, health)
    assert (health.primary, health.standbys, health.unreachable) == (None, [], [URL])
