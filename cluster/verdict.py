"""The verdict of `loyalty verify` for people and for machines."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from verify.finding import Finding

UNSEEN: Final = "could not be looked at"
EXIT_HOLDS, EXIT_BROKEN, EXIT_UNSEEN = 0, 1, 3
"""2 is wrong usage."""


def exit_code(findings: Sequence[Finding]) -> int:
    """Whether every promise holds, one is broken, or none as far as could be looked."""
    if any(finding.violations for finding in findings):
        return EXIT_BROKEN
    return EXIT_HOLDS if all(finding.ok for finding in findings) else EXIT_UNSEEN


def verdict_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Write the verdict as JSON: `ok` (every promise holds), and every check with its counts and examples."""
    return {"ok": all(finding.ok for finding in findings), "checks": [finding.document() for finding in findings]}


def render_verdict(findings: Sequence[Finding]) -> RenderableType:
    """Draw one line per promise, summed over the shards, and below it each violation with examples."""
    table = Table(box=None, header_style="bold")
    table.add_column("")
    table.add_column("promise")
    table.add_column("checked", justify="right")
    table.add_column("violations", justify="right")
    for check in dict.fromkeys(finding.check for finding in findings):
        same = [finding for finding in findings if finding.check == check]
        violations = sum(finding.violations for finding in same)
        mark = Text("✓", "green") if all(finding.ok for finding in same) else Text("?", "yellow")
        mark = Text("✗", "bold red") if violations else mark
        table.add_row(mark, check, f"{sum(finding.checked for finding in same):,}", f"{violations:,}")
    return Group(table, *_examples(findings), _summary(findings))


def _examples(findings: Sequence[Finding]) -> list[Text]:
    lines: list[Text] = []
    for finding in findings:
        lines += [Text(f"  {finding.where}: {finding.check}: {example}", "red") for example in finding.examples]
        lines += [Text(f"  {finding.where}: {finding.check}: {UNSEEN}: {why}", "yellow") for why in finding.unseen]
    return lines


def _summary(findings: Sequence[Finding]) -> Text:
    promises = {finding.check for finding in findings}
    broken = {finding.check for finding in findings if finding.violations}
    unseen = {finding.check for finding in findings if finding.unseen}
    if broken:
        return Text(f"loyalty verify: {len(broken)} of {len(promises)} promises are broken.", "bold red")
    if unseen:
        return Text(
            f"loyalty verify: no promise is broken as far as was seen; {len(unseen)} of {len(promises)} {UNSEEN}.",
            "bold yellow",
        )
    return Text("loyalty verify: every promise holds.", "bold green")
