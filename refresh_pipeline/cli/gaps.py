"""The command `gaps`: ranges of missing candles, and the series that are complete."""

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.console import Console

from refresh_pipeline.cli.console import grid, out, print_table, share_text
from refresh_pipeline.cli.options import (
    DataDirOption,
    InstrumentOption,
    JsonOption,
    MarketOption,
    NowOption,
    TimeframeOption,
    chosen_series,
    request,
    warehouse_errors,
    warn_of_calendars,
)

Row = Mapping[str, Any]

COUNTS = ("expected", "stored", "complete")
# Gaps of one market in the table; all of them are in --all and --json.
MOST_SHOWN = 30


def gaps(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Show complete series too, with their counts.")] = False,
    as_json: JsonOption = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show every range of missing candles, and how many candles are expected and stored."""
    with request(market, data_dir, lenient=True, now=now) as wanted:
        moment = wanted.now
        keys = {(m.name, s.key) for m, series in chosen_series(wanted.markets, instrument, timeframe) for s in series}
    from refresh_pipeline.monitoring.gap_report import gap_rows

    with warehouse_errors():
        rows = gap_rows(wanted.settings, wanted.markets, moment)
    rows = [row for row in rows if (row["market"], f"{row['instrument']}|{row['timeframe']}") in keys]
    warn_of_calendars(wanted)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
    else:
        print_gaps(out, rows, with_complete=everything)


def print_gaps(console: Console, rows: Sequence[Row], *, with_complete: bool = False) -> None:
    """For each market its gaps, on request the counts of each series, and a summary."""
    for market, members in groupby(rows, key=lambda row: row["market"]):
        series = list(members)
        incomplete = [row for row in series if row["gaps"]]
        if with_complete:
            print_table(console, _counts_table(market, series))
            console.print()
        if incomplete:
            print_table(console, _gaps_table(market, incomplete, None if with_complete else MOST_SHOWN))
            console.print(_more(incomplete, with_complete=with_complete), highlight=False)
        console.print(_summary(market, series), style="yellow" if incomplete else "green", highlight=False)


def _summary(market: str, rows: Sequence[Row]) -> str:
    complete = sum(not row["gaps"] for row in rows)
    expected, stored = (sum(row[name] for row in rows) for name in ("expected_count", "stored_count"))
    return f"{market}: {complete} of {len(rows)} series complete; {stored:,} of {expected:,} expected candles stored"


def _counts_table(market: str, rows: Sequence[Row]) -> Any:
    table = grid("instrument", "timeframe", *COUNTS, "gaps", right=(*COUNTS, "gaps"), title=market)
    for row in rows:
        counts = (
            str(row["expected_count"]),
            str(row["stored_count"]),
            share_text(row["completeness"]),
            str(len(row["gaps"])),
        )
        table.add_row(row["instrument"], row["timeframe"], *counts)
    return table


def _more(rows: Sequence[Row], *, with_complete: bool) -> str:
    rest = sum(len(row["gaps"]) for row in rows) - MOST_SHOWN
    return f"... and {rest:,} more: --all, or narrow by -i and -t\n" if rest > 0 and not with_complete else ""


def _gaps_table(market: str, rows: Sequence[Row], most: int | None) -> Any:
    names = ("instrument", "timeframe", "missing", "from", "to", "where")
    table = grid(*names, right=("missing",), wrapped=("instrument", "where"), title=f"{market}: missing candles")
    gaps_of_rows = [(row, gap) for row in rows for gap in row["gaps"]]
    for row, gap in gaps_of_rows[:most]:
        table.add_row(row["instrument"], row["timeframe"], *_gap_cells(gap))
    return table


def _gap_cells(gap: Mapping[str, Any]) -> list[str]:
    times = [gap[name].replace("T", " ").removesuffix("Z").removesuffix(":00") for name in ("first", "last")]
    return [str(gap["candles"]), *times, gap["place"] + (", not at the source" if gap["confirmed"] else "")]
