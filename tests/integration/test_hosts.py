"""Hosts of tests reach each other whatever this machine does with what passes through it, and lose their network."""

import asyncio
import subprocess
import sys

import pytest

from tests.conftest import eventually
from tests.engine import free_port
from tests.hosts import Hosts, hosts

SERVE = """
import http.server, sys
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), http.server.BaseHTTPRequestHandler).serve_forever()
"""
REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"


def reaches(made: Hosts, name: str, address: str, port: int) -> bool:
    command = made.argv(name, (sys.executable, "-c", REACH, address, str(port)))
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def test_hosts_and_this_machine_reach_each_other_until_the_network_is_cut() -> None:
    with hosts("a", "b") as made:
        if made.why_not:
            pytest.skip(made.why_not)
        at, port = made.address("a"), free_port()
        server = await asyncio.create_subprocess_exec(*made.argv("a", (sys.executable, "-c", SERVE, at, str(port))))

        async def served() -> bool:
            return reaches(made, "here", at, port)

        try:
            await eventually(served)
            assert reaches(made, "b", at, port)
            made.cut("b", "a")
            assert not reaches(made, "b", at, port)
            assert reaches(made, "here", at, port)
            made.heal("b", "a")
            assert reaches(made, "b", at, port)
        finally:
            server.kill()
            await server.wait()
