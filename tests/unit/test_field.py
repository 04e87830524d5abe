"""The fields of bodies: what people write is accepted, what only looks like it is not, and schema and check agree."""

from decimal import Decimal
from typing import Annotated, Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from command.body import IdentifiersBody
from service import field
from service.body import PurchaseBody
from service.identifier import canonical_email, canonical_phone, forms_of

ACCEPTED = {
    "no-break space": "FRUITS\u00a0& LÉGUMES",
    "ideographic space": "山田\u3000太郎",
    "joiner of Indic scripts": "क\u094d\u200dष",
    "non-joiner of Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "soft hyphen": "Zucker\u00adwatte",
    "flag of England": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "emoji newer than this Python": "\U0001fae9",
    "marks of direction": "\u200f\u05e9\u05dc\u05d5\u05dd\u200e",
    "private use": "\ue000",
}
REFUSED = {
    "control": "a\u0007b",
    "line break": "a\nb",
    "tab at the end": "a\t",
    "C1 control": "a\u0085b",
    "delete": "a\u007f",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "override": "a\u202eb",
    "isolate": "a\u2066b",
    "lone surrogate": "a\ud800b",
    "blank": " \u3000 ",
    "empty": "",
    "too long": "x" * 65,
}
INSTANTS_REFUSED = (
    "1795500000", "1795500000000", "20261124", "1.7955e9", "2026-11-24", "2026-11-24 10:00:00Z", "2026-11-24_10:00:00Z",
    "2026-11-24T10:00Z", "2026-11-24T10:00:00", "2026-11-24T10:00:00,5Z", "2026-11-24T10:00:00+0100",
    "2026-11-24T10:00:00\u221201:00", "2026-11-24T10:00:00Z ", " 2026-11-24T10:00:00Z", "2026-02-30T10:00:00Z",
    "2026-11-24T24:00:00Z", "2026-11-24T10:00:00+24:00", "1969-12-31T23:59:59Z", "2200-01-01T00:00:00Z",
    "\uff12026-11-24T10:00:00Z", "2026-11-24T10:00:00Z\n", 1795500000, 1795500000.0, None, True,
)  # fmt: skip
QUANTITIES_REFUSED = (
    "1_000", "\u0661", " 1", "1 ", "+1", "-1", "1e0", ".5", "5.", "", "0", "0.000", 0, -1, 0.0005, "1.0000",
    "1234567890", 1234567890, 10**30, 1e-7, 1e300, True, None, [], {}, "1\n", "NaN", "Infinity",
)  # fmt: skip

WHOLE_REFUSED = (
    28.999999999999996, 0.99999999999, 1e-12, 1000000.0005, -4.999999999999999, 1.5, 101.0, -101, 1e300, float("nan"),
    float("inf"), "1", True, None,
)  # fmt: skip
"""Nearly whole is what tills get that multiply 0.29 by 100."""


def accepts(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def described(kind: Any, value: Any) -> bool:
    """Whether the schema accepts a value, `$` read as everybody but Python reads it: the end, not the line's."""
    return not (isinstance(value, str) and value.endswith("\n")) and Draft202012Validator(
        TypeAdapter(kind).json_schema()
    ).is_valid(value)


@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_what_people_write_is_a_text(text: str) -> None:
    assert TypeAdapter(field.Text).validate_python(text) == normalize("NFC", text)
    assert described(field.Text, text)


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_what_nobody_writes_is_no_text(text: str) -> None:
    assert not accepts(field.Text, text)
    assert "\ud800" in text or not described(field.Text, text)  # no schema can name a lone surrogate


def test_texts_are_composed_and_trimmed() -> None:
    for given_, kept in (("Bon-A\u03081", "Bon-Ä1"), ("1 ", "1"), ("\u3000x\u00a0", "x"), ("각", "각")):
        assert TypeAdapter(field.Text).validate_python(given_) == kept


FORMS = {"+4930123456": field.Phone, "ada@example.com": field.Email, "C-1234": field.CardNumber, "de-DE": field.Locale}


@pytest.mark.parametrize(("text", "kind"), FORMS.items(), ids=FORMS)
def test_texts_with_a_form_are_trimmed_too(text: str, kind: Any) -> None:
    for sent in (f" {text}", f"{text}\u00a0", f"\u3000{text} "):
        assert TypeAdapter(kind).validate_python(sent) == text
        assert described(kind, sent)
    for sent in (f"{text}\n", f"\t{text}", f"{text[:2]} {text[2:]}", " ", f"{text}{' ' * 300}"):
        assert not accepts(kind, sent)
        assert not described(kind, sent)


@given(st.text(min_size=1, max_size=64))
def test_the_schema_of_a_text_is_its_check(text: str) -> None:
    assert accepts(field.Text, text) == described(field.Text, text)


def test_an_empty_category_is_none() -> None:
    assert TypeAdapter(field.Category).validate_python("") is None
    assert TypeAdapter(field.Category).validate_python("Ka\u0308se ") == "Käse"


@pytest.mark.parametrize("value", INSTANTS_REFUSED, ids=str)
def test_what_is_no_instant_of_rfc_3339_is_refused(value: Any) -> None:
    assert not accepts(field.Instant, value)
    assert value == "2026-02-30T10:00:00Z" or not described(field.Instant, value)  # no pattern knows when months end


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z"),
        ("2026-11-24t10:00:00z", "2026-11-24T10:00:00Z"),
        ("2026-11-24T10:00:00.123456789+01:00", "2026-11-24T09:00:00.123456Z"),
        ("1970-01-01T00:00:00-00:00", "1970-01-01T00:00:00Z"),
        ("2199-12-31T23:59:59+14:00", "2199-12-31T09:59:59Z"),
    ],
)
def test_an_instant_is_kept_in_utc(text: str, instant: str) -> None:
    adapter = TypeAdapter(field.Instant)
    assert adapter.dump_python(adapter.validate_python(text), mode="json") == instant
    assert described(field.Instant, text)


@pytest.mark.parametrize(
    "value",
    [951782400, "951782400", 951782400.0, "0", "-86400", "2000-02-29T00:00:00Z", "2001-02-29", "2200-01-01",
     "9999-12-31", "0000-01-01", "20000229", "2000-W09-2"],
)  # fmt: skip
def test_what_is_no_birth_date_is_refused(value: Any) -> None:
    assert not accepts(field.BirthDate, value)


def test_a_birth_date_is_a_day_up_to_today() -> None:
    assert accepts(field.BirthDate, "2000-02-29")


@pytest.mark.parametrize("value", QUANTITIES_REFUSED, ids=str)
def test_what_is_no_quantity_is_refused(value: Any) -> None:
    assert not accepts(field.Quantity, value)
    assert not described(field.Quantity, value)


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", "01", "1.000"])
def test_a_quantity_is_the_same_however_it_is_written(value: Any) -> None:
    adapter = TypeAdapter(field.Quantity)
    assert adapter.validate_python(value) == Decimal(1)
    assert adapter.dump_python(adapter.validate_python(value), mode="json") == "1"
    assert described(field.Quantity, value)


@pytest.mark.parametrize("value", [0.001, 0.375, "999999999.999", 999_999_999, 999_999_999.999, 1e2, 0.1])
def test_the_bounds_of_a_quantity_belong_to_it(value: Any) -> None:
    assert accepts(field.Quantity, value)


@pytest.mark.parametrize("value", [1, 0, "true", "1"])
def test_a_flag_is_true_or_false(value: Any) -> None:
    with pytest.raises(ValidationError):
        IdentifiersBody.model_validate({"new_card": value, "add": [{"card": "C-1234"}]})


def test_a_coupon_shown_in_capitals_and_small_letters_is_shown_twice() -> None:
    coupons = TypeAdapter(PurchaseBody.model_fields["coupons"].rebuild_annotation())
    assert coupons.dump_python(coupons.validate_python(["hello50"]), mode="json") == ["HELLO50"]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("+490302123456", "+49302123456"),
        ("+4401212345678", "+441212345678"),
        ("+390612345678", "+390612345678"),  # an Italian zero belongs to the number
        ("+200000000000", "+2000000000"),
        ("+4930123456", "+4930123456"),
    ],
)
def test_a_phone_number_has_one_form(text: str, canonical: str) -> None:
    assert canonical_phone(text) == canonical == canonical_phone(canonical)


@pytest.mark.parametrize("text", ["+1234567", "+999123456789", "+521123456789012", "+7495123456", "+0123456789"])
def test_a_number_no_plan_has_is_refused(text: str) -> None:
    assert not accepts(field.Phone, text)
    assert forms_of("phone", text) == (text,)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Bjo\u0308rn@Example.COM", "björn@example.com"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example"),
        ("a@bu\u0308cher。example.", "a@xn--bcher-kva.example"),
        ("a@\U0001f600.example", "a@xn--e28h.example"),
        ("a@\u2603.example", "a@xn--n3h.example"),
        ("a@-Bücher.example", "a@xn---bcher-4ya.example"),
        ("\u03a3\u03c9\u03a3@x.example", "\u03c3\u03c9\u03c3@x.example"),
        ("\u03c3\u03c9\u03c2@x.example", "\u03c3\u03c9\u03c3@x.example"),
        ("a@x.org.", "a@x.org"),
        ("a@i❤.ws", "a@xn--i-7iq.ws"),  # older than the rules that forbid it
        ("a@under_score.example", "a@under_score.example"),
    ],
)
def test_an_email_address_has_one_form(text: str, canonical: str) -> None:
    assert accepts(field.Email, text)
    assert canonical_email(text) == canonical == canonical_email(canonical)


@given(st.from_regex(TypeAdapter(field.Email).json_schema()["pattern"].replace("$", r"\Z")))
def test_the_form_of_an_email_address_is_final(text: str) -> None:
    canonical = canonical_email(text)
    assert canonical_email(canonical) == canonical == canonical_email(text.lower())


@given(st.from_regex(r"\A\+[1-9][0-9]{6,14}\Z"))
def test_the_form_of_a_phone_number_is_final(text: str) -> None:
    if accepts(field.Phone, text):
        canonical = canonical_phone(text)
        assert canonical_phone(canonical) == canonical


@pytest.mark.parametrize("value", WHOLE_REFUSED)
def test_a_number_that_is_nearly_whole_is_none(value: Any) -> None:
    assert not accepts(Annotated[int, field.WholeNumber(-100, 100)], value)


@pytest.mark.parametrize("value", [29, 29.0, -0.0, -100, 100.0])
def test_a_whole_number_is_one_however_it_is_written(value: float) -> None:
    taken = TypeAdapter(Annotated[int, field.WholeNumber(-100, 100)]).validate_python(value)
    assert (taken, type(taken)) == (value, int)
