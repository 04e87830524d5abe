"""The logins of a Postgres server: made and mended at every start by its superuser, whom nothing else uses.

A server of an older version has one login for all, the superuser `loyalty`. Its superuser gets the name `postgres`,
and what it held becomes the owner's.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import asyncpg

from cluster.password import SUPERUSER, Passwords
from shard_router.login import POSTGRES_USERS
from shard_router.statement import load_statements

SUPERUSER_NAME: Final = "postgres"
UPGRADE_NAME: Final = "loyalty_upgrade"
REPLICATES: Final = {"projector", "standby"}
CONNECT_TIMEOUT_S: Final = 3
STATEMENTS: Final = load_statements(Path(__file__).with_name("login.sql"))


def address(url: str, user: str, password: str, database: str) -> str:
    """The same server, as this user, in this database."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}", path=f"/{database}").geturl()


def superuser_urls(url: str, passwords: Passwords) -> list[str]:
    """How the superuser of a server may have to be addressed: by its name, or by the one it had before."""
    names = (SUPERUSER_NAME, POSTGRES_USERS["owner"])
    return [address(url, name, passwords[SUPERUSER], "postgres") for name in names]


async def secure(url: str, passwords: Passwords) -> str:
    """Make logins and database of a primary what they should be. May be called again; `url` is a superuser's.

    Answers the superuser's address from then on.
    """
    if urlsplit(url).username != SUPERUSER_NAME:
        await _rename_superuser(url, passwords[SUPERUSER])
    url = address(url, SUPERUSER_NAME, passwords[SUPERUSER], "postgres")
    async with _session(url) as server:
        await server.execute(STATEMENTS["upgrade_end"])
        for role, user in POSTGRES_USERS.items():
            await _set_login(server, user, passwords[f"postgres_{role}"], replicates=role in REPLICATES)
        await server.execute(STATEMENTS["grant_watching"])
        await server.execute(STATEMENTS["quiet_slot_sync"])
        if await server.fetchval(STATEMENTS["database_exists"]) is None:
            await server.execute(STATEMENTS["create_database"])
        await server.execute(STATEMENTS["own_database"])
        await server.execute(STATEMENTS["admit_logins"])
    async with _session(address(url, SUPERUSER_NAME, passwords[SUPERUSER], "loyalty")) as database:
        await database.execute(STATEMENTS["own_tables"])
    return url


async def quicken_superuser(url: str, password: str) -> None:
    """Make it cheap to prove one knows the superuser's password, which is drawn by chance; `url` is the superuser's."""
    async with _session(url) as server:
        await server.execute(await server.fetchval(STATEMENTS["quicken_superuser"], password))


async def _rename_superuser(url: str, password: str) -> None:
    async with _session(url) as server:
        if not await server.fetchval(STATEMENTS["role_exists"], UPGRADE_NAME):
            await server.execute(STATEMENTS["upgrade_begin"])
        await server.execute(await server.fetchval(STATEMENTS["upgrade_password"], password))
    async with _session(address(url, UPGRADE_NAME, password, "postgres")) as server:
        await server.execute(STATEMENTS["upgrade_rename"])


async def _set_login(server: Any, user: str, password: str, *, replicates: bool) -> None:
    if not await server.fetchval(STATEMENTS["role_exists"], user):
        await server.execute(await server.fetchval(STATEMENTS["create_login"], user))
    await server.execute(await server.fetchval(STATEMENTS["set_login"], user, replicates, password))


@asynccontextmanager
async def _session(url: str) -> AsyncGenerator[Any]:
    """Commits in it wait for no standby: there may be none yet."""
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings={"synchronous_commit": "local"})
    try:
        yield connection
    finally:
        await connection.close()
