"""A base backup is there when it is whole: half of one that was cut short is none, and hinders no other."""

import json
from pathlib import Path

import pytest

from cluster import postgres
from cluster.backup import back_up, restore
from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.login import address
from cluster.plan import make_plan
from cluster.settings import ClusterSettings
from tests import engine
from tests.engine import PASSWORDS, PostgresServer, server_folder
from tests.one_shard import one_shard

KILLED = """#!/bin/sh
echo 18 >"$2/PG_VERSION"
kill -9 $$
"""


@pytest.mark.skipif(engine.engine_name() != "embedded", reason="a container's binaries are out of reach")
async def test_half_a_backup_is_none_and_the_next_one_is_whole(postgres_server: PostgresServer) -> None:
    with server_folder() as folder:
        server = address(postgres_server.url, "loyalty", PASSWORDS["postgres_owner"], "postgres")
        documents = Documents(folder / "data")
        documents.secrets.mkdir(parents=True)
        for name, password in PASSWORDS.items():
            (documents.secrets / name).write_text(password)
        documents.topology.write_text(json.dumps(one_shard([server], "redis://none")))
        plan = make_plan(ClusterSettings(data=documents.data, regions=["eu"], pg_bin=dying(folder)), {}, None)
        target = folder / "monday"
        with pytest.raises(ClusterError, match="killed by SIGKILL"):
            await back_up(plan, target)
        with pytest.raises(ClusterError, match="holds no base backup"):
            restore(plan, "eu-1", target, None)
        plan = make_plan(ClusterSettings(data=documents.data, regions=["eu"]), {}, None)
        assert await back_up(plan, target) == [target / "eu-1"]
        assert (target / "eu-1" / "backup_manifest").is_file()
        assert [path.name for path in target.iterdir()] == ["eu-1"]


def dying(folder: Path) -> Path:
    """Binaries of which the one for backups is killed on its way."""
    binaries = folder / "bin"
    binaries.mkdir(mode=0o755)
    real = postgres.find_tools(None, folder).folder
    (binaries / "postgres").symlink_to(real / "postgres")
    (binaries / "pg_basebackup").write_text(KILLED)
    (binaries / "pg_basebackup").chmod(0o755)
    return binaries
