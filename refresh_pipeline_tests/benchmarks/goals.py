"""The goals of the benchmarks, and one table that says which of them a run has met."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from refresh_pipeline_tests.benchmarks import cycle
from refresh_pipeline_tests.benchmarks.measuring import Comparison, Findings

MET, MISSED = "met", "missed"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure may be at most: its ratio to the floor, or the figure itself where `is_ratio` is false.

    `title` and `what` are the beginnings of the title of a table and of the name of a line in it.
    """

    name: str
    title: str
    what: str
    most: float
    is_ratio: bool = True

    def figures(self, findings: Findings) -> Iterator[Comparison]:
        """The measured lines that the goal is about."""
        for title, found in findings.items():
            yield from (each for each in found if title.startswith(self.title) and each.what.startswith(self.what))


GOALS = (
    Goal("a cycle against the sum of its floors", "", cycle.CYCLE, 1.1),
    Goal("the checks of a cycle, in seconds", "", "the work of the checks", 2, is_ratio=False),
    Goal("enhanced candles of a long series against a loop in C", "enhanced candles alone", "one series of", 1.5),
    Goal("indicators of a long series against bare TA-Lib", "indicators alone", "one series of", 1.5),
    Goal("a backfill against bare loading and computing", "a backfill", "from venue to indicators", 1.3),
    Goal("gaps and completeness, in seconds", "", "gaps and completeness, file open", 0.1, is_ratio=False),
    Goal("an answer of 6 columns against Starlette with orjson", "api: answers", "500 rows of 6", 1.0),
    Goal(
        "an answer of all columns against Starlette with its bytes",
        "api: answers",
        "500 rows of all columns, kept",
        2.0,
    ),
    Goal("an answer against freqtrade's serve path", "api: answers", "500 rows as freqtrade", 1 / 20),
    Goal("a cold answer against bare DuckDB", "api: answers", "500 rows of all columns, cold", 2.0),
    Goal(
        "an answer beside a writer, p50 in seconds",
        "api: beside",
        "50 requests a second beside a writer, p50",
        0.005,
        False,
    ),
    Goal(
        "an answer beside a writer, p99 in seconds",
        "api: beside",
        "50 requests a second beside a writer, p99",
        0.1,
        False,
    ),
    Goal("a small transaction against one without the API", "api: beside", "a small transaction", 1.5),
    Goal("a refresh beside requests against one alone", "api: beside", "a refresh beside 50", 1.15),
    Goal("a refresh beside cold clients against one alone", "api: beside", "a refresh beside 16", 1.3),
    Goal("longest opening by the API, in seconds", "api: beside", "longest opening", 0.3, False),
    Goal("from a commit to its event, in seconds", "api: beside", "from a commit", 1, False),
    Goal("the last of 100 listeners after the first, in seconds", "api: beside", "the last listener", 0.5, False),
    Goal("memory of the API, in MB", "api: process", "memory of the API", 120, False),
    Goal("from start to first answer, in seconds", "api: process", "from start", 2, False),
    Goal("publishing a candle of each series, in seconds of processor time", "", "publish one new", 5, is_ratio=False),
)


def judged(findings: Findings, goals: Sequence[Goal] = GOALS) -> Iterator[tuple[Goal, Comparison, str]]:
    """Each goal that something was measured for, with the figure and whether it is met."""
    for goal in goals:
        for found in goal.figures(findings):
            figure = found.ratio if goal.is_ratio else found.ours_median
            if figure is not None:
                yield goal, found, MET if figure <= goal.most else MISSED


def table_of(findings: Findings) -> Table | None:
    """One line a goal: what is wanted, the figure, its ratio to the floor, met or not; None where nothing is judged."""
    rows = list(judged(findings))
    if not rows:
        return None
    table = Table(title="goals", title_justify="left", box=SIMPLE_HEAD)
    for name, justify in (
        ("goal", "left"),
        ("at most", "right"),
        ("figure", "right"),
        ("ratio", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left")
    for goal, found, verdict in rows:
        table.add_row(goal.name, f"{goal.most:g}", *_cells(found), verdict)
    return table


def _cells(found: Comparison) -> tuple[str, str]:
    ours = "" if found.ours_median is None else f"{found.ours_median:,.3f} {found.unit}"
    return ours, "" if found.ratio is None else f"{found.ratio:.2f}"


def as_json(findings: Findings) -> list[Mapping[str, object]]:
    """The same for the file beside the report."""
    return [
        {"goal": goal.name, "at_most": goal.most, "figure": found.ours_median, "ratio": found.ratio, "verdict": verdict}
        for goal, found, verdict in judged(findings)
    ]
