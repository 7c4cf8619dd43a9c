"""Two commits on one machine, in turn: `make bench-compare A=... B=...`, the parts of `make bench` by their names.

Each commit has a worktree of its own in build/compare. In every round first A runs and then B, then B and A, so that a
busy quarter of an hour meets both. What is compared are our own figures; floors belong to the machine.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = "refresh_pipeline_tests.benchmarks"
Line = tuple[str, str]


@dataclass
class Pair:
    """One line of both commits: a median a round."""

    a: list[float] = field(default_factory=list)
    b: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """B's figure in A's, round by round."""
        return [b / a for a, b in zip(self.a, self.b, strict=True) if a]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check both out, measure in turn, print one table."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}.compare", description=__doc__)
    parser.add_argument("a", help="a commit, a branch or a tag")
    parser.add_argument("b", help="the same; `ratio` is B's figure in A's")
    parser.add_argument("parts", nargs="*", metavar="PART", help="as in make bench; without any, its own")
    parser.add_argument("--rounds", type=int, default=3, help="how often each runs (%(default)s)")
    asked = parser.parse_args(arguments)
    pairs = compared(REPOSITORY, (asked.a, asked.b), asked.parts, asked.rounds)
    Console(width=160).print(table_of(pairs, asked.a, asked.b))


def compared(repository: Path, commits: tuple[str, str], parts: Sequence[str], rounds: int) -> Mapping[Line, Pair]:
    """The lines that both commits have, with the median of each round.

    Raises:
        subprocess.CalledProcessError: a commit does not exist, or its benchmark fails.
    """
    trees = [_worktree(repository, commit, name) for commit, name in zip(commits, "ab", strict=True)]
    found: dict[Line, Pair] = defaultdict(Pair)
    try:
        for number in range(rounds):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                for line, figure in _measured(trees[side], parts).items():
                    (found[line].b if side else found[line].a).append(figure)
    finally:
        for tree in trees:
            _git(repository, "worktree", "remove", "--force", str(tree))
    return {line: pair for line, pair in found.items() if len(pair.a) == len(pair.b) == rounds}


def _worktree(repository: Path, commit: str, name: str) -> Path:
    tree = repository / "build" / "compare" / name
    if tree.exists():
        _git(repository, "worktree", "remove", "--force", str(tree))
    _git(repository, "worktree", "add", "--detach", "--force", str(tree), commit)
    return tree


def _git(repository: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True)


def _measured(tree: Path, parts: Sequence[str]) -> dict[Line, float]:
    """One run of a commit's own benchmarks: the median of each line that has one."""
    # Its own code goes before what is installed.
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run([sys.executable, "-m", MODULE, *parts], cwd=tree, env=environment, check=True, stdout=sys.stderr)
    newest = max((tree / "bench-results").glob("*.json"))
    report = json.loads(newest.read_text(encoding="utf-8"))
    return {
        (title, line["what"]): median(line["ours"])
        for title, lines in report["parts"].items()
        for line in lines
        if line["ours"]
    }


def table_of(pairs: Mapping[Line, Pair], a: str, b: str) -> Table:
    """One line a figure: both medians, and B in A as the median of the rounds with the least and the most."""
    table = Table(title=f"{b} in {a}", title_justify="left", box=SIMPLE_HEAD)
    for name in ("what", a, b, "ratio", "from", "to"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for (title, what), pair in pairs.items():
        ratios = pair.ratios or [float("nan")]
        figures = [median(pair.a), median(pair.b), median(ratios), min(ratios), max(ratios)]
        table.add_row(f"{title}: {what}", *(f"{figure:,.4g}" for figure in figures))
    return table


if __name__ == "__main__":
    main()
