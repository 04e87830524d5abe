"""What a supervisor before has begun is gone on with until it is done, whatever was in the way at first."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import growth
from cluster.errors import ClusterError
from cluster.growth import Growth
from cluster.shard_leaving import ShardLeaving


@pytest.mark.parametrize("first", ["claims", "shard"])
async def test_what_could_not_be_gone_on_with_is_tried_again_and_hinders_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Newcomers wait for a shard that had given its slots."""
    done: list[str] = []
    both = asyncio.Event()

    def step(name: str) -> Any:
        tries = iter([ClusterError("not now"), None])

        async def go_on(_: object) -> None:
            if name == first and (error := next(tries)):
                raise error
            done.append(name)
            if len(done) == 2:
                both.set()

        return go_on

    monkeypatch.setattr(growth, "finish_moves", step("claims"))
    monkeypatch.setattr(ShardLeaving, "finish", step("shard"))
    monkeypatch.setattr(growth, "GO_ON_S", 0.0)
    system: Any = SimpleNamespace(plan=SimpleNamespace(data=tmp_path))
    running = asyncio.create_task(Growth(system).run())
    await asyncio.wait_for(both.wait(), 10)
    running.cancel()
    assert done[-1] == first
