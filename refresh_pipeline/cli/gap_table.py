"""The table of `refresh gaps`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text


def print_gaps(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row for each missing stretch, and for each series that lacks nothing."""
    grid = Grid(box=SIMPLE_HEAD)
    for name in (
        "market",
        "instrument",
        "timeframe",
        "expected",
        "stored",
        "complete",
        "missing",
        "from",
        "to",
        "where",
    ):
        grid.add_column(name, justify="right" if name in ("expected", "stored", "complete", "missing") else "left")
    for row in rows:
        head = [row["market"], row["instrument"], row["timeframe"]]
        head += [str(row["expected_count"]), str(row["stored_count"])]
        share = Text(f"{row['completeness']:.2%}", style="yellow" if row["gaps"] else "green")
        for number, gap in enumerate(row["gaps"] or [None]):
            grid.add_row(*(head if number == 0 else [""] * 5), share if number == 0 else "", *_gap_cells(gap))
    console.print(grid)


def _gap_cells(gap: Mapping[str, Any] | None) -> list[str]:
    if gap is None:
        return ["", "", "", ""]
    times = [gap[name].replace("T", " ").removesuffix("Z") for name in ("first", "last")]
    return [str(gap["candles"]), *times, gap["place"] + (", not at the source" if gap["confirmed"] else "")]
