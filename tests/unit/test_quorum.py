"""Who may be promoted: nothing that any standby acknowledged is ever left behind."""

from cluster.quorum import Quorum


def pair() -> Quorum:
    return Quorum(["a", "b"])


def test_of_two_the_one_that_is_further_is_promoted() -> None:
    assert pair().choose({"a": 10, "b": 12}) == "b"
    assert pair().choose({"a": 13, "b": 12}) == "a"


def test_of_two_that_are_as_far_the_one_that_also_has_the_slots_is_promoted() -> None:
    assert pair().choose({"a": 10, "b": 10}, lesser={"a"}) == "b"
    assert pair().choose({"a": 11, "b": 10}, lesser={"a"}) == "a"
    assert pair().choose({"a": 10, "b": 10}, unable={"b"}, lesser={"a"}) == "a"


def test_where_one_cannot_be_asked_nobody_is_promoted_it_may_have_acknowledged_alone() -> None:
    assert pair().choose({"a": 10, "b": None}) is None
    assert pair().choose({"a": 10}) is None
    assert Quorum(["a"]).choose({"a": None}) is None


def test_one_that_was_killed_need_not_be_asked_once_the_other_has_a_later_write() -> None:
    quorum = pair()
    quorum.ended("b", lost=True)
    quorum.heard(20, {"a": 30}, quorum.gone)
    assert quorum.choose({"a": 30, "b": None}) is None  # the write of after its end: not yet known to be there
    quorum.heard(40, {"a": 19}, quorum.gone)
    assert quorum.choose({"a": 19, "b": None}) is None  # behind it
    quorum.heard(50, {"a": 20}, quorum.gone)
    assert quorum.choose({"a": 20, "b": None}) == "a"


def test_it_is_open_until_the_other_has_a_later_write_than_the_end_of_one_that_was_killed() -> None:
    quorum = pair()
    assert not quorum.is_open
    quorum.ended("b", lost=True)
    assert quorum.is_open
    quorum.heard(20, {"a": 10}, quorum.gone)
    assert quorum.is_open
    quorum.heard(30, {"a": 20}, quorum.gone)
    assert not quorum.is_open
    quorum.ended("a", lost=True)
    assert not quorum.is_open  # there is nobody to wait for


def test_one_that_begins_again_has_to_be_asked_again() -> None:
    quorum = pair()
    quorum.ended("b", lost=False)
    quorum.heard(20, {"a": 20}, quorum.gone)
    quorum.heard(30, {"a": 30}, quorum.gone)
    quorum.begins("b")
    assert quorum.choose({"a": 30, "b": None}) is None


def test_a_killed_one_proves_nothing_about_another_killed_one() -> None:
    quorum = pair()
    quorum.ended("a", lost=False)
    quorum.ended("b", lost=False)
    quorum.heard(20, {}, quorum.gone)
    quorum.heard(30, {"a": 40}, quorum.gone)
    assert quorum.choose({"a": 40, "b": None}) is None


def test_one_that_was_copied_anew_is_promoted_only_after_it_streamed() -> None:
    quorum = Quorum(["a"])
    quorum.ended("a", lost=True)
    quorum.begins("a")
    assert quorum.choose({"a": 10}) is None
    quorum.heard(20, {"a": 10}, quorum.gone)
    assert quorum.choose({"a": 20}) == "a"


def test_the_furthest_must_be_whole_a_lesser_one_is_no_substitute() -> None:
    quorum = pair()
    quorum.ended("b", lost=True)
    quorum.begins("b")
    assert quorum.choose({"a": 10, "b": 11}) is None


def test_a_write_that_began_before_the_end_of_a_standby_proves_nothing() -> None:
    quorum = pair()
    gone = quorum.gone
    quorum.ended("b", lost=True)
    quorum.heard(20, {"a": 20}, gone)
    quorum.heard(30, {"a": 30}, quorum.gone)
    assert quorum.choose({"a": 30, "b": None}) is None
    quorum.heard(40, {"a": 40}, quorum.gone)
    assert quorum.choose({"a": 40, "b": None}) == "a"
