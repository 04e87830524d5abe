"""What Schemathesis is told about this service: the few things about a well-formed request that no schema can say.

It replaces its check that well-formed data is never answered 400; a business "no" (422) is no complaint about data.
"""

import schemathesis

BEYOND_A_SCHEMA = (
    "there is no such day",
    "there is no such phone number",
    "there is no such region",
    "lies in the future",
    "a till may be",  # so many days late
    "must lie",  # after another instant
    "would expire before",
    "this program counts in",  # another currency
    "each only once",  # in capitals or small letters
    "name each identifier once",  # over two lists
    "belongs to another place",  # a card of our own form
    "exactly one of card, phone and email",  # OpenAPI has no choice among query parameters
    "send it as the command answered it",  # a token whose check symbol is wrong
    "of another member",
    "not a page token of this list",
    "sender and receiver are the same member",  # who may be named in two ways
    "a till sends the code it was shown",  # others need none
    "has more values than this call can take",
)


@schemathesis.check
def what_is_well_formed_is_not_malformed(_context, response, case) -> None:  # noqa: ANN001 - by name, with its own types
    """Refuse a 400 to data that the schema allows, unless it names a reason from beyond every schema."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 400:
        return
    detail = response.json()["detail"]
    if not any(reason in detail for reason in BEYOND_A_SCHEMA):
        raise AssertionError(f"the schema allows what is refused: {detail}")
