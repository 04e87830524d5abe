"""A projector process on a real database and Valkey, as the supervisor would start it."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from service.credential import new_key
from tests.conftest import eventually
from tests.engine import as_login, as_valkey_user, free_port
from tests.project import PROJECT

START_DEADLINE_S = 240  # of CPU a JVM takes 4 s, of the clock whatever others leave it
SLOT_OF_TESTS = "projector"


@dataclass
class CdcNode:
    """One projector, which may be killed and started again."""

    folder: Path
    port: int
    key: str
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it streams."""
        await self.spawn()
        await eventually(self.streams, deadline_s=START_DEADLINE_S)

    async def spawn(self) -> None:
        with (self.folder / "cdc.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cdc",
                "--config",
                str(self.folder / "cdc.toml"),
                cwd=PROJECT,
                stdout=log,
                stderr=log,
            )

    async def end(self, number: signal.Signals) -> int:
        """Signal it and wait for its end."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(START_DEADLINE_S):
            return await self.process.wait()

    async def call(self, method: str, path: str, *, key: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key or self.key}"}
        async with aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{self.port}{path}"
            async with client.request(method, url, headers=headers) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if answer.content_type.endswith("json") else text

    async def status(self) -> dict[str, Any]:
        """Its own account of itself; empty when it does not answer."""
        try:
            _, body = await self.call("GET", "/status")
        except (aiohttp.ClientError, OSError):
            return {}
        return body

    async def streams(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.log()
        return bool((await self.status()).get("applied"))

    async def complete(self) -> bool:
        return bool((await self.status()).get("complete"))

    def log(self) -> str:
        return (self.folder / "cdc.log").read_text()


@asynccontextmanager
async def cdc_node(
    folder: Path, *, source: str, database: str, valkey: str, standby: str | None = None, **others: Any
) -> AsyncGenerator[CdcNode]:
    """A projector that is not running yet, with other settings than usual; it ends with the block."""
    node = _configured(folder, [database, *filter(None, [standby])], valkey, {"source": source, **others})
    try:
        yield node
    finally:
        if node.process and node.process.returncode is None:
            await node.end(signal.SIGKILL)


def write_topology(folder: Path, servers: list[str], valkey: str, *, epoch: int = 1) -> None:
    """Where the one shard lives, as its projector finds it."""
    servers = [as_login(server, "projector") for server in servers]
    valkey = as_valkey_user(valkey, "projector")
    topology = {
        "epoch": epoch,
        "regions": {"eu": {"number": 1, "command": [], "query": []}},
        "shards": {"eu-1": {"region": "eu", "slots": [[0, 4095]], "servers": servers, "valkey": valkey}},
    }
    (folder / "topology.json").write_text(json.dumps(topology))


def _configured(folder: Path, servers: list[str], valkey: str, others: dict[str, Any]) -> CdcNode:
    folder.mkdir(exist_ok=True)
    key, record = new_key("admin")
    write_topology(folder, servers, valkey)
    (folder / "credentials.json").write_text(json.dumps({"keys": [record.model_dump()]}))
    settings = {
        "region": "eu",
        "shard": "eu-1",
        "port": free_port(),
        "topology": str(folder / "topology.json"),
        "credentials": str(folder / "credentials.json"),
        "slot": SLOT_OF_TESTS,
        "heartbeat_interval_ms": 200,
        "rebuild_members_per_chunk": 20,
        **others,
    }
    (folder / "cdc.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return CdcNode(folder, int(settings["port"]), key)
