"""To which region a request goes: the member's home, else the client's country, else the nearest."""

import re

import pytest

from edge.decision import EdgeError, make_door, side_of
from edge.geography import COUNTRIES, REGIONS, Place, distance_km
from edge.prefix import card_pattern, id_pattern, id_prefixes, member_pattern, path_prefixes
from shard_router.card import new_card
from shard_router.member_id import REGION_NUMBER_MAX, SLOT_COUNT, format_member_id, new_member_id
from tests.edge_world import card_of, member_of, three_regions, topology

US = member_of("us")
PATHS_OF_US = {
    "a member": f"/v1/members/{US}",
    "small letters": f"/v1/members/{US.lower()}",
    "below a member": f"/v1/members/{US}/account",
    "with a query": f"/v1/members/{US}/activity?limit=3",
    "a purchase": f"/v1/purchases/pur_{US}-7",
    "a return": f"/v1/purchases/pur_{US}-7/returns",
    "a hold": f"/v1/holds/hld_{US}-12/capture",
    "a redemption": f"/v1/redemptions/red_{US.lower()}-3/use",
    "a card looked up": f"/v1/lookup?card={card_of('us')}",
    "a card among others": f"/v1/lookup?x=1&card={card_of('us')}&card={card_of('ap')}",
}


@pytest.mark.parametrize("path", PATHS_OF_US.values(), ids=PATHS_OF_US.keys())
def test_what_names_a_member_goes_home(path: str) -> None:
    chosen = three_regions().decide(path, country="JP")
    assert (chosen.regions, chosen.why) == (("us", "eu", "ap"), "member")


NOT_NAMED = {
    "another kind's reference": f"/v1/purchases/hld_{US}-7",
    "a reference without version": f"/v1/purchases/pur_{US}",
    "a key that looks like an id": f"/v1/commands/{US}",
    "longer than an id": f"/v1/members/{US}0",
    "shorter than an id": f"/v1/members/{US[:-1]}",
    "a region that does not exist": "/v1/members/0G000000000000",
    "a card in a path": f"/v1/members/{card_of('us')}",
    "a card elsewhere": f"/v1/stores?card={card_of('us')}",
    "an id as a card": f"/v1/lookup?card={US}",
    "a card after another": f"/v1/lookup?card=&card={card_of('us')}",
    "a phone": "/v1/lookup?phone=%2B493012345678",
    "no member at all": "/v1/rewards",
}


@pytest.mark.parametrize("path", NOT_NAMED.values(), ids=NOT_NAMED.keys())
def test_what_names_no_member_goes_by_country_then_to_the_nearest(path: str) -> None:
    door = three_regions(nearest="us")
    assert door.decide(path, country="JP").regions == ("ap", "eu", "us")
    assert door.decide(path, country="JP").why == "country"
    assert (door.decide(path).regions, door.decide(path).why) == (("us", "eu", "ap"), "nearest")


@pytest.mark.parametrize("named", [member_of("ap"), member_of("ap").lower(), card_of("ap")])
def test_the_header_names_a_member_by_id_or_card(named: str) -> None:
    chosen = three_regions().decide("/v1/purchases", named, "DE")
    assert (chosen.regions[0], chosen.why) == ("ap", "member")


def test_the_path_counts_before_the_header() -> None:
    assert three_regions().decide(f"/v1/members/{US}", member_of("ap")).regions[0] == "us"


@pytest.mark.parametrize("named", ["", "nobody", f"{US},{US}", f" {US}", f"{US}\n"])
def test_a_header_that_names_nobody_decides_nothing(named: str) -> None:
    assert three_regions().decide("/v1/purchases", named, "US").why == "country"


@pytest.mark.parametrize(
    ("country", "region"),
    [("DE", "eu"), ("ZA", "eu"), ("US", "us"), ("BR", "us"), ("JP", "ap"), ("AU", "ap"), ("SG", "ap")],
)
def test_a_country_goes_to_the_region_nearest_to_it(country: str, region: str) -> None:
    assert three_regions().decide("/v1/rewards", country=country).regions[0] == region


@pytest.mark.parametrize("country", ["XX", "T1", "", "de", "UNKNOWN"])
def test_a_country_nobody_knows_is_none(country: str) -> None:
    assert three_regions().decide("/v1/rewards", country=country).why == "nearest"


def test_evacuated_regions_stand_behind_all_others() -> None:
    door = three_regions(evacuated=["us"])
    assert door.decide(f"/v1/members/{US}").regions == ("eu", "ap", "us")
    assert door.decide("/v1/rewards", country="JP").regions == ("ap", "eu", "us")


@pytest.mark.parametrize(
    ("method", "path", "side"),
    [
        ("GET", "/v1/rewards", "query"),
        ("HEAD", "/v1/rewards", "query"),
        ("OPTIONS", "/v1/purchases", "query"),
        ("POST", "/v1/evaluations", "query"),
        ("POST", "/v1/stream-tickets?x=1", "query"),
        ("POST", "/v1/purchases", "command"),
        ("PATCH", f"/v1/members/{US}", "command"),
        ("DELETE", f"/v1/members/{US}", "command"),
    ],
)
def test_commands_and_queries_are_told_apart(method: str, path: str, side: str) -> None:
    assert side_of(method, path) == side


def test_prefixes_hold_for_every_region_and_for_no_two() -> None:
    numbers = range(1, REGION_NUMBER_MAX + 1)
    prefixes = [prefix for number in numbers for prefix in id_prefixes(number)]
    assert len(prefixes) == len(set(prefixes))
    for number in numbers:
        for slot in (0, 1, SLOT_COUNT // 2, SLOT_COUNT - 1):
            member = format_member_id(new_member_id(number, slot))
            card = new_card(number, slot)
            assert [n for n in numbers if re.fullmatch(id_pattern(n), member)] == [number]
            assert [n for n in numbers if re.fullmatch(card_pattern(n), card)] == [number]
            assert re.fullmatch(member_pattern(number), member.lower())
            assert f"/v1/members/{member.lower()}".startswith(path_prefixes(number))


def test_the_first_region_is_where_the_door_stands_unless_said_otherwise() -> None:
    assert make_door(topology()).nearest == "eu"


def test_a_door_that_cannot_be_made_says_what_is_missing() -> None:
    document = topology()
    renamed = document.model_copy(update={"regions": {"mars": document.regions["eu"]}})
    with pytest.raises(EdgeError, match=r"where is region mars.*--place mars="):
        make_door(renamed)
    assert make_door(renamed, places={"mars": Place(0, 0)}).nearest == "mars"
    with pytest.raises(EdgeError, match="no region sa"):
        make_door(document, evacuated=["sa"])
    with pytest.raises(EdgeError, match="no region sa"):
        make_door(document, nearest="sa")
    with pytest.raises(EdgeError, match="not evacuated"):
        make_door(document, evacuated=["eu", "us", "ap"])


def test_countries_have_codes_of_two_letters_and_distances_are_those_of_a_globe() -> None:
    assert all(re.fullmatch("[A-Z]{2}", code) for code in COUNTRIES)
    assert distance_km(REGIONS["eu"], REGIONS["eu"]) == 0
    assert distance_km(Place(0, 0), Place(0, 180)) == pytest.approx(20_015, abs=1)
    assert distance_km(Place(0, 179), Place(0, -179)) == pytest.approx(222, abs=1)
