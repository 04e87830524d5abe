"""The running system as the campaign sees it: its processes, its servers, and the command line that looks after it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from benchmarks.chaos_proxy import Proxy
from shard_router.server import SERVER_ERRORS
from shard_router.statement import load_statements

STATEMENTS: Final = load_statements(Path(__file__).with_name("chaos.sql"))
PRELOADED: Final = """
import sys
from functools import partial
from cluster import run
from cluster.cli import main
run.detach = partial(run.detach, program=("-c", sys.argv.pop(1), sys.argv.pop(1)))
main()
"""
"""`loyalty up --detach` whose supervisor is another program."""
SUPERVISOR: Final = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from cluster import postgres
from cluster.cli import main
nodes, servers, folder = json.loads(sys.argv.pop(1))
os.environ.update(nodes)
begin = postgres.postgres_process
def preloaded(tools, server, **given):
    spec = begin(tools, server, **given)
    file = Path(folder, spec.name)
    if not file.exists():
        file.write_text("+0\\n")
    return replace(spec, env={**spec.env, **servers, "FAKETIME_TIMESTAMP_FILE": str(file)})
if servers:
    postgres.postgres_process = preloaded
main()
"""
"""A supervisor with an environment for the nodes it starts and one for its servers, each with a file for its clock. It
is in neither itself: under libfaketime 0.9.10 its sleeps fail (EINVAL)."""
COMMAND_DEADLINE_S: Final = 180.0
READY_DEADLINE_S: Final = 150.0
LOOK_INTERVAL_S: Final = 0.5


@dataclass(slots=True)
class World:
    """One system of one region that a supervisor runs."""

    data: Path
    up: tuple[str, ...]
    """How it is brought up again when its supervisor was killed."""
    frozen: list[psutil.Process] = field(default_factory=list[psutil.Process])
    links: dict[str, list[Proxy]] = field(default_factory=dict[str, list[Proxy]])
    """Between tills and nodes, by side: `command` and `query`."""
    clock: Path | None = None
    """Where its nodes read how far their clocks are off, if they do."""
    under: Mapping[str, str] = field(default_factory=dict[str, str])
    """What they have in their environment for that."""
    server_clocks: Path | None = None
    """A folder in which each server reads the like, by its name, if they do."""
    servers_under: Mapping[str, str] = field(default_factory=dict[str, str])
    """What they have in their environment for that."""
    starts_anew: bool = False
    """It is stopped and started for the campaign's own sake, which is no fault."""

    async def loyalty(self, *words: str) -> tuple[int, str]:
        """Run the command line on this system."""
        command = (sys.executable, *self._begins(words[0]), *words, "--data", str(self.data))
        env = self.environment()
        out = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=asyncio.subprocess.STDOUT, env=env)
        try:
            async with asyncio.timeout(COMMAND_DEADLINE_S):
                output, _ = await child.communicate()
        finally:
            with suppress(ProcessLookupError):  # it has ended
                child.kill()
        return child.returncode or 0, output.decode("utf-8", "replace")

    @staticmethod
    def environment() -> dict[str, str]:
        """What a program of ours is run with: ours, without what would be settings of it."""
        return {name: value for name, value in os.environ.items() if not name.startswith("LOYALTY_")}

    def _begins(self, word: str) -> tuple[str, ...]:
        if word != "up" or not (self.under or self.servers_under):
            return ("-m", "cluster")
        told = [dict(self.under), dict(self.servers_under), str(self.server_clocks)]
        return ("-c", PRELOADED, SUPERVISOR, json.dumps(told))

    async def status(self) -> dict[str, Any]:
        """What `loyalty status --json` prints."""
        return json.loads((await self.loyalty("status", "--json"))[1])

    async def whole(self) -> None:
        """Return when everything is ready, every server too."""
        async with asyncio.timeout(READY_DEADLINE_S):
            while not self._is_whole(await self.status()):  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(LOOK_INTERVAL_S)

    @staticmethod
    def _is_whole(status: dict[str, Any]) -> bool:
        shards = [shard for region in status["regions"].values() for shard in region["shards"].values()]
        return bool(status["ready"]) and all(shard["primary"] and shard["standbys"] for shard in shards)

    async def restart(self) -> None:
        """Stop everything cleanly and bring it up again; LookupError when it does not come."""
        for words in (("down",), ("up", "--detach", *self.up)):
            code, told = await self.loyalty(*words)
            if code:
                raise LookupError(f"`loyalty {words[0]}` exits with {code}: {told}")

    async def start_anew(self) -> None:
        """The same for the campaign's own sake: return when all is whole."""
        self.starts_anew = True
        await self.restart()
        await self.whole()
        self.starts_anew = False

    async def reconcile(self) -> bool:
        """Do what is told after a restore, where the shard takes itself for restored; tells whether it did."""
        with suppress(LookupError, *SERVER_ERRORS):
            async with self.session(self.port(await self.server(standby=False))) as primary:
                if not await primary.fetchval(STATEMENTS["unreconciled"]):
                    return False
        return (await self.loyalty("reconcile"))[0] == 0

    async def timeline(self) -> int:
        """How often a server has taken over so far; 0 when nobody can tell right now."""
        with suppress(LookupError, *SERVER_ERRORS):
            async with self.session(self.port(await self.server(standby=False)), "postgres") as primary:
                return int(await primary.fetchval(STATEMENTS["timeline"]) or 0)
        return 0

    def processes(self) -> dict[str, psutil.Process]:
        """Those that run, by name."""
        run = json.loads((self.data / "run.json").read_text(encoding="utf-8"))
        found: dict[str, psutil.Process] = {}
        for name, record in run["processes"].items():
            with suppress(psutil.Error):
                if record["identity"]:
                    found[name] = psutil.Process(record["identity"]["pid"])
        return found

    def supervisor(self) -> psutil.Process:
        """The one that keeps them."""
        run = json.loads((self.data / "run.json").read_text(encoding="utf-8"))
        return psutil.Process(run["supervisor"]["pid"])

    def named(self, ending: str) -> str:
        """The first process whose name ends so."""
        return next(name for name in sorted(self.processes()) if name.endswith(ending))

    async def server(self, *, standby: bool) -> str:
        """The process name of the primary, or of a standby."""
        run = json.loads((self.data / "run.json").read_text(encoding="utf-8"))
        ports = {record["port"]: name for name, record in run["processes"].items() if "-postgres-" in name}
        for port, name in sorted(ports.items()):
            with suppress(*SERVER_ERRORS):
                async with self.session(port, "postgres") as server:
                    if await server.fetchval("SELECT pg_is_in_recovery()") is standby:
                        return name
        raise LookupError("no standby" if standby else "no primary")

    def port(self, name: str) -> int:
        """Where a process listens."""
        return json.loads((self.data / "run.json").read_text(encoding="utf-8"))["processes"][name]["port"]

    def folder(self, server: str) -> Path:
        """Where a Postgres server keeps its data."""
        shard, _, number = server.partition("-postgres-")
        return self.data / "servers" / shard / f"postgres-{number}"

    @asynccontextmanager
    async def session(self, port: int, database: str = "loyalty") -> AsyncGenerator[asyncpg.Connection]:
        """A connection of the superuser's."""
        password = (self.data / "secrets" / "postgres_superuser").read_text(encoding="utf-8").strip()
        address = f"postgresql://postgres:{password}@127.0.0.1:{port}/{database}"
        settings = {"synchronous_commit": "local"}
        connection = await asyncpg.connect(address, timeout=5, server_settings=settings)
        try:
            yield connection
        finally:
            connection.terminate()

    def freeze(self, *processes: psutil.Process) -> None:
        """Stop them as a debugger would."""
        for process in processes:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP)
                self.frozen.append(process)

    def thaw(self) -> None:
        """Let everything that was frozen go on, whoever still lives."""
        for process in self.frozen:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        self.frozen.clear()
