"""The whole system in dependency order: Postgres pair and Valkey per shard, then the program, then the nodes.

Shards come up in parallel; nothing of ours starts before its database has schema, slot and program. It stops the other
way round: nodes, projectors, primaries (a fast shutdown hands the last WAL to the standby), standbys, Valkey.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from cluster import postgres, valkey
from cluster.document import Documents, refuse_lost_servers, refuse_lost_topology, write_documents
from cluster.door import NAME as DOOR
from cluster.door import check_door, door_process, found_well
from cluster.errors import ClusterError, in_words
from cluster.failover import Guard
from cluster.history import History
from cluster.key import ensure_keys
from cluster.login import quicken_superuser, secure, superuser_urls
from cluster.memory import memory_bytes, share_of
from cluster.node import check_node_settings, check_source, node_process
from cluster.pair import Pair
from cluster.password import SUPERUSER, Passwords
from cluster.plan import ClusterPlan, NodePlan, RegionPlan, ShardPlan
from cluster.port import check_ports
from cluster.role import is_standby, order_by_role
from cluster.supervisor import Supervisor
from cluster.version import Numbered, read_versions
from rules.program import ProgramError, parse_program
from shard_router.login import Logins, complete
from shard_router.server import SERVER_ERRORS

REPLACED_WITHIN_S, REPLACED_LOOK_S = 60.0, 0.5
DEFAULT_PROGRAM = Path(__file__).resolve().parent.parent / "rules" / "main_street.toml"


@dataclass(slots=True)
class System:
    """A plan being brought up by a supervisor."""

    plan: ClusterPlan
    supervisor: Supervisor
    passwords: Passwords
    pairs: dict[str, Pair] = field(default_factory=dict[str, Pair])
    guards: dict[str, Guard] = field(default_factory=dict[str, Guard])
    program_version: int = 0
    _watching: dict[str, asyncio.Task[None]] = field(default_factory=dict[str, asyncio.Task[None]])
    _shards_ready: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    @property
    def documents(self) -> Documents:
        """Where the documents lie."""
        return Documents(self.plan.data)

    async def start(self) -> int:
        """Bring everything up; the program version in force. The first failure ends the rest and is raised."""
        check_source(self.plan)
        check_node_settings()
        read_program(self.plan.program)
        check_ports(self.plan.ports())
        check_door(self.plan.door)
        refuse_lost_topology(self.plan)
        refuse_lost_servers(self.plan)
        write_documents(self.plan)
        ensure_keys(self.documents)
        await together(*(self._start_shard(shard) for shard in self.plan.shards), self._start_nodes())
        self._guard_pairs()
        if self.plan.door:
            await self.supervisor.start(door_process(self.plan.data, self.plan.door))
            await found_well(self.plan.door.admin_port)
        return self.program_version

    async def stop(self) -> None:
        """Stop everything in reverse order, each group at once."""
        for task in self._watching.values():
            task.cancel()
        await asyncio.gather(*self._watching.values(), return_exceptions=True)
        servers = [pair.servers for pair in self.pairs.values()]
        nodes = [node.name for region in self.plan.regions for node in region.nodes]
        projectors = [shard.projector.name for shard in self.plan.shards]
        for group in (
            [DOOR],
            nodes,
            projectors,
            [server.name for ordered in servers for server in ordered[:1]],
            [server.name for ordered in servers for server in ordered[1:]],
            [_valkey_name(shard) for shard in self.plan.shards],
        ):
            await self.supervisor.stop(group)

    def region(self, name: str) -> RegionPlan:
        """The plan of a region; ClusterError when there is none."""
        for region in self.plan.regions:
            if region.name == name:
                return region
        raise ClusterError(f"there is no region {name}")

    async def primary(self, shard: ShardPlan) -> str:
        """The address of a shard's primary, for its owner; ClusterError when none takes writes."""
        return await self._primary(shard, self.documents.logins())

    async def start_data(self, region: RegionPlan) -> None:
        """Bring up the servers and the Valkeys of a region, or of shards of one, that the topology has not yet."""
        work = [start(shard) for shard in region.shards for start in (self._start_database, self._start_valkey)]
        await together(*work)

    async def start_nodes_of(self, region: RegionPlan) -> None:
        """Bring up those projectors and nodes of a region that do not run, its data being up, and guard its servers."""
        missing = [node for node in _all_nodes(region) if node.name not in self.supervisor.kept]
        try:
            await together(*(self._start_node(node) for node in missing))
        except BaseException:
            await self.supervisor.stop([node.name for node in missing])
            raise
        self._guard_pairs()

    async def stop_nodes_of(self, region: RegionPlan) -> None:
        """Stop the nodes and projectors of a region: they finish what they have."""
        await self.supervisor.stop([node.name for node in _all_nodes(region)])

    async def stop_data(self, region: RegionPlan) -> None:
        """Stop the servers and Valkeys of a region that the topology has not, or no more, and forget its processes."""
        for shard in region.shards:
            if guarding := self._watching.pop(shard.name, None):
                guarding.cancel()
                await asyncio.gather(guarding, return_exceptions=True)
            self.guards.pop(shard.name, None)
            pair = self.pairs.pop(shard.name, None)
            servers = [server.name for server in pair.servers] if pair else []
            for group in (servers[:1], servers[1:], [_valkey_name(shard)]):
                await self.supervisor.stop(group)
        self.supervisor.forget(region.ports().values())

    async def _start_node(self, node: NodePlan) -> None:
        await self.supervisor.start(node_process(self.plan, node))

    async def _start_shard(self, shard: ShardPlan) -> None:
        await together(self._start_database(shard), self._start_valkey(shard))
        self._shards_ready.release()
        # Not with the other nodes: its JVM takes longest, and it needs no program.
        await self._start_node(shard.projector)

    async def _start_nodes(self) -> None:
        for _ in self.plan.shards:
            await self._shards_ready.acquire()
        await self._refuse_stray_claims()
        self.program_version = await self._apply_program()
        await self._respell()
        await together(*(self._start_node(node) for region in self.plan.regions for node in region.nodes))

    async def _start_valkey(self, shard: ShardPlan) -> None:
        url = complete(shard.valkey_url, self.documents.logins().valkey)
        if shard.valkey_port is None:
            if reason := await valkey.ping(url):
                raise ClusterError(f"{shard.name}: the configured Valkey {shard.valkey_url} does not answer: {reason}")
            return
        name = _valkey_name(shard)
        tools = valkey.find_tools(self.plan.valkey, self.plan.data)
        folder = shard.folder / "valkey"
        valkey.configure(tools, folder, port=shard.valkey_port, acl=valkey.access_list(self.passwords))
        log = self.documents.log(name)
        await self.supervisor.start(valkey.valkey_process(tools, folder, name=name, url=url, log=log))

    async def _start_database(self, shard: ShardPlan) -> None:
        from command.migrate import create_slot, migrate  # noqa: PLC0415 - heavy, and only a start needs it

        if shard.servers:
            await self._start_servers(shard)

        async def prepare() -> None:
            await migrate(await self._primary(shard, self.documents.logins()))
            await create_slot(await self._primary(shard, self.documents.projector()))

        self.supervisor.note(f"{shard.name}-schema", "migrating")
        try:
            await prepare()
        except asyncpg.DataCorruptedError:  # the guard finds that too, and has a standby take the primary's place
            self._guard(shard)
            await self._replaced(shard, prepare)
        self.supervisor.note(f"{shard.name}-schema", "ready")

    async def _replaced(self, shard: ShardPlan, prepare: Callable[[], Awaitable[None]]) -> None:
        """Prepare a shard whose primary has pages that nobody can read, once a standby has taken its place."""
        until = time.monotonic() + REPLACED_WITHIN_S
        while True:
            await asyncio.sleep(REPLACED_LOOK_S)
            try:
                return await prepare()
            except (ClusterError, *SERVER_ERRORS) as error:
                if time.monotonic() > until:
                    words = f"{shard.name}: its pages are damaged, and no standby took its primary's place"
                    raise ClusterError(f"{words}: {in_words(error)}") from error

    async def _start_servers(self, shard: ShardPlan) -> None:
        tools = postgres.find_tools(self.plan.pg_bin, self.plan.data)
        ordered = list(order_by_role(shard.servers))
        archive = self.plan.archive / shard.name if self.plan.archive else None
        share = share_of(memory_bytes(), sum(len(one.servers) for one in self.plan.shards))
        pair = Pair(shard.name, ordered, tools, self.passwords, self.documents.log, self.supervisor, archive, share)
        self.pairs[shard.name] = pair
        self.supervisor.note(pair.primary.name, "preparing")
        await postgres.create_primary(tools, pair.primary, self.passwords[SUPERUSER])
        if is_standby(pair.primary):
            history = History(self.supervisor, shard.name)
            lost = next(server.name for server in pair.servers if not server.folder.exists())
            history.begin("failover", lost, "its data were gone at the start", ": a standby takes its place")
            await pair.outlive()
            history.ended(pair.primary.name)
        else:
            await pair.run_primary()
        url = await secure_primary([postgres.server_address(pair.primary)], self.passwords, name=shard.name)
        await quicken_superuser(url, self.passwords[SUPERUSER])
        if pair.standbys:
            await postgres.keep_for_standby(url, *(standby.standby for standby in pair.standbys))
            await together(*(pair.copy(standby) for standby in pair.standbys))

    def _guard_pairs(self) -> None:
        """Watch every pair from now on: before, a failure of a start is the start's own."""
        for shard in self.plan.shards:
            self._guard(shard)

    def _guard(self, shard: ShardPlan) -> None:
        pair = self.pairs.get(shard.name)
        if pair and pair.standbys and shard.name not in self.guards:
            guard = self.guards[shard.name] = Guard(pair, self.supervisor, f"{shard.name}-cdc")
            self._watching[shard.name] = asyncio.create_task(guard.run(), name=f"guard {shard.name}")

    async def _primary(self, shard: ShardPlan, logins: Logins) -> str:
        return await find_primary([complete(url, logins.postgres) for url in shard.server_urls], name=shard.name)

    async def _apply_program(self) -> int:
        urls = [await self._primary(shard, self.documents.logins()) for shard in self.plan.shards]
        version = await ensure_program(urls, self.plan.program)
        self.supervisor.note("program", f"ready (version {version})")
        return version

    async def _refuse_stray_claims(self) -> None:
        from cluster.claims import refuse_stray_claims  # noqa: PLC0415 - heavy, and only a start needs it

        primaries = {shard.name: await self._primary(shard, self.documents.logins()) for shard in self.plan.shards}
        await refuse_stray_claims(self.documents, primaries)

    async def _respell(self) -> None:
        from cluster.respell import lines_of, respell_system  # noqa: PLC0415 - heavy, and only a start needs it

        told = await respell_system(self.documents.topology, once=True)
        if told and (told.changed or told.collisions):
            self.supervisor.note("identifiers", f"ready ({'; '.join(lines_of(told))})")


async def ensure_program(urls: list[str], path: Path | None) -> int:
    """Apply the program given, else the newest there is (to a shard that is new), else the default."""
    held = [await _versions(url) for url in urls]
    newest = [max((version.number for version in one), default=0) for one in held]
    if path is None and all(newest):
        return max((version.number for one in held for version in one if version.running), default=max(newest))
    return await _apply(urls, path, known=urls[newest.index(max(newest))] if any(newest) else None)


async def apply_again(urls: list[str]) -> None:
    """Apply what is in force once more: the rewards' stock is shared out anew, to these shards alone."""
    from command.program import apply_program, newest_source  # noqa: PLC0415 - heavy, and few need it

    if found := await newest_source(urls[0]):
        await apply_program(urls, found[1])


async def _apply(urls: list[str], path: Path | None, *, known: str | None) -> int:
    """Apply the program given, else the newest of the server that has one, else the default."""
    from command.program import (  # noqa: PLC0415 - heavy, and only a start needs it
        ApplyUnderWayError,
        apply_program,
        newest_source,
    )

    found = await newest_source(known) if path is None and known else None
    try:
        return await apply_program(urls, found[1] if found else read_program(path))
    except ApplyUnderWayError as error:
        raise ClusterError(str(error)) from error


def read_program(path: Path | None) -> str:
    """The text of a program file (None: the default program); ClusterError when it is none."""
    file = path or DEFAULT_PROGRAM
    try:
        text = file.read_text(encoding="utf-8")
        parse_program(text)
    except (OSError, ProgramError) as error:
        raise ClusterError(f"the program {file} cannot be used: {in_words(error)}") from error
    return text


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run all at once; the first failure cancels the others and is raised itself, not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def secure_primary(addresses: Sequence[str], passwords: Passwords, *, name: str) -> str:
    """Make the logins of a shard's primary what they should be (see login.py); its superuser's address."""
    candidates = [url for one in addresses for url in superuser_urls(one, passwords)]
    try:
        return await secure(await find_primary(candidates, name=name), passwords)
    except ClusterError as error:
        if "password authentication failed" not in str(error):
            raise
        raise ClusterError(f"{error}\nPut your copy of the file {SUPERUSER} back among the passwords") from error


async def find_primary(urls: Sequence[str], *, name: str) -> str:
    """Which of a shard's addresses takes writes now; ClusterError with every server's words when none does."""
    reasons: list[str] = []
    for url in urls:
        try:
            connection = await asyncpg.connect(url, timeout=postgres.CONNECT_TIMEOUT_S)
        except SERVER_ERRORS as error:
            reasons.append(f"  {url.rpartition('@')[2]}: {in_words(error)}")
            continue
        try:
            if not await connection.fetchval(postgres.STATEMENTS["is_standby"]):
                return url
            reasons.append(f"  {url.rpartition('@')[2]}: is a standby")
        finally:
            await connection.close()
    raise ClusterError(f"{name}: no Postgres server takes writes:\n" + "\n".join(reasons))


async def _versions(url: str) -> list[Numbered]:
    connection = await asyncpg.connect(url, timeout=postgres.CONNECT_TIMEOUT_S)
    try:
        return await read_versions(connection)
    finally:
        await connection.close()


def _valkey_name(shard: ShardPlan) -> str:
    return f"{shard.name}-valkey"


def _all_nodes(region: RegionPlan) -> list[NodePlan]:
    return [*(shard.projector for shard in region.shards), *region.nodes]
