"""Who a process is to the servers of a shard.

The topology names no secret. An address with a user and no password is completed with the login of the process that
reads it, so each has its own and no other. An address with a password (be it empty), or without a user, is of a server
that somebody else keeps: it is taken as it stands.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import quote, urlsplit

from shard_router.errors import DocumentError

PostgresRole = Literal["owner", "node", "reader", "projector", "standby"]
ValkeyRole = Literal["projector", "query"]

POSTGRES_USERS: Final[dict[PostgresRole, str]] = {
    "owner": "loyalty",
    "node": "loyalty_node",
    "reader": "loyalty_reader",
    "projector": "loyalty_projector",
    "standby": "loyalty_standby",
}
"""The owner of the tables migrates and applies programs, command nodes write, query nodes read, the projector streams,
and a standby copies its primary. What each may do is written in command/grant.sql and cluster/login.sql."""

VALKEY_USERS: Final[dict[ValkeyRole, str]] = {"projector": "projector", "query": "query"}


class Login(NamedTuple):
    """A user and their password."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class Logins:
    """The logins of one process."""

    postgres: Login | None = None
    valkey: Login | None = None


def complete(url: str, login: Login | None) -> str:
    """The address with this login in the place of a user that stands alone."""
    parts = urlsplit(url)
    if login is None or parts.username is None or parts.password is not None:
        return url
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{quote(login.user, safe='')}:{quote(login.password, safe='')}@{place}").geturl()


def complete_as_it_is(url: str) -> str:
    """The address so that no login is ever put into it: a user that stands alone gets an empty password."""
    parts = urlsplit(url)
    if parts.username is None or parts.password is not None:
        return url
    user, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:@{place}").geturl()


def read_logins(folder: Path | None, postgres: PostgresRole, valkey: ValkeyRole | None = None) -> Logins:
    """The logins of these roles from a folder with a file per password; none without a folder.

    DocumentError when a file cannot be read.
    """
    if folder is None:
        return Logins()
    return Logins(
        Login(POSTGRES_USERS[postgres], read_password(folder / f"postgres_{postgres}")),
        Login(VALKEY_USERS[valkey], read_password(folder / f"valkey_{valkey}")) if valkey else None,
    )


def read_password(path: Path) -> str:
    """The password of a file; DocumentError when there is none."""
    try:
        password = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DocumentError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: {error}") from error
    if not password:
        raise DocumentError(f"{path}: no password in it")
    return password
