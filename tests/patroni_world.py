"""A shard under real Patroni and real etcd on one machine: deploy/patroni as it is, with other addresses in its *.env.

Where network namespaces can be had each server has one, and the three etcd share one, so that networks may part.
"""

import asyncio
import importlib.util
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from cluster import postgres
from cluster.document import Documents
from cluster.login import SUPERUSER_NAME
from cluster.os_user import Account, choose_account
from cluster.process import ProcessSpec, spawn
from cluster.setup import prepare
from shard_router.server import SERVER_ERRORS
from shard_router.topology import TopologyDocument
from tests.conftest import eventually
from tests.engine import PASSWORD, PASSWORDS, engine_name, free_port, server_folder
from tests.hosts import Hosts, hosts

DEPLOY = Path(__file__).parents[1] / "deploy" / "patroni"
ZONES = ("zone_a", "zone_b", "zone_c")
ETCD = "etcd"
SLOT = "loyalty_cdc"
DEADLINE_S = 120.0
# A test machine has no watchdog, and throw-away data need no crash safety.
OF_TESTS = {"watchdog": {"mode": "off"}, "postgresql": {"parameters": {"fsync": "off", "shared_buffers": "32MB"}}}


def need_patroni() -> None:
    """Skip, with the reason, where this engine was not asked for or cannot be had."""
    if engine_name() != "patroni":
        pytest.skip("minutes of real failovers: make test-patroni (LOYALTY_TEST_ENGINE=patroni)")
    if shutil.which("etcd") is None:
        pytest.skip("no etcd on the PATH (Debian: apt install etcd-server)")
    if importlib.util.find_spec("patroni") is None:
        pytest.skip("no Patroni: install the extra `patroni`")


def variables(name: str) -> dict[str, str]:
    """What a file of deploy/patroni sets in the environment."""
    lines = (DEPLOY / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


async def silent() -> str | None:
    return None


@dataclass
class Member:
    """One node: Patroni with the Postgres it starts, and the guard beside them."""

    name: str
    folder: Path
    port: int
    rest: int
    account: Account | None
    environment: dict[str, str]
    hosts: Hosts
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict[str, asyncio.subprocess.Process])

    @property
    def data(self) -> Path:
        return self.folder / "pg"

    def url(self, user: str = SUPERUSER_NAME, database: str = "postgres") -> str:
        return f"postgresql://{user}:{PASSWORD}@{self.hosts.address(self.name)}:{self.port}/{database}"

    async def start(self, *names: str) -> None:
        commands = {
            "patroni": ("-m", "patroni", str(self.folder / "config")),
            "guard": (str(DEPLOY / "guard.py"),),
        }
        for name in names or commands:
            spec = self.spec(name, (sys.executable, *commands[name]))
            self.running[name] = await spawn(spec)

    def spec(self, name: str, argv: tuple[str, ...]) -> ProcessSpec:
        log = self.folder.parent / f"{self.name}-{name}.log"
        account = self.account
        if self.name in self.hosts.namespaces and account is not None:  # root enters, then the account works there
            within = replace(account, setpriv=shutil.which("setpriv"))
            argv, account = self.hosts.argv(self.name, within.argv(argv, signal.SIGKILL)), None
        return ProcessSpec(name=name, argv=argv, log=log, probe=silent, env=self.environment, account=account)

    def server(self) -> list[int]:
        """The postmaster with all its processes; it and they may have lost each other."""
        found: list[int] = []
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.Error, OSError):
                if process.info["name"] == "postgres" and Path(process.cwd()) == self.data:
                    found.append(process.pid)
        return found

    def postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def signal(self, number: signal.Signals, pids: Iterable[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill(self) -> None:
        """The whole node at once, as when its power goes."""
        parts = [one.pid for one in self.running.values() if one.returncode is None]
        self.signal(signal.SIGKILL, [*parts, *self.server()])
        for one in self.running.values():
            await one.wait()
        self.signal(signal.SIGKILL, self.server())  # what was started in between


@dataclass
class Shard:
    """Three members, and what they say of each other."""

    folder: Path
    members: dict[str, Member]
    session: aiohttp.ClientSession
    etcd: "Etcd"
    hosts: Hosts

    def topology(self) -> TopologyDocument:
        """The shard as an operator writes it down: users without passwords."""
        servers = [
            f"postgresql://loyalty@{self.hosts.address(member.name)}:{member.port}/loyalty"
            for member in self.members.values()
        ]
        home = {"region": "eu", "slots": [[0, 4095]], "servers": servers, "valkey": "redis://none"}
        document = {"epoch": 1, "regions": {"eu": {"number": 1, "command": [], "query": []}}, "shards": {"eu-1": home}}
        return TopologyDocument.model_validate(document)

    def documents(self) -> Documents:
        """The operator's data folder, with every password."""
        documents = Documents(self.folder / "documents")
        documents.secrets.mkdir(parents=True)
        for name, password in PASSWORDS.items():
            (documents.secrets / name).write_text(password)
        return documents

    async def told(self) -> list[dict[str, Any]]:
        """What whoever answers says of all members."""
        for member in self.members.values():
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                url = f"http://{self.hosts.address(member.name)}:{member.rest}/cluster"
                async with self.session.get(url, timeout=aiohttp.ClientTimeout(1)) as answer:
                    return (await answer.json())["members"]
        return []

    async def leader(self) -> Member:
        """The member that leads by now; waits for one."""
        found: list[str] = []

        async def led() -> bool:
            found[:] = [one["name"] for one in await self.told() if one["role"] == "leader"]
            return len(found) == 1

        await eventually(led, deadline_s=DEADLINE_S)
        return self.members[found[0]]

    async def others(self) -> list[Member]:
        leader = await self.leader()
        return [member for member in self.members.values() if member is not leader]

    async def whole(self) -> None:
        """Return when two standbys may acknowledge, and have copies of the projector's slot where there is one."""

        async def complete() -> bool:
            told = await self.told()
            standbys = [one for one in told if one["role"] == "quorum_standby" and one["state"] == "streaming"]
            return len(standbys) == 2 and sum(one["role"] == "leader" for one in told) == 1

        await eventually(complete, deadline_s=DEADLINE_S)

    async def ask(self, member: Member, query: str) -> Any:
        """One value of a member, None when it does not answer in time."""
        with suppress(*SERVER_ERRORS):
            async with asyncio.timeout(3):
                connection = await asyncpg.connect(member.url(), timeout=2)
                try:
                    return await connection.fetchval(query)
                finally:
                    connection.terminate()
        return None

    async def copied(self) -> None:
        """Return when both standbys have a copy of the projector's slot that could go on."""

        async def both() -> bool:
            query = f"SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = '{SLOT}'"  # noqa: S608
            return all([await self.ask(member, query) for member in await self.others()])

        await eventually(both, deadline_s=DEADLINE_S)

    async def switch_over(self) -> None:
        """As an operator does."""
        leader = await self.leader()
        (candidate, *_) = await self.others()
        control = self.folder / "patronictl.yml"
        control.write_text(
            json.dumps({"scope": leader.environment["PATRONI_SCOPE"], "etcd3": {"hosts": self.etcd.addresses}})
        )
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from patroni.ctl import ctl; ctl()", "-c", str(control), "switchover", "--force"),
            *("--leader", leader.name, "--candidate", candidate.name),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await child.communicate()
        assert child.returncode == 0, said.decode()
        assert (await self.leader()).name == candidate.name, said.decode()


@dataclass
class Etcd:
    """Three etcd, of which each may be killed and started again."""

    specs: dict[str, ProcessSpec]
    addresses: list[str]
    running: dict[str, asyncio.subprocess.Process] = field(default_factory=dict[str, asyncio.subprocess.Process])

    async def start(self, *names: str) -> None:
        for name in names or self.specs:
            self.running[name] = await spawn(self.specs[name])

    async def kill(self, *names: str) -> None:
        for name in names or self.specs:
            self.running[name].kill()
            await self.running[name].wait()


@asynccontextmanager
async def etcd(folder: Path, machines: Hosts) -> AsyncGenerator[Etcd]:
    """Three etcd by etcd.env."""
    program = shutil.which("etcd")
    assert program is not None
    names = ("a", "b", "c")
    place = machines.address(ETCD)
    clients, peers = ({name: f"http://{place}:{free_port()}" for name in names} for _ in range(2))
    given = variables("etcd.env")
    async with AsyncExitStack() as stack:
        made = Etcd({}, [address.removeprefix("http://") for address in clients.values()])
        for name in names:
            own = {
                "ETCD_NAME": name,
                "ETCD_DATA_DIR": str(folder / f"etcd-{name}"),
                "ETCD_LISTEN_CLIENT_URLS": clients[name],
                "ETCD_ADVERTISE_CLIENT_URLS": clients[name],
                "ETCD_LISTEN_PEER_URLS": peers[name],
                "ETCD_INITIAL_ADVERTISE_PEER_URLS": peers[name],
                "ETCD_INITIAL_CLUSTER": ",".join(f"{one}={peers[one]}" for one in names),
            }
            assert own.keys() <= given.keys()
            log = folder / f"etcd-{name}.log"
            env = {"PATH": os.environ["PATH"], "ETCD_UNSUPPORTED_ARCH": os.uname().machine} | given | own
            argv = machines.argv(ETCD, (program,))
            made.specs[name] = ProcessSpec(name=f"etcd-{name}", argv=argv, log=log, probe=silent, env=env)
        stack.push_async_callback(made.kill)
        await made.start()
        yield made


def make_member(folder: Path, name: str, keepers: Etcd, tools: postgres.PostgresTools, machines: Hosts) -> Member:
    """A node's folders and settings: patroni.yml as it is, node.env with this machine's addresses."""
    place, port, rest, at = folder / name, free_port(), free_port(), machines.address(name)
    postgres.make_folder(tools, place)
    config = place / "config"
    config.mkdir()
    (config / "1-patroni.yml").symlink_to(DEPLOY / "patroni.yml")
    (config / "2-tests.yml").write_text(json.dumps(OF_TESTS))
    own = {
        "PATRONI_NAME": name,
        "PATRONI_ETCD3_HOSTS": ",".join(shlex.quote(host) for host in keepers.addresses),
        "PATRONI_RESTAPI_LISTEN": f"{at}:{rest}",
        "PATRONI_RESTAPI_CONNECT_ADDRESS": f"{at}:{rest}",
        "PATRONI_POSTGRESQL_LISTEN": f"{at}:{port}",
        "PATRONI_POSTGRESQL_CONNECT_ADDRESS": f"{at}:{port}",
        "PATRONI_POSTGRESQL_DATA_DIR": str(place / "pg"),
        "PATRONI_POSTGRESQL_BIN_DIR": str(tools.folder),
        "PATRONI_POSTGRESQL_PGPASS": str(place / "pgpass"),
        "PATRONI_SUPERUSER_PASSWORD": PASSWORD,
        "PATRONI_REPLICATION_PASSWORD": PASSWORD,
    }
    given = variables("node.env")
    assert own.keys() <= given.keys()
    env = postgres.server_environment() | given | own
    account = choose_account(place, Path(sys.executable))
    if account is not None:
        account.own(config)
    return Member(name, place, port, rest, account, env, machines)


@asynccontextmanager
async def patroni_shard() -> AsyncGenerator[Shard]:
    """A shard that is whole, with logins, tables and the projector's slot."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(server_folder())
        machines = stack.enter_context(hosts(*ZONES, ETCD))
        keepers = await stack.enter_async_context(etcd(folder, machines))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        tools = postgres.find_tools(None, folder)
        members = {name: make_member(folder, name, keepers, tools, machines) for name in ZONES}
        shard = Shard(folder, members, session, keepers, machines)
        for member in members.values():
            stack.push_async_callback(member.kill)
            await member.start()
        await shard.whole()
        await prepare(shard.topology(), None, shard.documents(), PASSWORDS, keeps_standby=False)
        yield shard
