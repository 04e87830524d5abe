"""Each login may do its work and nothing else, and a server of an older version gets the same ones."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from cluster import postgres
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.login import SUPERUSER_NAME, address, quicken_superuser, secure, superuser_urls
from cluster.password import SUPERUSER
from cluster.plan import ServerPlan
from cluster.setup import prepare
from cluster.system import find_primary, secure_primary
from command.migrate import create_slot, migrate
from shard_router.login import POSTGRES_USERS, PostgresRole, complete, complete_as_it_is, read_logins
from shard_router.remains import read_remains
from shard_router.server import connection_to
from shard_router.topology import parse_topology, read_topology
from tests import engine
from tests.engine import PASSWORD, PASSWORDS, PostgresServer, as_login
from tests.one_shard import one_shard

ADD_ENTRY = "INSERT INTO journal VALUES (1, 1, 'k', 1, now(), now(), 's', 0, '[]', '{}', '{}') ON CONFLICT DO NOTHING"
WORK = {
    "add to the journal": ADD_ENTRY,
    "change the journal": "UPDATE journal SET points = 1",
    "cut the journal": "DELETE FROM journal",
    "change an account": "UPDATE account SET version = version",
    "read an account": "SELECT FROM account",
    "read who has a phone": "SELECT FROM claim",
    "read an answer": "SELECT FROM idempotency",
    "read the journal": "SELECT FROM journal",
    "change the rules": "INSERT INTO program VALUES (99, now(), now(), '')",
    "note that rules have begun": "UPDATE program SET begun_at = now()",
    "date the rules": "UPDATE program SET effective_at = now()",
    "make a table": "CREATE TABLE mine (a int)",
    "make a slot": "SELECT pg_create_logical_replication_slot('mine', 'pgoutput', true)",
    "read a file of the server": "SELECT pg_read_file('postgresql.conf')",
    "run a program on the server": "COPY journal TO PROGRAM 'true'",
    "read passwords": "SELECT FROM pg_authid",
}
ALLOWED: dict[PostgresRole, set[str]] = {
    "owner": set(WORK) - {"make a slot", *list(WORK)[-3:]},
    "node": {
        "add to the journal",
        "note that rules have begun",
        "change an account",
        "read an account",
        "read who has a phone",
        "read an answer",
        "read the journal",
    },
    "reader": {"read an account", "read an answer", "read the journal"},
    "projector": {"read the journal", "make a slot"},
    "standby": {"make a slot"},
}


async def allowed(url: str) -> set[str]:
    """What a login can do; nothing of it stays."""
    connection = await asyncpg.connect(url)
    done: set[str] = set()
    for name, sql in WORK.items():
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(sql)
            done.add(name)
        except asyncpg.InsufficientPrivilegeError:
            pass
        finally:
            await transaction.rollback()
    await connection.close()
    return done


async def owned(server: PostgresServer) -> str:
    """A database that belongs to the owner, as in a real system."""
    database = engine.in_database(server.url, "loyalty")
    await migrate(as_login(database, "owner"))
    return database


@pytest.mark.parametrize("role", POSTGRES_USERS)
async def test_a_login_may_do_its_work_and_nothing_else(postgres_server: PostgresServer, role: PostgresRole) -> None:
    assert await allowed(as_login(await owned(postgres_server), role)) == ALLOWED[role]


async def test_who_shows_the_system_may_ask_what_hinders_a_removal(postgres_server: PostgresServer) -> None:
    async with connection_to(as_login(await owned(postgres_server), "reader")) as connection:
        assert (await read_remains(connection)).hinders == []


async def test_no_login_of_ours_is_a_superuser_and_none_may_make_others(postgres_server: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres_server.url)
    rows = await connection.fetch(
        "SELECT rolname FROM pg_roles WHERE (rolsuper OR rolcreaterole OR rolcreatedb) AND rolname LIKE 'loyalty%'"
    )
    assert rows == []
    await connection.close()


async def test_only_the_superuser_proves_its_password_by_one_hash(postgres_server: PostgresServer) -> None:
    await quicken_superuser(postgres_server.url, PASSWORDS[SUPERUSER])
    async with connection_to(postgres_server.url) as superuser:
        rows = await superuser.fetch("SELECT rolname, split_part(rolpassword, ':', 1) AS kind FROM pg_authid")
    kinds = {row["rolname"]: row["kind"] for row in rows}
    assert kinds[SUPERUSER_NAME] == "SCRAM-SHA-256$1"
    assert {kinds[user] for user in POSTGRES_USERS.values()} == {"SCRAM-SHA-256$4096"}


async def test_a_start_that_has_lost_the_superusers_password_says_what_to_do(postgres_server: PostgresServer) -> None:
    """A start makes a password where there is none; this one the servers know already."""
    lost = {**PASSWORDS, SUPERUSER: "another"}
    with pytest.raises(
        ClusterError, match=r"authentication failed.*\n.*\nPut your copy of the file postgres_superuser"
    ):
        await secure_primary([postgres_server.url], lost, name="eu-1")


async def test_nobody_else_enters_the_database(postgres_server: PostgresServer) -> None:
    database = await owned(postgres_server)
    superuser = await asyncpg.connect(postgres_server.url)
    await superuser.execute(f"CREATE ROLE stranger LOGIN PASSWORD '{PASSWORD}'")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(address(database, "stranger", PASSWORD, "loyalty"))
    await superuser.execute("DROP ROLE stranger")
    await superuser.close()


@asynccontextmanager
async def older_server(*, interrupted: bool) -> AsyncGenerator[str]:
    """A server as version 0.1 left it: one superuser named loyalty, who owns all there is."""
    with engine.server_folder() as folder:
        tools = postgres.find_tools(None, folder)
        server = ServerPlan(name="older", folder=folder / "older", port=engine.free_port())
        await postgres.create_primary(tools, server, PASSWORD)
        postgres.configure(tools, server, engine.FAST | postgres.primary_settings(with_standby=False))
        url = address(postgres.server_address(server), SUPERUSER_NAME, PASSWORD, "postgres")
        async with engine.running(postgres.postgres_process(tools, server, password="", log=folder / "older.log")):
            await execute(url, f"CREATE ROLE other SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
            await execute(address(url, "other", PASSWORD, "postgres"), f"ALTER ROLE {SUPERUSER_NAME} RENAME TO loyalty")
            older = address(url, "loyalty", PASSWORD, "loyalty")
            more = ["CREATE ROLE loyalty_upgrade SUPERUSER LOGIN"] if interrupted else []
            await execute(engine.in_database(older, "postgres"), "DROP ROLE other", "CREATE DATABASE loyalty", *more)
            await migrate(older)
            await create_slot(older)
            await execute(older, ADD_ENTRY)
            yield url


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for sql in statements:
        await connection.execute(sql)
    await connection.close()


@pytest.mark.skipif(engine.engine_name() != "embedded", reason="it needs a server that nobody has secured yet")
@pytest.mark.parametrize("interrupted", [False, True])
async def test_a_server_of_an_older_version_gets_the_logins_and_keeps_its_rows(*, interrupted: bool) -> None:
    async with older_server(interrupted=interrupted) as url:
        database = address(url, SUPERUSER_NAME, PASSWORD, "loyalty")
        for _ in range(2):  # the second start finds everything done
            await secure(await find_primary(superuser_urls(url, PASSWORDS), name="older"), PASSWORDS)
            await migrate(as_login(database, "owner"))
            assert {role: await allowed(as_login(database, role)) for role in POSTGRES_USERS} == ALLOWED
        connection = await asyncpg.connect(database)
        assert await connection.fetchval("SELECT count(*) FROM journal") == 1
        supers = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolsuper")
        assert [row["rolname"] for row in supers] == [SUPERUSER_NAME]
        await connection.close()


async def test_a_set_up_makes_a_pair_of_bare_servers_whole_and_may_run_again(
    postgres_pair: PostgresServer, tmp_path: Path
) -> None:
    servers = [
        address(str(url), "loyalty", "", "loyalty").replace(":@", "@")
        for url in (postgres_pair.standby_url, postgres_pair.url)
    ]
    topology = one_shard(servers, "redis://x")
    documents = Documents(tmp_path)
    documents.secrets.mkdir()
    for name, password in PASSWORDS.items():
        (documents.secrets / name).write_text(f"{password}\n")
    for _ in range(2):
        assert await prepare(parse_topology(json.dumps(topology)).document, None, documents, PASSWORDS) == 1
    assert await allowed(as_login(engine.in_database(postgres_pair.url, "loyalty"), "reader")) == ALLOWED["reader"]
    await execute(engine.in_database(postgres_pair.url, "loyalty"), "SELECT pg_drop_replication_slot('loyalty_cdc')")


def test_an_address_with_a_user_alone_gets_the_process_own_login(tmp_path: Path) -> None:
    (tmp_path / "postgres_reader").write_text("pass/word\n")
    (tmp_path / "valkey_query").write_text("s3cret")
    logins = read_logins(tmp_path, "reader", "query")
    own = "postgresql://loyalty@db:5432/loyalty"
    assert complete(own, logins.postgres) == "postgresql://loyalty_reader:pass%2Fword@db:5432/loyalty"
    assert complete("redis://loyalty@cache/0", logins.valkey) == "redis://query:s3cret@cache/0"
    for theirs in (
        "postgresql://app:x@db/loyalty",
        "postgresql://db/loyalty",
        "redis://cache/0",
        "redis://:pw@cache/0",
    ):
        assert complete(theirs, logins.postgres) == theirs
    sealed = complete_as_it_is("postgresql://app@db/loyalty")
    assert complete(sealed, logins.postgres) == sealed == "postgresql://app:@db/loyalty"
    file = tmp_path / "topology.json"
    file.write_text(
        json.dumps(
            {
                "epoch": 1,
                "regions": {"eu": {"number": 1, "command": [], "query": []}},
                "shards": {"eu-1": {"region": "eu", "slots": [[0, 4095]], "servers": [own], "valkey": "redis://c"}},
            }
        )
    )
    shard = read_topology(file, logins).document.shards["eu-1"]
    assert shard.servers == ["postgresql://loyalty_reader:pass%2Fword@db:5432/loyalty"]
    assert shard.valkey == "redis://c"
