"""The plan of one machine: who wins, which ports, which region numbers."""

from pathlib import Path

import pytest

from cluster import node
from cluster.errors import ClusterError
from cluster.plan import KNOWN_REGIONS, ClusterPlan, make_plan, must_be_next, number_regions
from cluster.settings import NODES_MAX, read_settings


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("REGIONS", "PORT", "CDC", "DATA", "PROGRAM", "PG_BIN", "VALKEY", "CONFIG", "NODES"):
        monkeypatch.delenv(f"LOYALTY_{name}", raising=False)


def plan(**flags: object) -> ClusterPlan:
    return make_plan(read_settings({"door": False} | flags))


def test_by_default_three_regions_take_ten_ports_each_from_8410() -> None:
    regions = {region.name: (region.number, region.command[0].port, region.query[0].port) for region in plan().regions}
    assert regions == {"eu": (1, 8410, 8411), "us": (2, 8420, 8421), "ap": (3, 8430, 8431)}
    (shard,) = plan().regions[0].shards
    assert (shard.cdc_port, shard.valkey_port, [server.port for server in shard.servers]) == (8412, 8413, [8414, 8415])


def test_flags_win_over_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loyalty.toml").write_text('port = 9000\ncdc = "debezium"\nregions = ["us"]\n', encoding="utf-8")
    monkeypatch.setenv("LOYALTY_PORT", "9100")
    monkeypatch.setenv("LOYALTY_REGIONS", "eu,ap")
    settings = read_settings({"regions": "ap", "port": None})
    assert (settings.regions, settings.port, settings.cdc) == (("ap",), 9100, "debezium")


def test_a_region_keeps_its_ports_when_others_are_left_out() -> None:
    assert [region.command[0].port for region in plan(regions="ap").regions] == [8430]


def test_more_than_three_regions_get_the_next_free_numbers() -> None:
    numbers = [region.number for region in plan(regions="eu,us,ap,sa,af").regions]
    assert numbers == [1, 2, 3, 4, 5]
    assert len(plan(regions="eu,us,ap,sa,af").ports()) == 5 * 6


def test_a_region_keeps_the_number_it_once_had() -> None:
    assert number_regions(["af", "sa"], {"sa": 4}) == {"af": 5, "sa": 4}
    assert number_regions(["eu"], {}) == {"eu": KNOWN_REGIONS["eu"]}


def test_more_nodes_keep_every_port_of_today_and_meet_none_of_any_other_region() -> None:
    names = ",".join(f"r{n}" for n in range(60))
    ports = plan(regions=f"eu,us,ap,{names}").ports()
    more = plan(regions=f"eu,us,ap,{names}", nodes=NODES_MAX).ports()
    assert ports.items() <= more.items()
    assert len(more) == 63 * (2 * NODES_MAX + 4)
    eu = plan(nodes=3).regions[0]
    assert [node.name for node in eu.nodes] == [
        *("eu-command", "eu-command-2", "eu-command-3"), *("eu-query", "eu-query-2", "eu-query-3"),
    ]  # fmt: skip
    assert {node.port for region in plan(nodes=3).regions for node in region.nodes} & set(range(8390, 8410)) == set()


def test_what_is_configured_is_used_and_not_started(tmp_path: Path) -> None:
    (tmp_path / "loyalty.toml").write_text(
        'regions = ["eu"]\n[shards.eu-1]\nregion = "eu"\nservers = ["postgresql://db/loyalty"]\nvalkey = "redis://cache/0"\n',
        encoding="utf-8",
    )
    (shard,) = plan().shards
    assert (shard.servers, shard.valkey_port) == ((), None)
    assert (shard.server_urls, shard.valkey_url) == (["postgresql://db/loyalty"], "redis://cache/0")
    assert sorted(plan().ports()) == [8410, 8411, 8412]


def test_a_second_standby_is_a_third_server_in_a_zone_of_its_own_and_meets_no_other_port() -> None:
    (shard,) = plan(regions="eu", standbys=2).shards
    assert [(server.zone, server.standby, server.port) for server in shard.servers] == [
        ("a", "standby_1", 8414), ("b", "standby_2", 8415), ("c", "standby_3", 9070),
    ]  # fmt: skip
    assert len(plan(nodes=NODES_MAX, standbys=2).ports()) == 3 * (2 * NODES_MAX + 5)
    assert [(server.zone, server.standby) for server in plan(regions="eu").shards[0].servers] == [(None, "standby")] * 2


def test_two_shards_share_a_region() -> None:
    shards = {
        "eu-1": {"region": "eu", "slots": [[0, 2047]]},
        "eu-2": {"region": "eu", "slots": [[2048, 4095]]},
    }
    assert len(plan(regions="eu", shards=shards).ports()) == 10


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"regions": "EU"}, "no region name"),
        ({"regions": ""}, "at least one region"),
        ({"regions": "eu,eu"}, "each once"),
        ({"cdc": "kafka"}, "debezium"),
        ({"port": 80}, "1024"),
        ({"nodes": 17}, "nodes"),
        ({"nodes": 0}, "nodes"),
        ({"standbys": 3}, "standbys"),
        ({"standbys": 0}, "standbys"),
        ({"nodes": 2, "port": 64990}, "no room"),
        ({"port": 64990, "regions": ",".join(f"r{n}" for n in range(60))}, "no room"),
        ({"regions": ",".join(f"r{n}" for n in range(64))}, "63 regions"),
        ({"shards": {"us-1": {"region": "us"}}, "regions": "eu"}, "us"),
        ({"shards": {"eu-1": {"region": "eu", "slots": [[0, 7]]}}, "regions": "eu"}, "must cover"),
    ],
)
def test_wrong_settings_are_named_in_words(flags: dict[str, object], words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        plan(**flags)


def test_a_source_that_is_not_installed_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "find_spec", lambda _name: None)
    node.check_source(plan())
    with pytest.raises(ClusterError, match="make setup-all"):
        node.check_source(plan(cdc="debezium"))


def test_the_door_stands_ten_ports_below_and_is_left_out_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    envoy = tmp_path / "envoy"
    envoy.touch()
    monkeypatch.setenv("LOYALTY_ENVOY", str(envoy))
    door = plan(port=9010, door=True).door
    assert door
    assert (door.url, door.program) == ("http://127.0.0.1:9000", envoy)
    assert set(plan(port=9010, door=True).ports()) >= {9000, 9001}
    assert plan().door is None
    with pytest.raises(ClusterError, match="there is no Envoy"):
        plan(tls=True)
    monkeypatch.setenv("LOYALTY_ENVOY", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="is no file"):
        plan(door=True)


def test_a_shard_that_is_added_has_the_next_number() -> None:
    (region,) = plan(regions="eu").regions
    must_be_next(region, "eu-2")
    for name in ("eu-1", "eu-3", "us-2"):
        with pytest.raises(ClusterError, match="region eu has eu-1: its next shard is eu-2"):
            must_be_next(region, name)
