"""The verdict of `loyalty verify` for people and for machines."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from verify.finding import Finding


def verdict_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Write the verdict as JSON: `ok`, and every check with its counts and examples."""
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
        mark = Text("✗", "bold red") if violations else Text("✓", "green")
        table.add_row(mark, check, f"{sum(finding.checked for finding in same):,}", f"{violations:,}")
    return Group(table, *_examples(findings), _summary(findings))


def _examples(findings: Sequence[Finding]) -> list[Text]:
    return [
        Text(f"  {finding.where}: {finding.check}: {example}", "red")
        for finding in findings
        for example in finding.examples
    ]


def _summary(findings: Sequence[Finding]) -> Text:
    promises = {finding.check for finding in findings}
    broken = {finding.check for finding in findings if not finding.ok}
    if broken:
        return Text(f"loyalty verify: {len(broken)} of {len(promises)} promises are broken.", "bold red")
    return Text("loyalty verify: every promise holds.", "bold green")
