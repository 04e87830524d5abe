"""A planted bug: a patch with two lines above it, what it breaks and which test must fail."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = re.compile(r"^--- a/(\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One patch. `test` is a pytest node; of one with cases, any may fail."""

    path: Path
    breaks: str
    test: str
    sources: tuple[str, ...]
    text: str
    """As it was read: whoever edits the patch meanwhile does not change what is taken back."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def is_quick(self) -> bool:
        """Whether its test needs no server."""
        return self.test.startswith("tests/unit/")

    def apply(self, folder: Path, *options: str) -> str:
        """Apply the patch, or whatever `git apply` does with these options; tells why it could not."""
        command = ["git", "apply", *options, "-"]
        done = subprocess.run(command, cwd=folder, input=self.text, capture_output=True, text=True, check=False)
        return "" if done.returncode == 0 else done.stderr.strip() or "git apply failed"


def read_mutant(path: Path) -> Mutant:
    """The mutant of a patch; ValueError for one without its two lines."""
    text = path.read_text(encoding="utf-8")
    head, found, _ = text.partition("--- a/")
    fields = dict(re.findall(r"^(Breaks|Test): (.+)$", head, re.MULTILINE))
    if not found or fields.keys() != {"Breaks", "Test"}:
        raise ValueError(f"{path.name}: a patch begins with the lines `Breaks: ...` and `Test: ...`")
    return Mutant(path, fields["Breaks"], fields["Test"], tuple(SOURCE.findall(text)), text)


def all_mutants() -> list[Mutant]:
    """Every mutant there is, by name."""
    return [read_mutant(path) for path in sorted(FOLDER.glob("*.patch"))]
