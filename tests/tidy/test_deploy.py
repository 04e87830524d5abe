"""What compose.yml mounts agrees with what the embedded system does."""

import re
from pathlib import Path
from urllib.parse import urlsplit

from cluster.postgres import SETTINGS
from shard_router.topology import read_topology

PROJECT = Path(__file__).resolve().parents[2]
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


def test_both_roles_are_set_in_the_one_file() -> None:
    assert postgres_settings().keys() >= OF_ROLES


def test_every_host_of_the_topology_is_a_service_of_compose() -> None:
    document = read_topology(DEPLOY / "topology.json").document
    addresses = [url for region in document.regions.values() for url in (*region.command, *region.query)]
    for shard in document.shards.values():
        addresses += [*shard.servers, shard.valkey, str(shard.cdc)]
    services = set(re.findall(r"^  ([\w-]+):$", (PROJECT / "compose.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert {urlsplit(url).hostname for url in addresses} <= services
