"""Programs that follow one another: what time alone changes is decided under the version in force at its instant."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rules.command import SettleAccount
from rules.decide import decide
from rules.evaluate import Evaluation, evaluate
from rules.outcome import Entry
from rules.program import Program
from tests.rules_history import LAW, LONG_AGO, History, baskets, live, programs, story, versions
from tests.rules_world import NOW, TIERS, Member, later, line, program, purchase


def test_a_program_without_history_has_always_been_in_force() -> None:
    rules = program()
    assert rules.at(LONG_AGO) is rules


def test_the_version_in_force_is_the_newest_that_counted_by_then() -> None:
    first, overtaken, third = (later(days=days) for days in (0, 9, 5))
    rules = versions((first, program()), (overtaken, program()), (third, program()))
    told = [rules.at(later(days=days)).version for days in (-1, 0, 4, 5, 9, 99)]
    assert told == [1, 1, 1, 3, 3, 3]


def test_a_version_knows_only_itself_and_earlier_ones() -> None:
    rules = versions((LONG_AGO, program()), (LONG_AGO, program()))
    assert rules.history[0][1].with_history(rules.history).at(NOW).version == 1


BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
LATE = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)
"""Already the 25th in Berlin, still the 24th in New York."""
TOKYO = '[[stores]]\ncode = "ginza"\nname = "G"\nregion = "ap"\ntime_zone = "Asia/Tokyo"\n'


def days(rules: Program, store: str = "330", at: datetime = LATE) -> list[int]:
    return [day.day for day in rules.receipt_dates(store, at)]


def test_a_document_is_dated_by_the_clock_of_its_store() -> None:
    rules = program(TOKYO, zone=NEW_YORK)
    assert days(rules) == [24]
    assert days(rules, "ginza") == [25]
    assert days(rules, "a store nobody knows") == [24]


def test_a_document_is_dated_by_the_version_of_its_instant_whatever_came_since() -> None:
    berlin, new_york = program(zone=BERLIN), program(zone=NEW_YORK)
    for since, told in (
        (LATE - timedelta(days=9), [24]),  # Berlin ended long before
        (LATE - timedelta(hours=1), [24, 25]),  # a node may not have heard yet
        (LATE + timedelta(hours=1), [25, 24]),
        (LATE + timedelta(days=9), [25, 24]),  # nodes of the first release took the newest
    ):
        assert days(versions((LONG_AGO, berlin), (since, new_york))) == told
    assert days(versions((LONG_AGO, berlin), (LATE, program(zone=BERLIN)))) == [25]
    assert days(versions((LATE + timedelta(days=1), berlin), (LATE + timedelta(days=2), new_york))) == [25, 24]


def test_a_store_that_gets_its_own_zone_keeps_the_dates_of_before() -> None:
    zoned = TOKYO.replace("Asia/Tokyo", NEW_YORK)
    plain = "\n".join(line for line in TOKYO.splitlines() if "time_zone" not in line)
    rules = versions((LONG_AGO, program(plain, zone=BERLIN)), (LATE + timedelta(days=1), program(zoned, zone=BERLIN)))
    assert days(rules, "ginza") == [25, 24]
    assert days(rules, "ginza", LATE + timedelta(days=7)) == [1]
    assert days(rules, "330") == [25]


def test_which_instants_a_program_knows_the_version_of() -> None:
    first, second = versions((LONG_AGO, program()), (NOW, program())).history
    rules = second[1].with_history([second])
    assert [rules.knows(moment) for moment in (later(days=-1), NOW)] == [False, True]
    assert second[1].with_history([second, first]).knows(LONG_AGO - timedelta(days=1))
    covering = rules.with_history([*rules.history, (later(days=-1), first[1])])
    assert [covering.at(moment).version for moment in (later(days=-1), NOW)] == [1, 2]


def test_a_tier_period_ends_under_the_version_of_its_last_instant_however_late_it_is_settled() -> None:
    easier = program(TIERS.replace("100", "50"))
    member = Member(program(TIERS))
    member.buy(line(10_000))
    member.buy(line(6_000), at=later(days=100))
    until = member.now.tier.until
    assert until
    for since, code, version in ((until, "silver", None), (until + timedelta(seconds=1), "basic", 1)):
        rules = versions((LONG_AGO, member.program), (since, easier))
        (entry,) = decide(member.now, SettleAccount(until + timedelta(days=1)), rules).entries
        assert (entry.account.tier.code, entry.program_version) == (code, version)


def test_an_evaluation_lets_tier_periods_end_under_the_versions_of_their_instants() -> None:
    member = Member(program(TIERS))
    member.buy(line(10_000))
    asked = purchase(line(1_000), at=later(days=500))
    generous = program(TIERS, "[tier_policy]\ndowngrade = 'never'\n")
    for since, code in ((LONG_AGO, "silver"), (later(days=450), "basic")):
        rules = versions((LONG_AGO, member.program), (since, generous))
        promised = evaluate(member.now, asked, rules, later(days=500))
        assert isinstance(promised, Evaluation)
        assert promised.tier_after["code"] == code


@LAW
@given(st.data(), programs(), programs(), st.integers(0, 500))
def test_settling_late_under_a_later_version_leaves_the_same_entries_as_settling_on_time(
    data: st.DataObject, first: Program, second: Program, days: int
) -> None:
    member = live(data, first, steps=6)
    late, on_time = member.now, member.now
    rules = versions((LONG_AGO, first), (late.changed_at + timedelta(days=days), second))
    end = late.changed_at + timedelta(days=800)
    journal: list[Entry] = []
    ruled_by: list[int] = []
    while on_time.due_at and on_time.due_at <= end:
        ruling = rules.at(on_time.due_at)
        decision = decide(on_time, SettleAccount(on_time.due_at), ruling)
        assert decision.account is not None
        on_time = decision.account
        journal += decision.entries
        ruled_by += [ruling.version] * len(decision.entries)
    settled = decide(late, SettleAccount(end), rules).settled
    assert story(list(settled)) == story(journal)
    assert [entry.program_version or rules.version for entry in settled] == ruled_by


@LAW
@given(st.data(), st.lists(programs(), min_size=2, max_size=4))
def test_the_books_are_right_whatever_programs_follow_one_another(data: st.DataObject, rules: list[Program]) -> None:
    history = History(Member(rules[0], referrer=99), data)
    for one in rules:
        history.member.program = one
        for _ in range(data.draw(st.integers(1, 6))):
            history.step()
            assert min(history.member.now.counters.get("metric", [None])[2::2], default=0) >= 0


@LAW
@given(st.data(), programs(policy="debt"), programs(policy="debt"))
def test_a_return_under_another_program_counts_out_exactly_what_was_counted(
    data: st.DataObject, then: Program, today: Program
) -> None:
    member = Member(then)
    version = member.buy(*data.draw(baskets), coupons=data.draw(st.sampled_from([(), ("SAVE",)]))).version
    member.program = today
    member.bring_all_back(version)
    metric = member.now.counters.get("metric", [None])
    assert sum(metric[2::2]) == 0
    assert member.now.counters.get("applied", {}).get("coupon:SAVE", 0) == 0
    assert (member.now.available, member.now.pending, member.now.debt, member.now.issued) == (0, 0, 0, 0)
