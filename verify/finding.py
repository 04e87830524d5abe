"""What a check found: how much it looked at, how much of that was wrong, the first examples, and what was not seen."""

from dataclasses import dataclass, field
from typing import Any, Final

EXAMPLES_MAX: Final = 5


@dataclass(slots=True)
class Finding:
    """One promise on one server (`where`). `violations` counts all, `examples` names the first few.

    `unseen` says why something could not be looked at: then the promise is neither broken nor proved.
    """

    check: str
    where: str
    checked: int = 0
    violations: int = 0
    examples: list[str] = field(default_factory=list[str])
    unseen: list[str] = field(default_factory=list[str])

    def fault(self, example: str) -> None:
        """Count one violation."""
        self.violations += 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(example)

    def miss(self, why: str) -> None:
        """Say why something could not be looked at."""
        if len(self.unseen) < EXAMPLES_MAX:
            self.unseen.append(why)

    def add(self, other: "Finding") -> None:
        """Take in what the same check found elsewhere."""
        self.checked += other.checked
        self.violations += other.violations
        self.examples = (self.examples + other.examples)[:EXAMPLES_MAX]
        self.unseen = (self.unseen + other.unseen)[:EXAMPLES_MAX]

    @property
    def ok(self) -> bool:
        """Whether the promise was looked at and holds."""
        return self.violations == 0 and not self.unseen

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "check": self.check,
            "where": self.where,
            "checked": self.checked,
            "violations": self.violations,
            "examples": self.examples,
            "unseen": self.unseen,
        }
