"""What an entry of an activity is about."""

import json
from datetime import datetime
from typing import Any

import pytest

from query.subject import subject_of
from query.views import activity_item
from shard_router.member_id import compose_member_id, format_member_id
from tests.query_world import entry

ADA = compose_member_id(1, slot=7, unique=1)
BEA = compose_member_id(2, slot=9, unique=2)
ADA_TEXT, BEA_TEXT = format_member_id(ADA), format_member_id(BEA)

SUBJECTS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "a purchase names itself": ("purchase_recorded", {}, {"purchase_id": f"pur_{ADA_TEXT}-9"}),
    "a return names itself and its purchase": (
        "purchase_returned",
        {"purchase": 4, "points_reversed": 3},
        {"purchase_id": f"pur_{ADA_TEXT}-4", "return_id": f"ret_{ADA_TEXT}-9"},
    ),
    "a hold that lapsed names the hold": ("hold_lapsed", {"hold": 5}, {"hold_id": f"hld_{ADA_TEXT}-5"}),
    "a redemption names its reward, and not its code": (
        "reward_redeemed",
        {"redemption": 9, "reward": "coffee", "quantity": 1, "code": "SECRET"},
        {"redemption_id": f"red_{ADA_TEXT}-9", "reward": "coffee"},
    ),
    "a redemption used under an earlier version has no reward": (
        "redemption_used",
        {"redemption": 6, "status": "used", "till": None},
        {"redemption_id": f"red_{ADA_TEXT}-6"},
    ),
    "who sends names the transfer": (
        "transfer_sent",
        {"transfer": 9, "receiver": BEA, "sent": 5, "lots": []},
        {"transfer_id": f"trf_{ADA_TEXT}-9", "direction": "sent"},
    ),
    "who receives names the same transfer": (
        "transfer_received",
        {"sender": BEA, "transfer": 3},
        {"transfer_id": f"trf_{BEA_TEXT}-3", "direction": "received"},
    ),
    "an adjustment is about nothing else": ("points_adjusted", {}, {}),
}


@pytest.mark.parametrize("what", SUBJECTS)
def test_an_entry_says_what_it_is_about(what: str) -> None:
    kind, detail, expected = SUBJECTS[what]
    assert subject_of(ADA, 9, kind, detail) == expected


@pytest.mark.parametrize("text", ["2026-11-22T10:00:00Z", "2026-11-22T10:00:00.000007Z", "2026-11-22T10:00:00.250000Z"])
def test_an_instant_is_shown_alike_from_a_row_and_from_the_stream(text: str) -> None:
    of_stream = entry(ADA, 9, occurred_at=text)
    assert activity_item(of_stream | {"occurred_at": datetime.fromisoformat(text)}) == activity_item(of_stream)


def test_an_activity_item_shows_it_before_the_version_and_keeps_the_balance_as_it_was_written() -> None:
    row = entry(ADA, 9, kind="hold_placed", detail='{"hold": 9}')
    item = json.loads(activity_item(row))
    assert list(item)[-2:] == ["hold_id", "version"]
    assert item["balance_after"] == json.loads(row["account_after"])["balance"]
