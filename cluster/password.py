"""The passwords of the servers: one file each, made at the first start, readable by their owner only.

A process reads those of its own logins and no others (shard_router/login.py). Containers mount them as secrets.
"""

import secrets
from pathlib import Path
from typing import Final

from cluster.errors import ClusterError
from cluster.files import write_atomic
from shard_router.errors import DocumentError
from shard_router.login import POSTGRES_USERS, VALKEY_USERS, read_password

SUPERUSER: Final = "postgres_superuser"
FILES: Final = (
    SUPERUSER,
    *(f"postgres_{role}" for role in POSTGRES_USERS),
    *(f"valkey_{role}" for role in VALKEY_USERS),
)
"""Names of the files. That of the superuser serves to make the other logins, and no process of ours has it."""

_BYTES: Final = 24

Passwords = dict[str, str]
"""Passwords by the names of their files."""


def ensure_passwords(folder: Path, superuser_before: Path) -> Passwords:
    """All passwords, made where there are none. Until 0.1 there was one, the superuser's, in a file of its own."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if superuser_before.exists() and not (folder / SUPERUSER).exists():
        superuser_before.rename(folder / SUPERUSER)
    for name in FILES:
        if not (folder / name).exists():
            write_atomic(folder / name, secrets.token_hex(_BYTES), mode=0o600)
    return read_passwords(folder)


def read_passwords(folder: Path) -> Passwords:
    """All passwords; ClusterError when one is missing."""
    try:
        return {name: read_password(folder / name) for name in FILES}
    except DocumentError as error:
        raise ClusterError(f"passwords: {error}") from error
