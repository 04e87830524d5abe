"""The whole path, from a till in one region to a phone in another."""

import asyncio
import json

from tests.conftest import eventually
from tests.system.conftest import loyalty
from tests.system.till import System, basket


async def test_a_purchase_abroad_is_decided_at_home_and_read_anywhere_with_its_token(system: System) -> None:
    member = await system.enrol("eu")
    bought = await system.post("us", "/v1/purchases", basket(member, "us", "abroad-1"))
    assert (bought.status, bought.headers["Loyalty-Region"]) == (201, "eu")
    token = bought.headers["Consistency-Token"]
    read = await system.get("ap", f"/v1/members/{member}/account", **{"Consistency-Token": token})
    assert (read.status, read.headers["Loyalty-Region"]) == (200, "eu")
    assert read.json == bought.json["account"]
    assert read.headers["ETag"] == f'W/"{read.json["version"]}"'
    again = await system.get("ap", f"/v1/members/{member}/account", **{"If-None-Match": read.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_views_follow_by_themselves_and_come_from_the_cache(system: System) -> None:
    member = await system.enrol("ap")
    bought = await system.post("ap", "/v1/purchases", basket(member, "ap", "cache-1"))

    async def visible() -> bool:
        reply = await system.get("ap", f"/v1/members/{member}/account")
        return reply.headers.get("Loyalty-Source") == "cache" and reply.json["version"] == 2

    await eventually(visible)
    activity = (await system.get("ap", f"/v1/members/{member}/activity?page_size=1")).json
    assert activity["items"][0]["points"] == bought.json["points_earned"]
    older = await system.get("ap", f"/v1/members/{member}/activity?page_token={activity['next_page_token']}")
    assert [item["kind"] for item in older.json["items"]] == ["member_enrolled"]
    purchase = await system.get("eu", f"/v1/purchases/{bought.json['purchase_id']}")
    assert purchase.json["lines"][0]["points"] == bought.json["points_earned"]


async def test_a_command_can_be_asked_about_and_a_card_looked_up(system: System) -> None:
    enrolled = await system.post("us", "/v1/members", {"name": "Ada"}, key="asked-about")
    asked = await system.get("us", "/v1/commands/asked-about")
    assert (asked.json["status"], asked.json["answer"]) == ("done", enrolled.json)
    assert (await system.get("us", "/v1/commands/never-sent")).json["status"] == "unknown"

    async def found() -> bool:
        reply = await system.get("eu", f"/v1/lookup?card={enrolled.json['card']}")
        return reply.status == 200 and reply.json["member_id"] == enrolled.json["member_id"]

    await eventually(found)


async def test_an_enrolment_sent_again_through_another_region_gets_its_first_answer(system: System) -> None:
    body = {"phone": "+49301234567", "name": "Ada"}
    first = await system.post("eu", "/v1/members", body, key="enrolled-twice")
    again = await system.post("us", "/v1/members", body, key="enrolled-twice")
    assert (again.status, again.json, again.headers["Loyalty-Region"]) == (201, first.json, "eu")
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await system.post("us", "/v1/members", body)
    assert (other.status, other.json["code"]) == (409, "member_exists")


async def test_what_is_not_there_and_what_may_not_be_seen_answer_alike(system: System) -> None:
    member = await system.enrol("eu")
    other = await system.enrol("eu")
    minted = loyalty(system.data, "token", "member", member)
    bearer = {"Authorization": f"Bearer {minted.stdout.strip()}"}
    own = await system.get("eu", f"/v1/members/{member}/account", **bearer)
    foreign = await system.get("eu", f"/v1/members/{other}/account", **bearer)
    missing = await system.get("eu", f"/v1/members/{'0' * 14}/account", **bearer)
    assert own.status == 200
    assert (foreign.status, foreign.json["code"]) == (missing.status, missing.json["code"]) == (404, "member_not_found")
    assert (await system.get("eu", f"/v1/members/{member}/account", Authorization="")).status == 401


async def test_the_system_is_shown_whole_from_any_region(system: System) -> None:
    admin = {"Authorization": f"Bearer {system.status['keys']['admin']}"}
    status = json.loads((await asyncio.to_thread(loyalty, system.data, "status", "--json")).stdout)
    regions = status["system"]["regions"].keys()
    assert regions == status["regions"].keys() == system.status["regions"].keys()
    for asked in ("eu", "ap"):

        async def is_whole(asked: str = asked) -> bool:
            seen = (await system.get(asked, "/v1/system", **admin)).json["regions"]
            shards = [shard for one in seen.values() for shard in one["shards"].values()]
            return (
                {name for name, one in seen.items() if one["reachable"] and one["share"] == 100} == regions
                and all(node["program_version"] for one in seen.values() for node in one["nodes"])
                and all({"primary", "standby"} == {server["role"] for server in one["servers"]} for one in shards)
                and all(one["projector"]["complete"] for one in shards)
                and all(1 in one["projector"]["synchronous_standbys"].values() for one in shards)
            )

        await eventually(is_whole, deadline_s=30)


async def test_every_promise_holds_on_the_data_at_rest(system: System) -> None:
    done = loyalty(system.data, "verify", "--json")
    assert done.returncode == 0, done.stdout
