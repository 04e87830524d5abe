"""Three servers under their guard: what befalls a second one while the first is being mended."""

import os
import shutil
import signal

import psutil
import pytest

from tests import engine
from tests.conftest import eventually, so
from tests.long import long
from tests.pair_world import DEADLINE_S, guarded_pair

pytestmark = [
    pytest.mark.skipif(engine.engine_name() != "embedded", reason="containers have no supervisor of ours"),
    pytest.mark.timeout(180),
]


def copying() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if one.name() == "pg_basebackup"]


@long
async def test_a_standby_that_hangs_is_started_anew_while_the_other_is_copied() -> None:
    """Commits wait for either of them, and the one that is copied may be so for hours."""
    async with guarded_pair(standbys=2) as world:
        await world.whole()
        lost, frozen = world.pair.standbys

        shutil.rmtree(lost.folder)
        await eventually(so(lambda: bool(copying())), deadline_s=DEADLINE_S)
        (copy,) = copying()
        copy.suspend()
        os.kill(world.pid(frozen), signal.SIGSTOP)
        await eventually(so(lambda: world.said("it is frozen: started anew") == 1), deadline_s=DEADLINE_S)
        assert copy.is_running()
        copy.resume()
        await world.whole()
