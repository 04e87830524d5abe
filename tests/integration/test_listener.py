"""How a node takes connections in: on uvloop, as nodes run."""

import asyncio
import json
import sys

from service.listener import AT_ONCE
from tests.project import PROJECT

COME_AT_ONCE = 3 * AT_ONCE


async def test_who_come_at_once_are_taken_in_within_a_few_turns() -> None:
    words = (sys.executable, "-m", "tests.crowded_node", str(COME_AT_ONCE))
    node = await asyncio.create_subprocess_exec(*words, cwd=PROJECT, stdout=asyncio.subprocess.PIPE)
    found = json.loads((await node.communicate())[0])
    assert found["turns"] < COME_AT_ONCE / 4
    assert found["no_delay"]
    assert found["told"].endswith("here")
    assert not found["last"]
