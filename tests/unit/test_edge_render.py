"""`loyalty edge render`: what it writes is what the examples hold, and it parses."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import NODES_MAX
from edge.aws import STANDING as AWS_STANDING
from edge.aws import render_aws
from edge.cloudflare import PARTS_OF_THE_WORLD, condition, render_cloudflare
from edge.cloudflare import STANDING as CLOUDFLARE_STANDING
from edge.decision import make_door
from edge.envoy import CLUSTERS, STRANGERS, Listening, render_dynamic, render_envoy
from edge.envoy import STANDING as ENVOY_STANDING
from edge.geography import REGIONS
from edge.hcl import quoted
from query.settings import QuerySettings
from service.settings import NodeSettings
from shard_router.topology import read_topology
from tests.command_line import loyalty
from tests.edge_world import NUMBERS, card_of, member_of, three_regions, topology
from tests.project import PROJECT

EXAMPLES = PROJECT / "deploy" / "edge"
EXAMPLE_WORDS = {
    "envoy": ("--host", "0.0.0.0", "--folder", "/etc/loyalty-door"),  # noqa: S104 - text only
    "cloudflare": (),
    "aws": (),
}
STANDINGS = {"envoy": ENVOY_STANDING, "cloudflare": CLOUDFLARE_STANDING, "aws": AWS_STANDING}


def parsed(text: str) -> dict[str, Any]:
    """The file as data; strings keep their quotes."""
    hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not installed")
    return hcl2.loads(text)


def resource(text: str, kind: str) -> dict[str, Any]:
    (found,) = [block[quoted(kind)] for block in parsed(text)["resource"] if quoted(kind) in block]
    ((_, content),) = found.items()
    return content


@pytest.mark.parametrize("target", EXAMPLE_WORDS)
def test_the_examples_are_what_is_rendered_and_say_how_far_they_were_tried(tmp_path: Path, target: str) -> None:
    words = ("--topology", str(PROJECT / "deploy" / "topology.json"), "--output", str(tmp_path / "out"))
    told = loyalty(tmp_path, "edge", "render", "--for", target, *words, *EXAMPLE_WORDS[target])
    assert (told.returncode, told.stdout, told.stderr) == (0, "", f"{STANDINGS[target]}\n")
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {name: (EXAMPLES / name).read_text() for name in written}
    assert any(STANDINGS[target] in text for text in written.values())


def test_no_example_is_left_over() -> None:
    names = {"README.md", "envoy.json", "routes.json", "clusters.json", "cloudflare.tf", "aws.tf"}
    assert {path.name for path in EXAMPLES.iterdir()} == names


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--nearest", "sa"), "there is no region sa"),
        (("--evacuated", "sa"), "there is no region sa"),
        (("--share", "eu=half"), "write a share as NAME=PERCENT, not eu=half"),
        (("--share", "eu=101"), "the share of region eu is 0 to 100 percent"),
        (
            ("--for", "cloudflare", "--share", "us=10"),
            "Cloudflare's pools take over from one another: region us takes 0 or 100 percent",
        ),
        (("--place", "eu=95,9"), "region eu lies at -90 to 90 degrees north and -180 to 180 east"),
        (("--place", "eu=50,nan"), "region eu lies at -90 to 90 degrees north and -180 to 180 east"),
        (("--place", "eu=north"), "write a place as NAME=LATITUDE,LONGITUDE, not eu=north"),
        (
            ("--cors-origin", "app.example"),
            "cors_origins: 0: an origin is like https://app.example, without a path; * is any",
        ),
        (("--certificate", "x.pem"), "TLS needs both a certificate and its key"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, tuple) else "",
)
def test_what_cannot_be_rendered_is_said_in_one_line(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    document = ("--topology", str(PROJECT / "deploy" / "topology.json"))
    told = loyalty(tmp_path, "edge", "render", "--for", "envoy", *document, *words)
    assert (told.returncode, told.stdout, told.stderr) == (1, "", f"{why}\n")


def test_a_region_is_dialled_up_by_its_share(tmp_path: Path) -> None:
    path = PROJECT / "deploy" / "topology.json"
    words = ("--for", "envoy", "--topology", str(path), "--share", "us=10", "--output", str(tmp_path / "door"))
    assert loyalty(tmp_path, "edge", "render", *words).returncode == 0
    listening = Listening(folder=tmp_path / "door", port=8400, admin_port=8401)
    document = read_topology(path).document
    rendered = render_envoy(make_door(document, shares={"us": 10}), listening)["routes.json"]
    assert json.loads((tmp_path / "door" / "routes.json").read_text()) == rendered
    assert rendered != render_envoy(make_door(document), listening)["routes.json"]


def test_one_file_is_printed_as_it_is(tmp_path: Path) -> None:
    document = ("--topology", str(PROJECT / "deploy" / "topology.json"))
    told = loyalty(tmp_path, "edge", "render", "--for", "aws", *document)
    assert told.stdout == (EXAMPLES / "aws.tf").read_text()


def test_cloudflare_takes_regions_in_the_order_of_the_decision() -> None:
    door = three_regions(evacuated=["eu"], nearest="us")
    text = render_cloudflare(door)
    (settings,) = parsed(text)["locals"]
    for region, pools in settings["first"].items():
        expected = [
            f'${{cloudflare_load_balancer_pool.region["{name}"].id}}' for name in door.order(json.loads(region))
        ]
        assert pools == expected
    balancer = resource(text, "cloudflare_load_balancer")
    assert balancer["default_pools"] == '${local.first["us"]}'
    assert balancer["region_pools"].keys() == PARTS_OF_THE_WORLD.keys()
    assert balancer["region_pools"]["WEU"] == '${local.first["eu"]}'
    assert balancer["region_pools"]["SSAM"] == '${local.first["us"]}'
    assert balancer["region_pools"]["NEAS"] == '${local.first["ap"]}'
    homes = {json.loads(rule["name"]): rule["overrides"]["default_pools"] for rule in balancer["rules"]}
    assert homes == {f"home-{region}": f'${{local.first["{region}"]}}' for region in NUMBERS}


@pytest.mark.parametrize("region", NUMBERS)
def test_cloudflares_rules_name_what_names_a_member(region: str) -> None:
    rule = condition(NUMBERS[region])
    member = member_of(region)[:2].lower()
    path, header = "lower(http.request.uri.path)", 'lower(http.request.headers["loyalty-member"][0])'
    for start in (f"/v1/members/{member}", f"/v1/purchases/pur_{member}", f"/v1/redemptions/red_{member}"):
        assert f'starts_with({path}, "{start}")' in rule
    assert f'starts_with({header}, "{member}")' in rule
    assert f'starts_with({header}, "{card_of(region)[:2]}")' in rule
    assert f'starts_with(http.request.uri.query, "card={card_of(region)[:2]}")' in rule


def test_aws_evacuates_by_weight_and_never_by_the_dial() -> None:
    text = render_aws(three_regions(evacuated=["us"]))
    (settings,) = parsed(text)["locals"]
    assert settings["weights"] == {'"eu"': 128, '"us"': 0, '"ap"': 128}
    assert resource(text, "aws_globalaccelerator_endpoint_group")["traffic_dial_percentage"] == 100


def test_every_region_whose_place_is_known_can_be_rendered() -> None:
    names = sorted(REGIONS)
    document = topology()
    rows = {name: document.regions["eu"].model_copy(update={"number": n}) for n, name in enumerate(names, start=1)}
    door = make_door(document.model_copy(update={"regions": rows}))
    assert len(resource(render_cloudflare(door), "cloudflare_load_balancer")["rules"]) == len(names)
    (settings,) = parsed(render_aws(door))["locals"]
    assert len(settings["weights"]) == len(names)


def test_texts_for_terraform_have_nothing_that_it_would_fill_in() -> None:
    assert quoted('a "b" ${c} %{d}') == '"a \\"b\\" $${c} %%{d}"'


def test_a_country_is_only_what_the_door_itself_found() -> None:
    (mutation,) = json.loads((EXAMPLES / "envoy.json").read_text())["static_resources"]["listeners"][0][
        "filter_chains"
    ][0]["filters"][0]["typed_config"]["early_header_mutation_extensions"]
    assert [one["remove"] for one in mutation["typed_config"]["mutations"]] == list(STRANGERS)
    assert {"loyalty-country", "x-forwarded-for", "cf-ipcountry"} <= set(STRANGERS)


def test_the_door_lets_go_of_an_idle_connection_before_its_node_does() -> None:
    """A node that closes as the door sends a command: nobody knows whether it was heard."""
    for cluster in render_dynamic(three_regions())[CLUSTERS]["resources"]:
        (protocol,) = cluster["typed_extension_protocol_options"].values()
        idle = protocol["common_http_protocol_options"]["idle_timeout"]
        assert float(idle.removesuffix("s")) <= NodeSettings.model_fields["idle_timeout_s"].default - 10


def test_open_event_streams_leave_room_for_what_is_asked() -> None:
    """Each holds a connection, on as many nodes as a region may have here."""
    one = sum(QuerySettings.model_fields[name].default for name in ("streams_max", "in_flight_max"))
    for cluster in render_dynamic(three_regions())[CLUSTERS]["resources"]:
        (bounds,) = cluster["circuit_breakers"]["thresholds"]
        assert min(bounds.values()) >= min(NODES_MAX * one, NodeSettings.model_fields["connections_max"].default)
