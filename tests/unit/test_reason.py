"""Reasons of refusals, tied to the table of problems and to what the operations say they may answer."""

import re

import pytest

from command.operation import OPERATIONS
from rules.outcome import Reason
from shard_router.errors import PROBLEMS
from tests.project import PROJECT

SOURCES = "\n".join(
    path.read_text(encoding="utf-8") for package in ("rules", "command") for path in (PROJECT / package).glob("*.py")
)


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_has_its_answer_is_given_somewhere_and_told_of_by_an_operation(reason: Reason) -> None:
    assert PROBLEMS[reason].status in {400, 404, 409, 422, 429}
    assert re.search(rf"Refused\(\s*Reason\.{reason.name}\b", SOURCES)
    assert reason in {"malformed"} | {code for operation in OPERATIONS for code in operation.problems}


def test_what_is_no_reason_is_refused_by_the_type() -> None:
    with pytest.raises(ValueError, match="out_of_luck"):
        Reason("out_of_luck")
