"""`verify` finds nothing in a small world where nothing is wrong, and looks at every promise there."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.engine import PostgresServer, ValkeyServer
from tests.verify_world import World, prepared_world


@pytest.fixture
async def world(postgres_server: PostgresServer, valkey_server: ValkeyServer, tmp_path: Path) -> AsyncGenerator[World]:
    async with prepared_world(postgres_server, valkey_server, tmp_path) as prepared:
        yield prepared


async def test_nothing_is_wrong_and_every_promise_was_looked_at(world: World) -> None:
    findings = await world.verify()
    assert [(one.check, one.examples) for one in findings if not one.ok] == []
    checked: dict[str, int] = {}
    for one in findings:
        checked[one.check] = checked.get(one.check, 0) + one.checked
    assert {check for check, count in checked.items() if not count} == set()
