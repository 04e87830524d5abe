"""What the rules store has its layout (rules/document.py, detail.py); what answers show of it has that of OpenAPI."""

import inspect
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from query import shape
from rules import detail, document
from rules.codec import posting_document, state_row
from rules.describe import describe_account
from rules.detail import DETAILS
from rules.document import AccountDocument, PurchaseDocument
from rules.program import Program
from service import shape as service_shape
from tests.rules_history import LAW, live, programs
from tests.rules_world import earlier_state
from verify.entry import _DETAIL, _POINTS

LAYOUTS = {
    name: one
    for module in (detail, document)
    for name, one in inspect.getmembers(module)
    if hasattr(one, "__required_keys__")
}


def wrong(value: Any, layout: Any, path: str = "") -> list[str]:
    """Keys that a stored value has and its layout does not, or the other way round, at any depth."""
    if layout in LAYOUTS.values():
        known: frozenset[str] = layout.__required_keys__ | layout.__optional_keys__
        found = [f"{path}.{key}" for key in (value.keys() - known) | (layout.__required_keys__ - value.keys())]
        hints = get_type_hints(layout)
        return found + [one for key in value.keys() & known for one in wrong(value[key], hints[key], f"{path}.{key}")]
    if isinstance(value, dict) and get_origin(layout) is not dict:
        choices = [wrong(value, one, path) for one in get_args(layout) if one in LAYOUTS.values()]
        return min(choices, key=len, default=[f"{path}: an object"])
    if isinstance(value, list) and layout is not Any:
        (part,) = get_args(layout)
        return [one for index, part_value in enumerate(value) for one in wrong(part_value, part, f"{path}[{index}]")]
    return []


@LAW
@given(st.data(), programs())
def test_everything_is_stored_in_its_layout(data: st.DataObject, rules: Program) -> None:
    member = live(data, rules, steps=12)
    for entry in member.journal:
        assert wrong(entry.detail, DETAILS[entry.kind]) == [], entry.kind
        assert wrong([posting_document(posting) for posting in entry.postings], list[document.PostingDocument]) == []
    assert wrong(earlier_state(state_row(member.now)), document.StateDocument) == []
    assert wrong(describe_account(member.now, rules, "7"), AccountDocument) == []
    assert [one for purchase in member.purchases.values() for one in wrong(purchase.document, PurchaseDocument)] == []


def test_verify_knows_every_kind_and_only_keys_that_it_has() -> None:
    assert _POINTS.keys() == DETAILS.keys()
    for kind, names in _DETAIL.items():
        assert set(names) <= DETAILS[kind].__required_keys__ | DETAILS[kind].__optional_keys__, kind


def test_a_key_that_no_layout_knows_is_found() -> None:
    line = {"line": 1, "sku": "a", "quantity": "1", "amount": 1, "category": None, "points": 0, "earned": {}}
    assert wrong(line | {"returned": "0", "reversed": {}, "colour": 1}, document.LineDocument) == [".colour"]
    assert wrong(line | {"returned": "0"}, document.LineDocument) == [".reversed"]


HEAD = {"purchase_id", "member_id", "version", "store", "till", "receipt", "business_date", "occurred_at"}
SHOWN: dict[type[BaseModel], tuple[Any, set[str], set[str]]] = {
    service_shape.Account: (document.AccountDocument, set(), set()),
    service_shape.Balance: (document.BalanceDocument, set(), set()),
    service_shape.MemberTier: (document.TierDocument, set(), set()),
    service_shape.NextTier: (document.NextTierDocument, set(), set()),
    service_shape.Expiring: (document.ExpiringDocument, set(), set()),
    shape.Explanation: (document.ExplanationDocument, set(), set()),
    shape.PurchaseLine: (document.LineDocument, {"paid", "repaid"}, set()),
    shape.Payment: (document.PaymentDocument, {"lots"}, set()),
    shape.ReturnedLine: (document.ReturnedLineDocument, set(), set()),
    shape.PurchaseReturn: (document.ReturnDocument, set(), {"return_id"}),
    shape.Purchase: (document.PurchaseDocument, {"counted", "rounded_once", "explained"}, HEAD),
    service_shape.NotApplied: (document.NotAppliedDocument, set(), set()),
}
"""Which layout an answer's model shows, what of it only the rules need, and what stands there besides."""


@pytest.mark.parametrize("model", SHOWN, ids=lambda model: model.__name__)
def test_an_answer_shows_what_is_stored(model: type[BaseModel]) -> None:
    layout, hidden, besides = SHOWN[model]
    assert model.model_fields.keys() == ((layout.__required_keys__ | layout.__optional_keys__) - hidden) | besides
