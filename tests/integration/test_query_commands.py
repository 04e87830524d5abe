"""What became of a command: found on whichever shard, under whatever key, and told to whom it concerns only."""

import string
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from yarl import URL

from shard_router.member_id import format_member_id
from tests.query_world import START, ShardPlace, World, entry, member, open_world, write_row

ADA, BOB = member(1), member(2, region="us")
UNKNOWN = {"status": "unknown"}
VISIBLE = string.digits + string.ascii_letters + string.punctuation
KEYS = [
    *("{", "}", "{id}", "{}", "/", "a/b", "//", "%", "%2F", "%7B", "+", "?", "#", "&=", ";", "\\", "~", "*"),
    *('"', '"a"b"', ".", "..", "...", "till/7-{1}", VISIBLE, "k" * 255),
]  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path, two_shards: dict[str, ShardPlace]) -> AsyncGenerator[World]:
    async with open_world(tmp_path, two_shards) as opened:
        yield opened


async def store(
    place: ShardPlace, key: str, credential: str, answer: dict[str, Any], **entry_of: int
) -> dict[str, Any]:
    """Store an answer as a command node does; tells what is then told of it."""
    row = {
        "key": key,
        "credential": credential,
        "fingerprint": "00000000-0000-0000-0000-000000000001",
        "status": 201,
        "answer": orjson.dumps(answer).decode(),
        "answered_at": START,
    }
    await write_row(place.primary, "idempotency", row | entry_of)
    return {"status": "done", "answer_status": 201, "answer": answer}


async def ask(world: World, key: str, credential: str | None = None, *, region: str = "eu") -> Any:
    encoded = quote(key, safe="").replace(".", "%2E")
    url = URL(f"{world.nodes[region]}/v1/commands/{encoded}", encoded=True)
    headers = {"Authorization": f"Bearer {credential or world.keys['service']}"}
    async with world.session.get(url, headers=headers) as answer:
        return await answer.json(content_type=None)


def id_of(key: str) -> str:
    return key.split("_")[1]


async def test_a_till_hears_of_its_own_commands_and_staff_of_all(world: World) -> None:
    done = await store(world.shards["us-1"], "till-7", id_of(world.keys["pos"]), {"hold_id": "hld_x"})
    assert await ask(world, "till-7") == done
    assert await ask(world, '"till-7"') == done
    assert await ask(world, "till-7", world.keys["pos"]) == done
    assert await ask(world, "till-7", world.keys["other_pos"]) == UNKNOWN
    assert await ask(world, "never-sent") == UNKNOWN


async def test_it_is_told_which_server_told_it(world: World) -> None:
    """Here a shard has its primary alone."""
    await store(world.shards["us-1"], "till-9", id_of(world.keys["pos"]), {"hold_id": "hld_x"})
    assert (await world.get("/v1/commands/till-9")).headers["Loyalty-Source"] == "primary"


async def test_a_key_of_any_visible_characters_is_found(world: World) -> None:
    written = {key: await store(world.shards["us-1"], key, "someone", {"key": key}) for key in KEYS}
    assert {key: await ask(world, key) for key in KEYS} == written


@pytest.mark.parametrize("key", [".", ".."])
async def test_a_key_that_a_path_has_no_room_for_is_found_in_quotes(world: World, key: str) -> None:
    """Every client takes such a segment out of a path, percent-encoded or not, before it sends it."""
    written = await store(world.shards["us-1"], key, "someone", {"key": key})
    assert (await world.get(f"/v1/commands/%22{key}%22")).json == written


async def test_what_a_stored_answer_leaves_out_is_told_from_its_entry(world: World) -> None:
    place, row = (
        world.shards["us-1"],
        entry(BOB, 2, detail='{"not_applied":[{"code":"fuel","why":"no_line: no line matches"}]}'),
    )
    await write_row(place.primary, "journal", row)
    shortened = {"purchase_id": "pur_x-2", "postings": None, "not_applied": None, "account": None}
    await store(place, "till-8", "someone", shortened, member_id=BOB, version=2)
    told = (await ask(world, "till-8"))["answer"]
    assert told == {
        "purchase_id": "pur_x-2",
        "postings": orjson.loads(row["postings"]),
        "not_applied": [{"code": "fuel", "why": "no_line: no line matches"}],
        "account": orjson.loads(row["account_after"]),
    }
    assert list(told) == list(shortened)


async def test_a_key_that_two_tills_used_on_two_shards_tells_each_of_its_own(world: World) -> None:
    pos, other = world.keys["pos"], world.keys["other_pos"]
    mine = await store(world.shards["us-1"], "0001", id_of(pos), {"whose": "mine"})
    theirs = await store(world.shards["eu-1"], "0001", id_of(other), {"whose": "theirs"})
    for region in ("eu", "us"):
        assert await ask(world, "0001", pos, region=region) == mine
        assert await ask(world, "0001", other, region=region) == theirs


async def test_a_member_hears_of_their_own_commands_only(world: World) -> None:
    key = "transfer-1"
    till = await store(world.shards["eu-1"], key, id_of(world.keys["pos"]), {"whose": "till"})
    ada = await store(world.shards["eu-1"], f"member:{format_member_id(ADA)} {key}", "member:x", {"whose": "ada"})
    bob = await store(world.shards["us-1"], f"member:{format_member_id(BOB)} {key}", "member:y", {"whose": "bob"})
    assert await ask(world, key, world.member_token(ADA)) == ada
    assert await ask(world, key, world.member_token(BOB)) == bob
    assert await ask(world, key, world.member_token(member(3))) == UNKNOWN
    assert await ask(world, key) == till
    assert await ask(world, f"member:{format_member_id(BOB)} {key}", world.keys["admin"]) == UNKNOWN


@pytest.mark.parametrize("path", ["%00", "%FF", "%C3%A9", "a%20b", "k" * 256])
async def test_a_key_nobody_can_have_sent_is_unknown(world: World, path: str) -> None:
    assert (await world.get(f"/v1/commands/{path}")).json == UNKNOWN
