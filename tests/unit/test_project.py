"""Changes to view operations, without any server."""

import orjson
import pytest

from cdc.project import Operations, project
from cdc.source import Change
from query.views import header
from shard_router.member_id import format_member_id
from tests.change import ALICE, BOB, identifier, journal, member


def test_a_journal_entry_becomes_account_activity_and_notice() -> None:
    operations = project([journal(ALICE, 3)])
    assert operations.accounts == {f"a:{ALICE}": header(3) + b'{"version":3,"balance":{"available":3}}'}
    item = orjson.loads(operations.entries[f"e:{ALICE}", 3])
    assert (item["version"], item["balance_after"]) == (3, {"available": 3})
    assert operations.visible == {ALICE: 3}


def test_only_the_newest_account_of_a_batch_is_sent_but_every_entry() -> None:
    operations = project([journal(ALICE, 3), journal(BOB, 1), journal(ALICE, 4)])
    assert {key: value[:16] for key, value in operations.accounts.items()} == {
        f"a:{ALICE}": header(4),
        f"a:{BOB}": header(1),
    }
    assert set(operations.entries) == {(f"e:{ALICE}", 3), (f"e:{ALICE}", 4), (f"e:{BOB}", 1)}
    assert operations.visible == {ALICE: 4, BOB: 1}


def test_a_late_change_never_replaces_a_newer_one_of_its_batch() -> None:
    assert project([member(ALICE, 5), member(ALICE, 4)]).views[f"m:{ALICE}"] == header(5) + '{"name":"ü5"}'.encode()
    late = project([journal(ALICE, 5), journal(ALICE, 4)])
    assert (late.accounts[f"a:{ALICE}"][:16], late.visible) == (header(5), {ALICE: 5})


def test_a_purchase_is_guarded_by_its_last_change() -> None:
    row = {
        "member_id": ALICE,
        "version": 2,
        "changed_version": 9,
        "store": "s",
        "till": "t",
        "receipt": "r",
        "business_date": "2026-11-22",
        "occurred_at": "2026-11-22T10:00:00Z",
        "document": '{"lines":[]}',
    }
    (key, value), *rest = project([Change("purchase", "update", row, 1, 1)]).views.items()
    assert (key, value[:16], rest) == (f"p:{ALICE}-2", header(9), [])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([identifier(10)], header(10) + orjson.dumps({"member_id": format_member_id(ALICE)})),
        ([identifier(10), identifier(20, "delete")], header(20)),
        (
            [identifier(10), identifier(20, "delete"), identifier(30, member_id=BOB)],
            header(30) + orjson.dumps({"member_id": format_member_id(BOB)}),
        ),
    ],
    ids=["attached", "removed", "moved to another member whose versions are lower"],
)
def test_an_identifier_follows_the_order_of_the_log(changes: list[Change], wanted: bytes) -> None:
    assert project(changes).identifiers == {"i:phone:+49:1": wanted}


@pytest.mark.parametrize(
    "change",
    [
        Change("program", "insert", {"version": 1}, 1, 1),
        Change("loyalty.heartbeat", "message", {"content": ""}, 1, 1),
        Change("table_of_tomorrow", "insert", {}, 1, 1),
    ],
    ids=lambda change: change.table,
)
def test_what_has_no_view_is_passed_over(change: Change) -> None:
    assert project([change]) == Operations()


def test_a_change_that_could_not_be_read_is_a_failed_one_and_holds_up_no_other() -> None:
    unread = Change("?", "unread", {"why": "KeyError: 99"}, 1, 1)
    operations = project([unread, journal(BOB, 1)])
    assert (operations.failed, operations.visible) == ([(unread, "KeyError: 99")], {BOB: 1})


@pytest.mark.parametrize(
    "poison",
    [
        journal(ALICE, 1, account_after="{"),
        journal(ALICE, 1, account_after=None),
        Change("member", "update", {"member_id": ALICE, "version": 2}, 1, 1),
    ],
    ids=["broken document", "null", "a column that did not travel"],
)
def test_a_poisonous_row_leaves_no_half_and_holds_up_no_other(poison: Change) -> None:
    operations = project([poison, journal(BOB, 1)])
    assert [change for change, _ in operations.failed] == [poison]
    assert list(operations.accounts) == [f"a:{BOB}"]
    assert operations.visible == {BOB: 1}
