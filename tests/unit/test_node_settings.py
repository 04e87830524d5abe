"""A node's settings: a variable wins over the file, and what is wrong is named."""

from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.node import check_node_settings
from query.settings import QuerySettings
from shard_router.errors import DocumentError

FILE = """
region = "eu"
port = 8080
topology = "/data/topology.json"
credentials = "/data/credentials.json"
waiters_max = 5
cors_origins = ["https://app.example"]
of_an_older_version = true
"""


def load(folder: Path, text: str) -> QuerySettings:
    (folder / "node.toml").write_text(text)
    return QuerySettings.load(folder / "node.toml")


def test_a_variable_wins_over_the_file_whatever_its_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_PORT", "9090")
    monkeypatch.setenv("loyalty_zone", "a")
    monkeypatch.setenv("LOYALTY_UNKNOWN", "x")
    settings = load(tmp_path, FILE)
    assert (settings.region, settings.port, settings.zone) == ("eu", 9090, "a")
    assert (settings.topology, settings.waiters_max) == (Path("/data/topology.json"), 5)
    assert settings.cors_origins == ("https://app.example",)
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(FILE.replace("8080", '"high"'), "port", id="a wrong value"),
        pytest.param(FILE.replace("region", "place"), "region", id="a missing one"),
        pytest.param("port = ", "node.toml", id="no TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        load(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"node\.toml: no such file"):
        QuerySettings.load(tmp_path / "node.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOYALTY_IN_FLIGHT_MAX", "many"),
        ("LOYALTY_IN_FLIGHT_MAX", "0"),
        ("LOYALTY_DEADLINE_MS", "-5"),
        ("LOYALTY_CORS_ORIGINS", "app.example"),
        ("LOYALTY_LANES_PER_SHARD", "0"),
        ("LOYALTY_CACHE_DEADLINE_MS", "0"),
        ("LOYALTY_REBUILD_DUTY", "2"),
    ],
)
def test_a_variable_that_nodes_refuse_is_told_before_they_are_started(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ClusterError, match=f"^{name}: "):
        check_node_settings()


def test_variables_that_mean_the_whole_system_are_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOYALTY_PORT", "0")
    monkeypatch.setenv("LOYALTY_SOURCE", "neither")
    monkeypatch.setenv("LOYALTY_IN_FLIGHT_MAX", "100")
    check_node_settings()
