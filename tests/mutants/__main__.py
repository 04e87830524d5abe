"""`python -m tests.mutants [NAME ...]`: plants every bug, prints what caught it, exits 1 when one survives."""

import argparse
import sys

from tests.mutants.campaign import Verdict, run_mutants
from tests.mutants.mutant import all_mutants

WORDS_MAX = 90


def tell(verdict: Verdict) -> None:
    """Print one line of the table."""
    mutant = verdict.mutant
    mark = "caught  " if not verdict.why else "SURVIVES"
    sys.stdout.write(f"{mark}  {mutant.name:34}  {mutant.breaks}\n          by {mutant.test}\n")
    words = f"{verdict.why}: {verdict.words}" if verdict.why else verdict.words
    sys.stdout.write(f"          {' '.join(words.split())[:WORDS_MAX]}\n")
    sys.stdout.flush()


def main() -> int:
    """Run those named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="the names of patches, without .patch; all without")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    given = parser.parse_args()
    known = {mutant.name: mutant for mutant in all_mutants()}
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"there is no mutant {unknown[0]}")
    chosen = [known[name] for name in given.names] or list(known.values())
    verdicts = run_mutants(chosen, jobs=min(given.jobs, len(chosen)), tell=tell)
    survived = [verdict.mutant.name for verdict in verdicts if verdict.why]
    sys.stdout.write(f"{len(verdicts) - len(survived)} of {len(verdicts)} caught\n")
    if survived:
        sys.stdout.write(f"not caught: {', '.join(survived)}\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
