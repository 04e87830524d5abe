"""Complaints about a program file name the line to change, whatever stands before it."""

import pytest

from rules.program import ProgramError, parse_program

HEAD = '[program]\ncode = "t"\nname = "T"\ncurrency = "EUR"\n'
STORE = '[[stores]]\ncode = "330"\nname = "S"\nregion = "eu"\n'


def complaint(source: str) -> str:
    with pytest.raises(ProgramError) as caught:
        parse_program(source)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("", "line 1: program: is missing; add [program] with code, name, currency, time_zone"),
        ('[[program]]\ncode = "t"\n', "line 1: program: write [program], once"),
        (HEAD + '[campaigns]\ncode = "c"\n', "line 5: campaigns: write [[campaigns]], one for each"),
        ("rewards = [1]\n" + HEAD, "line 1: rewards.1: write [[rewards]], one for each"),
        (HEAD + '[[points]]\nper_unit = "1"\n', "line 5: points: write [points], once"),
        (HEAD + "[points]\n\npending_days = " + "9" * 5000, "line 7: a number too long to read; write it shorter"),
        (HEAD + "x = " + "[" * 3000 + "]" * 3000, "line 5: brackets too deep in one another; write it shorter"),
        (HEAD + "x = " + "{a=" * 3000 + "1" + "}" * 3000, "line 5: brackets too deep in one another"),
        (HEAD.replace('"T"', "0x" + "f" * 5000), "line 3: program.name: Input should be a valid string (found more"),
    ],
    ids=range(9),
)
def test_what_is_no_program_at_all_is_told_in_one_line_with_what_to_write(source: str, told: str) -> None:
    message = complaint(source)
    assert message.startswith(told)
    assert "\n" not in message


@pytest.mark.parametrize(
    "before",
    [
        '[[campaigns]]\ncode = "a"\nname = """\n[[campaigns]]\neffect = 1\n"""\neffect.fixed = 1',
        "[[campaigns]]\ncode = 'a'\nname = '''\n[[campaigns]]\n'x\\''''\neffect.fixed = 1",
        '[[campaigns]]\ncode = "a"\nname = """x\\""""""\neffect.fixed = 1',
        '[[campaigns]]\ncode = "a"\nname = "\u2028 \u0085"\neffect.fixed = 1',
        '[[campaigns]]\r\ncode = "a"\r\nname = """\r\n[[x]]\r\n"""\r\neffect.fixed = 1',
        '[[campaigns]]\ncode = "a"\nwhen.stores = [ # [[x]]\n"330", # ]\n]\neffect.fixed = 1 # """',
        '[[campaigns]]\ncode = "a"\nmatch.categories = [\n"""\neffect = 1""", "[[",\n]\neffect.fixed = 1',
        '[[campaigns]]\ncode = "a"\n[campaigns.effect]\nfixed = 1\n[campaigns . "when"]\nmin_amount = 1',
        '# [[campaigns]]\n[[campaigns]] # [x]\n"c\\u006fde" = "a"\n\n"effect" . \'fixed\' = 1',
    ],
    ids=range(9),
)
@pytest.mark.parametrize("wrong", ["effect.fixed = 0", "effect . 'fixed' = 0", "effect = { fixed = 0 }"])
def test_the_line_told_is_that_of_the_key_whatever_stands_before_it(before: str, wrong: str) -> None:
    source = f'{HEAD}{STORE}{before}\n[[campaigns]]\ncode = "b"\n{wrong}\n'
    assert complaint(source).startswith(f"line {source.count(chr(10))}: campaigns.2.effect.fixed: Input should be")


def test_what_stands_in_a_list_over_many_lines_has_the_line_of_its_key() -> None:
    source = 'tiers = [\n{ code = "a" },\n{ code = "b", threshold = "x" },\n]\n' + HEAD
    assert complaint(source).startswith("line 1: tiers.2.threshold: write a whole number without quotes")


@pytest.mark.parametrize("key", ['"pönding"', "'pending days'", '"a.b"'])
def test_a_quoted_key_is_found_where_it_stands(key: str) -> None:
    assert complaint(f"{HEAD}[points]\n\n{key} = 1\n").startswith(f"line 7: points.{key[1:-1]}: unknown key")
