"""The table of goals, and two commits in turn: over figures and a repository made for it."""

import subprocess
from pathlib import Path

from rich.console import Console

from refresh_pipeline_tests.benchmarks import compare, goals, publishing
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Size
from refresh_pipeline_tests.isolated_env import inside

PROGRAM = """
import json, pathlib, sys
folder = pathlib.Path("bench-results")
folder.mkdir(exist_ok=True)
number = len(list(folder.iterdir()))
lines = [{{"what": "work", "ours": [{seconds}, {seconds} + number]}}, {{"what": "not measured", "ours": []}}]
(folder / f"{{number}}.json").write_text(json.dumps({{"parts": {{" ".join(sys.argv[1:]): lines}}}}))
"""


def test_each_goal_that_was_measured_has_a_line_with_its_verdict() -> None:
    findings = {
        "ticks": [Comparison("the cycle", ours=[2.0, 2.2, 9.0], bare=[2.0, 2.0, 9.0])],
        "indicators alone: 3 columns": [Comparison("one series of 300 bars", ours=[4.0], bare=[1.0])],
        "publishing, 3 files": [Comparison("publish one new candle of 2 series", ours=[4.9], bare=[0.1])],
        "other": [Comparison("one series of 300 bars", ours=[4.0], bare=[1.0])],
    }
    console = Console(width=160, record=True)
    console.print(goals.table_of(findings))
    lines = [line.split("  ") for line in console.export_text().splitlines() if "met" in line or "missed" in line]
    assert [[cell.strip() for cell in line if cell.strip()] for line in lines] == [
        ["a cycle against the sum of its floors", "1.1", "2.200 s", "1.00", "met"],
        ["indicators of a long series against bare TA-Lib", "1.5", "4.000 s", "4.00", "missed"],
        ["publishing a candle of each series, in seconds of processor time", "5", "4.900 s", "49.00", "met"],
    ]
    assert goals.table_of({"other": findings["other"]}) is None


def test_two_commits_are_measured_in_turn_in_worktrees_of_their_own(tmp_path: Path) -> None:
    package = tmp_path / "refresh_pipeline_tests" / "benchmarks"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    for seconds in (2, 3):
        (package / "__main__.py").write_text(PROGRAM.format(seconds=seconds))
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    pairs = compare.compared(tmp_path, ("HEAD~1", "HEAD"), ["cycle", "fetch"], 2)
    assert {line: (pair.a, pair.b) for line, pair in pairs.items()} == {("cycle fetch", "work"): ([2, 2.5], [3, 3.5])}
    console = Console(width=160, record=True)
    console.print(compare.table_of(pairs, "before", "after"))
    assert "cycle fetch: work     2.25    3.25    1.45    1.4   1.5" in console.export_text()
    assert not list((tmp_path / "build" / "compare").iterdir())


def test_a_publishing_appends_a_line_to_each_file_of_candles(tmp_path: Path) -> None:
    with inside(tmp_path):
        [[found]] = publishing.measure(Size(series=2, stored=60, rounds=1), tmp_path).values()
    assert len(found.ours) == len(found.bare) == 1
    texts = sorted((tmp_path / "published").rglob("*.csv"))
    assert len(texts) == 2
    assert [len(text.read_text().splitlines()) for text in texts] == [1 + 60 + 1] * 2
