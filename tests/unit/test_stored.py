"""Documents in the short form in which they are stored come back as they were."""

from copy import deepcopy
from datetime import datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules import stored
from rules.codec import posting_document
from rules.describe import describe_account
from rules.document import explanation_of
from rules.program import Program
from tests.rules_history import LAW, live, programs


def kept(value: Any) -> Any:
    """What a column of JSON gives back."""
    return orjson.loads(orjson.dumps(value))


@LAW
@given(st.data(), programs())
def test_everything_comes_back_as_it_was_and_in_its_order(data: st.DataObject, rules: Program) -> None:
    member = live(data, rules, steps=12)
    for entry in member.journal:
        postings = [posting_document(posting) for posting in entry.postings]
        account: Any = describe_account(entry.account, rules, "7")
        after: Any = stored.full_account(
            kept(stored.short_account(account)), member="7", version=account["version"], as_of=entry.account.changed_at
        )
        assert orjson.dumps(stored.full_postings(kept(stored.short_postings(postings)))) == orjson.dumps(postings)
        assert orjson.dumps(after) == orjson.dumps(account)
    for purchase in member.purchases.values():
        row = kept(stored.short_purchase(purchase.document))
        assert stored.full_purchase(row) == purchase.document
        assert stored.stored_explanation(row) == explanation_of(purchase.document)
        unexplained = {name: value for name, value in purchase.document.items() if name != "explained"}
        assert stored.full_purchase(row, explained=False) == unexplained
    for entry in member.journal:
        if entry.kind == "purchase_recorded":
            told = entry.detail.get("not_applied", [])
            assert stored.not_applied_of(member.purchases[entry.version].document) == told


@pytest.mark.parametrize(
    "why",
    ["no_line: no line matches", "tier: not for tier gold: or so", "tier: not for tier  x", "min_amount: 1",
     "min_amount: 1 of 2 minor units in money", "store: not in store ", "group: campaign:x gives 1 points, this 2", ""],
)  # fmt: skip
def test_a_reason_comes_back_whatever_it_says(why: str) -> None:
    assert stored.full_why(stored.short_why(why)) == why


def test_what_gave_nothing_is_stored_with_why_in_one_text() -> None:
    rows: list[list[Any]] = [
        ["base", 12],
        ["weekend", 0, "weekday: not on fri"],
        ["coupon:of two words", 0, "tier: not for tier basic"],
        ["most", 3, "limit: 3 of 5"],
        ["other", 0, "whatever: it may be"],
        ["large", 0, "min_amount: 12 of 100 minor units in money"],
    ]
    parts = stored._short_reasons(rows)
    assert {"d:fri weekend", "a:12 of 100 large"} <= {part for part in parts if isinstance(part, str)}
    assert stored._full_reasons(parts) == rows
    assert stored._full_reasons(["base", 12, "weekend", "d:fri"]) == rows[:2]  # as earlier versions stored it
    document: Any = {"explained": rows}
    for row in (parts, ["base", 12, "weekend", "d:fri", *parts[3:]]):
        assert stored.stored_explanation([*range(7), row]) == explanation_of(document)


def test_what_an_earlier_version_stored_is_read_as_it_is() -> None:
    posting: Any = {"points": 1, "from": "program", "to": "available", "expires_at": None, "reason": "base"}
    account: Any = {"version": 2}
    basket: Any = {"lines": [], "explanation": []}
    assert stored.full_postings([posting]) == [posting]
    assert stored.full_account(account, member="7", version=2, as_of=datetime.min) == account  # noqa: DTZ901
    assert stored.full_purchase(basket) == basket == stored.short_purchase(deepcopy(basket))
    told: Any = [{"campaign": "base", "applied": True, "points": 1, "why": "applied"}]
    assert stored.stored_explanation(basket | {"explanation": told}) == told
    assert stored.stored_explanation([*range(7)]) == stored.stored_explanation([*range(7), None]) == []


def test_a_common_reason_is_stored_by_its_initial_and_read_by_its_code_too() -> None:
    for code, initial in stored._INITIALS.items():
        text = stored.full_why(f"{initial}:x")
        assert text.startswith(f"{code}: ")
        assert stored.short_why(text) == f"{initial}:x"
        assert stored.full_why(f"{code}:x") == text
