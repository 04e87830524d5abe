"""What the guard does to a shard can be read later."""

import os
import signal

import pytest

from cluster.run_file import read_run
from tests import engine
from tests.conftest import eventually
from tests.pair_world import DEADLINE_S, SHARD, guarded_pair

pytestmark = [
    pytest.mark.skipif(engine.engine_name() != "embedded", reason="containers have no supervisor of ours"),
    pytest.mark.timeout(180),
]


async def test_a_failover_is_written_down_with_its_reason_its_time_and_who_took_over() -> None:
    async with guarded_pair() as world:
        former, (standby,) = world.pair.primary, world.pair.standbys
        os.kill(world.pid(former), signal.SIGSTOP)

        async def replaced() -> bool:
            return world.pair.primary is standby

        await eventually(replaced, deadline_s=DEADLINE_S)
        await world.whole()
        run = read_run(world.supervisor.data)
        assert run is not None
        (event,) = run.events[SHARD]
        assert (event.kind, event.server, event.why, event.primary) == (
            "failover", former.name, "it is frozen", standby.name,
        )  # fmt: skip
        assert event.took_s is not None
        assert world.said(f"{standby.name} is the primary (after ") == 1
