"""Calendar days in a time zone: what "a month later" and "the end of that day" mean."""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cache
from importlib.resources import files
from typing import Final
from zoneinfo import ZoneInfo

_LAST_SECOND: Final = time(23, 59, 59, fold=1)  # where the last hour comes twice, of the second
_DECEMBER: Final = 12


@cache
def time_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name, by the package that all nodes have alike, not by the host; ValueError for no name."""
    database = files("tzdata")
    if name not in database.joinpath("zones").read_text().split():
        raise ValueError(f"no time zone {name!r}")
    with database.joinpath("zoneinfo", *name.split("/")).open("rb") as zone:
        return ZoneInfo.from_file(zone, key=name)


def add_months(day: date, months: int) -> date:
    """The same day so many months later (earlier when negative), or the last of a shorter month."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    month += 1
    first_of_next = date(year + 1, 1, 1) if month == _DECEMBER else date(year, month + 1, 1)
    return date(year, month, min(day.day, (first_of_next - timedelta(days=1)).day))


def month_end(day: date) -> date:
    """The last day of a day's month."""
    return add_months(day.replace(day=1), 1) - timedelta(days=1)


def start_of_day(day: date, zone: tzinfo) -> datetime:
    """The instant a day begins, in UTC."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def end_of_day(day: date, zone: tzinfo) -> datetime:
    """The last second of a day, in UTC."""
    return datetime.combine(day, _LAST_SECOND, zone).astimezone(UTC)


def days_from_birthday(day: date, birth_date: date) -> int:
    """How many days lie between a day and the nearest birthday; 29 February counts as the 28th in other years."""
    years = (day.year - 1, day.year, day.year + 1)
    return min(abs((day - add_months(birth_date, (year - birth_date.year) * 12)).days) for year in years)
