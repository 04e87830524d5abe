"""What compose.yml mounts agrees with what the embedded system does."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cluster import valkey
from cluster.archive import archive_settings
from cluster.password import FILES
from cluster.postgres import SETTINGS, PostgresTools
from shard_router.topology import read_topology
from tests.project import PASSWORDS_NEEDED, PROJECT

DEPLOY = PROJECT / "deploy"
# Where a server listens and who may enter differ by nature; the roles the embedded system
# writes into a server's file when it starts it.
OF_CONTAINERS = {"listen_addresses", "hba_file"}
OF_ROLES = {
    "synchronous_standby_names",
    "synchronized_standby_slots",
    "primary_slot_name",
    "sync_replication_slots",
}


def postgres_settings() -> dict[str, str]:
    text = (DEPLOY / "postgres" / "postgresql.conf").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+) = '(.*)'$", text, re.MULTILINE))


def test_servers_in_containers_have_the_settings_of_the_embedded_ones() -> None:
    settings = {name: value for name, value in postgres_settings().items() if name not in OF_CONTAINERS | OF_ROLES}
    embedded = {k: v for k, v in SETTINGS.items() if k not in {"listen_addresses", "unix_socket_directories"}}
    assert settings == embedded


def test_servers_in_containers_archive_as_the_embedded_ones_do(tmp_path: Path) -> None:
    script = (DEPLOY / "postgres" / "postgres.sh").read_text(encoding="utf-8")
    embedded = archive_settings(PostgresTools(tmp_path, None), tmp_path)
    found = dict(re.findall(r"-c (archive_(?:mode|timeout))=(\w+)", script))
    command = re.findall(r'-c "archive_command=(.*)"\)', script)[0]
    found["archive_command"] = command.replace("$to", f"{tmp_path}/%f")
    assert found == embedded


def test_both_roles_are_set_in_the_one_file() -> None:
    assert postgres_settings().keys() >= OF_ROLES


def test_the_door_of_compose_is_told_of_no_file_that_is_not_there() -> None:
    folder = "/etc/loyalty-door"
    assert f"./deploy/edge:{folder}:ro" in (PROJECT / "compose.yml").read_text(encoding="utf-8")
    told = re.findall(rf'"{folder}/([^"]+)"', (DEPLOY / "edge" / "envoy.json").read_text(encoding="utf-8"))
    assert {"routes.json", "clusters.json"} <= set(told)
    assert [name for name in told if not (DEPLOY / "edge" / name).is_file()] == []


def test_every_host_of_the_topology_is_a_service_of_compose() -> None:
    document = read_topology(DEPLOY / "topology.json").document
    addresses = [url for region in document.regions.values() for url in (*region.command, *region.query)]
    for shard in document.shards.values():
        addresses += [*shard.servers, shard.valkey, str(shard.cdc)]
    services = set(re.findall(r"^  ([\w-]+):$", (PROJECT / "compose.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert {urlsplit(url).hostname for url in addresses} <= services


def test_valkey_in_containers_has_the_settings_and_users_of_the_embedded_one() -> None:
    text = (DEPLOY / "valkey" / "valkey.conf").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split(" ", 1) for line in lines if not line.startswith("user "))
    assert {k: v for k, v in settings.items() if k not in {"bind", "port", "dir"}} == valkey.SETTINGS
    users = [re.sub(r"#@\w+@", "#", line) for line in lines if line.startswith("user ")]
    embedded = valkey.access_list(dict.fromkeys(FILES, "any")).splitlines()
    assert users == [re.sub(r"#[0-9a-f]{64}", "#", line) for line in embedded]


def test_every_password_is_made_by_the_script_and_is_a_secret_of_compose() -> None:
    script = (DEPLOY / "make_secrets.sh").read_text(encoding="utf-8")
    assert set(re.findall(r"\b(?:postgres|valkey)_\w+", script)) == set(FILES)
    text = (PROJECT / "compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"^  (\w+): \{file: ", text, re.MULTILINE)) == set(FILES)


def test_compose_holds_no_password_and_no_default_for_one() -> None:
    text = (PROJECT / "compose.yml").read_text(encoding="utf-8")
    assert not re.findall(r"PASSWORD:|PASSWORD:-|requirepass", text)


@pytest.mark.parametrize("part", PASSWORDS_NEEDED)
def test_a_service_gets_the_passwords_it_needs_and_no_other(part: str) -> None:
    text = (PROJECT / "compose.yml").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^x-{part}: &{part}\b.*(?:\n  .*)*", text, re.MULTILINE)
    (given,) = re.findall(r"secrets: \[(.*?)\]", block)
    assert set(given.split(", ")) == PASSWORDS_NEEDED[part]
