"""What deploy/kubernetes says meets: schemas, names, selectors, references, ports, probes and passwords."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from cluster.password import FILES
from cluster.postgres import SETTINGS
from shard_router.topology import read_topology
from tests.project import PASSWORDS_NEEDED, PROJECT

DEPLOY = PROJECT / "deploy"
PLACE = DEPLOY / "kubernetes"
MADE_BY_HAND = {"logins", "credentials", "postgres-superuser"}
PODS = ("command", "query", "projector-eu-1", "valkey-eu-1")
PARTS = {"command": "command", "query": "query", "projector-eu-1": "cdc", "valkey-eu-1": "valkey"}
# Fixed by the operator, or of the machine.
NOT_OURS = {
    "autovacuum_worker_slots", "hot_standby", "io_max_concurrency", "io_method", "listen_addresses", "log_checkpoints",
    "log_error_verbosity", "log_line_prefix", "log_timezone",
    "max_replication_slots", "max_slot_wal_keep_size", "max_wal_senders", "max_wal_size", "shared_buffers",
    "unix_socket_directories", "wal_level",
}  # fmt: skip

Object = dict[str, Any]


def read(path: Path) -> list[Object]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def composed(folder: Path) -> Iterator[Object]:
    """Every object that a kustomization leads to, with what it generates."""
    (document,) = read(folder / "kustomization.yaml")
    for name in document.get("resources", []):
        place = (folder / name).resolve()
        yield from composed(place) if place.is_dir() else read(place)
    for made in document.get("configMapGenerator", []):
        files = {file: (folder / file).read_text(encoding="utf-8") for file in made.get("files", [])}
        literals = dict(one.split("=", 1) for one in made.get("literals", []))
        yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": files | literals}


OBJECTS = list(composed(PLACE / "eu"))


def of_kind(*kinds: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] in kinds}


def workloads() -> dict[str, Object]:
    return of_kind("Deployment", "StatefulSet", "Job")


def pod(name: str) -> Object:
    return workloads()[name]["spec"]["template"]


def container(name: str) -> Object:
    (only,) = pod(name)["spec"]["containers"]
    return only


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_an_object_is_what_kubernetes_knows(thing: Object) -> None:
    if thing["kind"] == "Cluster":  # not of Kubernetes: see below
        assert thing["apiVersion"] == "postgresql.cnpg.io/v1"
        return
    kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)


def test_no_two_objects_of_a_kind_have_one_name() -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in OBJECTS]
    assert len(names) == len(set(names))
    assert set(PODS) | {"setup"} == set(workloads())


def test_kubectl_renders_the_same_objects() -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on the PATH: the files were parsed and put together by this test only")
    done = subprocess.run(
        [kubectl, "kustomize", str(PLACE / "eu")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    plain = {(one["kind"], re.sub(r"^valkey-[a-z0-9]{10}$", "valkey", one["metadata"]["name"])) for one in rendered}
    assert plain == {(one["kind"], one["metadata"]["name"]) for one in OBJECTS}
    images = re.findall(r"image: (\S+)", done.stdout)
    assert images
    assert "loyalty" not in images  # every one of ours was given a registry and a version


@pytest.mark.parametrize("name", PODS)
def test_a_workload_selects_its_own_pods(name: str) -> None:
    labels = pod(name)["metadata"]["labels"]
    assert workloads()[name]["spec"]["selector"]["matchLabels"] == labels
    selecting = [one for one in of_kind("Service").values() if one["spec"]["selector"].items() <= labels.items()]
    ports = {port["name"] for port in container(name)["ports"]}
    assert selecting
    assert all(port["targetPort"] in ports for one in selecting for port in one["spec"]["ports"])


def test_budgets_and_spreading_are_about_pods_that_exist() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert set(budgets) == {"command", "query"}
    for name in budgets:
        labels = pod(name)["metadata"]["labels"]
        assert budgets[name]["spec"]["selector"]["matchLabels"] == labels
        (spread,) = pod(name)["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == labels
        assert spread["topologyKey"] == "topology.kubernetes.io/zone"
        assert workloads()[name]["spec"]["replicas"] >= 3


def test_of_a_projector_and_a_valkey_there_is_one() -> None:
    for name in ("projector-eu-1", "valkey-eu-1"):
        spec = workloads()[name]["spec"]
        assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")


def test_every_reference_leads_to_something() -> None:
    maps = of_kind("ConfigMap")
    for name in workloads():
        volumes = {one["name"]: one for one in pod(name)["spec"]["volumes"]}
        assert {one["name"] for one in container(name)["volumeMounts"]} == set(volumes)
        given = [one["configMapRef"]["name"] for one in container(name).get("envFrom", [])]
        given += [one["configMap"]["name"] for one in volumes.values() if "configMap" in one]
        assert set(given) <= set(maps)
        assert {one["secret"]["secretName"] for one in volumes.values() if "secret" in one} <= MADE_BY_HAND
    assert of_kind("Cluster")["postgres-eu-1"]["spec"]["superuserSecret"]["name"] in MADE_BY_HAND


@pytest.mark.parametrize("name", PODS)
def test_a_pod_gets_the_passwords_it_needs_and_no_other(name: str) -> None:
    (secret,) = [one["secret"] for one in pod(name)["spec"]["volumes"] if one["name"] == "logins"]
    assert {one["key"] for one in secret["items"]} == PASSWORDS_NEEDED[PARTS[name]] <= set(FILES)
    assert all(one["key"] == one["path"] for one in secret["items"])


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_probed_bounded_and_may_do_little(name: str) -> None:
    one = container(name)
    for kind, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        asked = one[kind].get("httpGet") or one[kind]["tcpSocket"]
        assert asked["port"] in {port["name"] for port in one["ports"]}
        assert asked.get("path") == (None if name.startswith("valkey") else path)
    assert {"requests", "limits"} == set(one["resources"])
    assert one["securityContext"]["readOnlyRootFilesystem"]
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod(name)["spec"]["securityContext"]["runAsNonRoot"]
    assert pod(name)["spec"]["automountServiceAccountToken"] is False


def test_paths_in_the_environment_are_mounted() -> None:
    data = of_kind("ConfigMap")["region"]["data"]
    mounts = {one["mountPath"] for one in container("command")["volumeMounts"]}
    for name in ("LOYALTY_TOPOLOGY", "LOYALTY_CREDENTIALS"):
        assert str(Path(data[name]).parent) in mounts
    assert data["LOYALTY_SECRETS"] in mounts
    assert data["LOYALTY_TOPOLOGY"] in container("setup")["args"]


def test_every_host_of_the_topology_is_a_service_or_a_pod() -> None:
    document = read_topology(PLACE / "eu" / "topology.json").document
    region, shard = document.regions["eu"], document.shards["eu-1"]
    hosts = {str(urlsplit(url).hostname) for url in (*region.query, *shard.servers, shard.valkey, str(shard.cdc))}
    assert hosts <= set(of_kind("Service"))
    replicas = workloads()["command"]["spec"]["replicas"]
    assert [urlsplit(url).hostname for url in region.command] == [f"command-{n}.command" for n in range(replicas)]
    assert of_kind("Service")["command"]["spec"]["clusterIP"] == "None"
    assert json.loads(of_kind("ConfigMap")["topology"]["data"]["topology.json"])["epoch"] == 1


def test_what_a_policy_is_about_exists_and_nothing_else_is_open() -> None:
    apps = {pod(name)["metadata"]["labels"]["app"] for name in workloads()}
    policies = of_kind("NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    text = (PLACE / "region" / "network.yaml").read_text(encoding="utf-8")
    named = {
        app for found in re.findall(r"key: app, operator: In, values: \[(.*?)\]", text) for app in found.split(", ")
    }
    assert named | set(re.findall(r"matchLabels: \{app: (\w+)\}", text)) == apps


ELSEWHERE: Object = {}
"""Another region: known by its addresses, and has no labels here."""
ASKED = {
    ("command", "command", 8080), ("command", "query", 8080), ("query", "command", 8080), ("query", "query", 8080),
    ("query", "projector", 8080),  # query/look.py
    ("command", "postgres", 5432), ("query", "postgres", 5432), ("projector", "postgres", 5432),
    ("setup", "postgres", 5432), ("postgres", "postgres", 5432), ("postgres", "postgres", 8000),
    ("query", "valkey", 6379), ("projector", "valkey", 6379),
    ("command", "elsewhere", 8080), ("query", "elsewhere", 8080), ("elsewhere", "command", 8080),
    ("elsewhere", "query", 8080),
    ("command", "elsewhere", 5432), ("query", "elsewhere", 5432), ("setup", "elsewhere", 5432),
    ("elsewhere", "postgres", 5432),
    ("query", "elsewhere", 6379), ("elsewhere", "valkey", 6379),  # look-ups, and members of a region without nodes
}  # fmt: skip
"""Who asks whom at which port."""


def selects(selector: Object, labels: Object) -> bool:
    met = selector.get("matchLabels", {}).items() <= labels.items()
    for one in selector.get("matchExpressions", []):
        found = labels.get(one["key"])
        met &= found in one["values"] if one["operator"] == "In" else found is not None
    return met


def is_peer(peer: Object, labels: Object) -> bool:
    if labels is ELSEWHERE:
        return "ipBlock" in peer
    return "podSelector" in peer and "namespaceSelector" not in peer and selects(peer["podSelector"], labels)


def is_open(side: str, own: Object, other: Object, port: int) -> bool:
    """Whether some policy about these pods lets the other side through; of who is elsewhere none is ours."""
    if own is ELSEWHERE:
        return True
    key = {"egress": "to", "ingress": "from"}[side]
    about = [one["spec"] for one in of_kind("NetworkPolicy").values() if selects(one["spec"]["podSelector"], own)]
    return any(
        port in {known["port"] for known in rule["ports"]} and any(is_peer(peer, other) for peer in rule.get(key, []))
        for spec in about
        for rule in spec.get(side, [])
    )


def test_whoever_asks_another_is_let_through_on_both_sides_and_nobody_else() -> None:
    labels = {pod(name)["metadata"]["labels"]["app"]: pod(name)["metadata"]["labels"] for name in workloads()}
    labels |= {"postgres": {"cnpg.io/cluster": "postgres-eu-1"}, "elsewhere": ELSEWHERE}
    let = {
        (asker, asked, port)
        for asker, asked in product(labels, labels)
        for port in (8080, 5432, 8000, 6379, 9187)
        if is_open("egress", labels[asker], labels[asked], port)
        and is_open("ingress", labels[asked], labels[asker], port)
    }
    assert {one for one in let if one[:2] != ("elsewhere", "elsewhere")} == ASKED


def test_three_servers_in_three_zones_lose_nothing_that_was_acknowledged() -> None:
    spec = of_kind("Cluster")["postgres-eu-1"]["spec"]
    assert spec["instances"] == 3
    assert spec["affinity"]["podAntiAffinityType"] == "required"
    assert spec["affinity"]["topologyKey"] == "topology.kubernetes.io/zone"
    wanted = {"method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": True}
    assert spec["postgresql"]["synchronous"] == wanted
    assert spec["replicationSlots"]["highAvailability"] == {"enabled": True, "synchronizeLogicalDecoding": True}
    instances = {
        one["spec"]["selector"]["cnpg.io/instanceName"]
        for one in of_kind("Service").values()
        if "cnpg.io/instanceName" in one["spec"]["selector"]
    }
    assert instances == {f"postgres-eu-1-{n}" for n in (1, 2, 3)}
    given = spec["postgresql"]["parameters"]
    embedded = {name: value for name, value in SETTINGS.items() if name not in NOT_OURS}
    assert {name: given.get(name) for name in embedded} == embedded


def test_another_shard_is_a_copy_with_another_name() -> None:
    ours = [one for one in composed(PLACE / "eu-1") if "eu-1" not in json.dumps(one["metadata"]["name"])]
    assert not ours
