"""The command `status`: how fresh the stored candles are, per timeframe or per series."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from refresh_pipeline.cli.console import counted, grid, out, print_line, print_table, print_warning, share_text
from refresh_pipeline.cli.options import (
    DataDirOption,
    InstrumentOption,
    JsonOption,
    MarketOption,
    NowOption,
    Request,
    TimeframeOption,
    chosen_series,
    request,
    warehouse_errors,
    warn_of_calendars,
    warn_of_unfinished_restore,
)
from refresh_pipeline.cli.orphans import show_orphans

Row = Mapping[str, Any]

COLOURS = {"failed": "red", "no data": "yellow", "updated": "green", "unchanged": "green"}
NEVER = "never"


def status(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    failed: Annotated[bool, typer.Option("--failed", help="Show only series that failed or lack candles.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show a line per series instead of per timeframe.")] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Show instead what is stored and no YAML names any more.")
    ] = False,
    as_json: JsonOption = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show how fresh the stored candles are, per timeframe; -i, -t, --failed and --all show every series."""
    with request(market, data_dir, lenient=True, now=now) as wanted:
        moment = wanted.now
        keys = {(m.name, s.key) for m, series in chosen_series(wanted.markets, instrument, timeframe) for s in series}
    if orphans:
        show_orphans(wanted, as_json=as_json)
        return
    from refresh_pipeline.monitoring.status import acknowledged_counts, status_rows
    from refresh_pipeline.operations.missing_warehouse import why_missing
    from refresh_pipeline.warehouse.connection import place_of

    warn_of_unfinished_restore(wanted.settings)
    if reason := why_missing(wanted.settings):
        print_warning(reason)
    with warehouse_errors():
        rows = status_rows(wanted.settings, wanted.markets, moment)
        accepted = acknowledged_counts(wanted.settings, wanted.markets)
    rows = [row for row in rows if _key(row) in keys and (not failed or is_at_fault(row))]
    warn_of_calendars(wanted)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
    else:
        by_series = bool(instrument or timeframe or failed or everything)
        if failed and not rows:
            out.print("No series failed or lacks candles.", style="green")
            return
        print_status(out, place_of(wanted.settings.warehouse).name, rows, by_series=by_series)
        _print_uploads(wanted)
        for name, count in accepted.items():
            out.print(
                f"{name}: {counted(count, 'fault')} acknowledged; refresh acknowledge --market {name} --list lists them"
            )


def _print_uploads(wanted: Request) -> None:
    """Say that uploads are off, and which files of earlier ones are there."""
    from refresh_pipeline.destinations.upload_url import OFF
    from refresh_pipeline.pipeline.uploads_off import former_uploads, markets_without_uploads

    without = markets_without_uploads(wanted.settings, wanted.markets)
    if not without:
        return
    of = "" if len(without) == len(wanted.markets) else f" of {', '.join(market.name for market in without)}"
    print_line(f"uploads{of} {OFF}")
    if sentence := former_uploads(wanted.settings):
        print_warning(sentence)


def is_at_fault(row: Row) -> bool:
    """Whether a series failed or lacks candles that are due; one that has just closed may still be on its way."""
    return bool(row["outcome"] in ("failed", "no data", None) or row["failed"] or row["completeness"] not in (None, 1))


def print_status(console: Console, database: str, rows: Sequence[Row], *, by_series: bool) -> None:
    """The rows as a table for each market, and what failed, by reason."""
    for market, members in groupby(rows, key=lambda row: row["market"]):
        series = list(members)
        print_table(console, (_series_table if by_series else _timeframe_table)(market, series))
        console.print()
    if not rows:
        console.print("No series to show.")
    elif not any(row["attempted_at"] or row["candle_count"] for row in rows):
        console.print("Nothing is stored yet: [bold]refresh once[/bold] fetches candles.")
        return
    _print_reasons(console, rows)
    if not by_series and any(map(is_at_fault, rows)):
        console.print(
            "[bold]refresh status --failed[/bold] lists series at fault; [bold]refresh gaps[/bold] lists gaps."
        )
    console.print(f"warehouse {database}", soft_wrap=True, highlight=False, markup=False)


def _key(row: Row) -> tuple[str, str]:
    return row["market"], f"{row['instrument']}|{row['timeframe']}"


# ---- a line per timeframe


def _timeframe_table(market: str, rows: Sequence[Row]) -> Any:
    names = ("timeframe", "series", "newest candle", "behind", "candles", "complete", "failed")
    table = grid(*names, right=("series", "behind", "candles", "complete", "failed"), title=market)
    by_timeframe: dict[str, list[Row]] = {}
    for row in rows:
        by_timeframe.setdefault(row["timeframe"], []).append(row)
    for timeframe, series in by_timeframe.items():
        table.add_row(timeframe, *_summary(series))
    return table


def _summary(rows: Sequence[Row]) -> Iterator[str | Text]:
    behind = sum(bool(row["bars_behind"]) or row["newest_candle"] is None for row in rows)
    failed = sum(row["outcome"] == "failed" or bool(row["failed"]) for row in rows)
    yield str(len(rows))
    yield _minute(max((row["newest_candle"] or "" for row in rows), default=""))
    yield Text(str(behind), style="yellow" if behind else "green")
    yield f"{sum(row['candle_count'] for row in rows):,}"
    shares = [row["completeness"] for row in rows if row["completeness"] is not None]
    yield share_text(sum(shares) / len(shares) if shares else None)
    yield Text(str(failed), style="red" if failed else "green")


# ---- a line per series


def _series_table(market: str, rows: Sequence[Row]) -> Any:
    names = ("instrument", "timeframe", "newest candle", "age", "behind", "candles", "complete", "outcome")
    right = ("age", "behind", "candles", "complete")
    table = grid(*names, right=right, wrapped=("instrument", "outcome"), title=market)
    for row in rows:
        table.add_row(*_series_cells(row))
    return table


def _series_cells(row: Row) -> list[str | Text]:
    from refresh_pipeline.market.freshness import short_duration

    behind, outcome = row["bars_behind"], row["outcome"] or NEVER
    return [
        row["instrument"],
        row["timeframe"],
        _minute(row["newest_candle"]),
        short_duration(row["age_seconds"]),
        Text("-" if behind is None else str(behind), style="green" if behind == 0 else "yellow"),
        str(row["candle_count"]),
        share_text(row["completeness"]),
        Text(outcome, style=COLOURS.get(outcome, "yellow")),
    ]


def _minute(time: str | None) -> str:
    return time.replace("T", " ").removesuffix("Z").removesuffix(":00") if time else "-"


# ---- reasons


def _print_reasons(console: Console, rows: Sequence[Row]) -> None:
    from refresh_pipeline.market.series import listing

    for (where, reason), series in _by_reason(rows).items():
        console.print(Text(f"failed: {where} of {listing(series)}: {reason}", style="red"), soft_wrap=True)
    for (market, reason), series in _grouped(rows, lambda row: row["outcome"] == "no data" and row["reason"]).items():
        console.print(Text(f"no data: {market} {listing(series)}: {reason}", style="yellow"), soft_wrap=True)
    for (market, reason), series in _grouped(rows, lambda row: row["rejections"]).items():
        console.print(Text(f"rejected: {market} {listing(series)}: {reason}", style="yellow"), soft_wrap=True)


def _by_reason(rows: Sequence[Row]) -> dict[tuple[str, str], list[str]]:
    """Failed series by asset and reason: of fetching, and of later assets at their last attempt."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        reasons = {"raw_candles": row["reason"]} if row["outcome"] == "failed" and row["reason"] else {}
        for asset, reason in {**reasons, **row["failed"]}.items():
            groups.setdefault((f"{row['market']}/{asset}", reason), []).append(_name(row))
    return groups


def _grouped(rows: Sequence[Row], reason: Callable[[Row], str | None]) -> dict[tuple[str, str], list[str]]:
    """The names of the series that have a reason, by market and reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if text := reason(row):
            groups.setdefault((row["market"], text), []).append(_name(row))
    return groups


def _name(row: Row) -> str:
    return f"{row['instrument']} {row['timeframe']}"
