"""The tables and progress bars of the `refresh` command."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as Grid
from rich.text import Text

from refresh_pipeline.cli.console import grid, print_table, program
from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.market.candles import iso_utc
from refresh_pipeline.market.gaps import Gap
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series, listing
from refresh_pipeline.market.universe import Universe
from refresh_pipeline.pipeline.progress import Watcher
from refresh_pipeline.warehouse.queries import SeriesOutcome
from refresh_pipeline.warehouse.schema import Table

if TYPE_CHECKING:
    # It imports Dagster, which `refresh status` does not need.
    from refresh_pipeline.orchestration.run_jobs import Refreshed

# More instruments or timeframes than these are not named in a command.
MOST_NAMED = 5
COUNTS = ("series", "added", "revised", "computed", "exported", "uploaded")
PLACES = ("warehouse", "exports", "uploads")
# Outcomes whose reason speaks of something else than rejected candles.
UNREJECTED = ("failed", "no data")
# Where the faults of a check stand.
LISTED_BY = {
    "no_candles_are_missing": "refresh gaps lists them",
    "every_series_is_fresh": "refresh status --failed lists them",
    "every_series_was_fetched": "refresh status --failed lists them",
}
STATUS_COLOURS = {"failed": "red", "no data": "yellow", "updated": "green", "unchanged": "green"}


class RateColumn(ProgressColumn):
    """How many things a second get done."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


@contextmanager
def progress_bars(console: Console) -> Iterator[Watcher]:
    """A bar per kind of work; nothing where the output is no terminal."""
    columns = (
        TextColumn("{task.description:<16}"),
        # What the other columns leave of the window.
        BarColumn(bar_width=max(4, min(24, console.width - 72))),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def watch(what: str, completed: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what.replace("_", " "), total=total)
            progress.update(tasks[what], completed=completed, total=total)

        yield watch


# ---- refresh once


def print_refreshed(
    console: Console, action: str, results: Sequence["Refreshed"], verbose: int, service: str | None = None
) -> None:
    """For each market a table of the action's results and its failures, and where the files are.

    Args:
        console: to print on.
        action: what was asked for: refresh, backfill or publish.
        results: one a market.
        verbose: a row per series instead of one per timeframe, from 1 on.
        service: what runs on the data folder already, if anything does.
    """
    for result in results:
        print_table(console, _result_grid(action, result, by_series=verbose > 0))
        _print_failures(console, result)
        if result.gaps and action == "refresh":
            console.print(Text(missing_candles(result.market, result.gaps), style="yellow"), soft_wrap=True)
    for line in _places(results):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if action == "backfill":
        console.print("The next [bold]refresh once[/bold] or the publishing schedule writes the export files.")
    up = ("; web UI and dashboard: ", service) if service else (", ", (f"{program()} up", "bold"))
    end = "." if service else " (web UI and dashboard)."
    console.print(Text.assemble("Next: ", (f"{program()} status", "bold"), *up, end))


def _places(results: Sequence["Refreshed"]) -> Iterator[str]:
    """A line for each place, with the markets that have it where others have another one."""
    markets: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for place in result.places.items():
            markets.setdefault(place, []).append(result.market.name)
    for (name, place), names in sorted(markets.items(), key=lambda entry: PLACES.index(entry[0][0])):
        yield f"{name:<10} {place}" + (f" ({', '.join(names)})" if len(names) < len(results) else "")


def missing_candles(market: Market, gaps: Sequence[Gap]) -> str:
    """What is missing, and the command that asks the source for it."""
    series = dict.fromkeys(gap.series for gap in gaps)
    narrowed = ""
    for option, names, every in (
        ("--instrument", [each.instrument for each in series], len(market.instruments)),
        ("--timeframe", [each.timeframe.value for each in series], len(market.timeframes)),
    ):
        chosen = list(dict.fromkeys(names))
        # A backfill asks for what is missing alone, so that a short command does as well as a long one.
        if len(chosen) <= min(MOST_NAMED, every - 1):
            narrowed += f" {option} {','.join(chosen)}"
    since = iso_utc(min(gap.first for gap in gaps))
    return (
        f"{sum(gap.candles for gap in gaps):,} candles of {listing(list(series))} are missing; to ask the source for "
        f"them, run: refresh backfill --market {market.name} --since {since}{narrowed}"
    )


def _result_grid(action: str, refreshed: "Refreshed", by_series: bool) -> Grid:
    # The title is what was asked for: what came of it stands in the rows and below.
    title = f"{refreshed.market.name}: {action}"
    names = ("instrument", "timeframe") if by_series else ("timeframe", "series")
    table = grid(*names, *COUNTS[1:], "outcome", right=COUNTS, wrapped=("instrument", "outcome"), title=title)
    for group in _groups(refreshed, by_series):
        table.add_row(*group)
    return table


def _groups(refreshed: "Refreshed", by_series: bool) -> Iterator[list[Text | str]]:
    by_key: dict[Any, list[SeriesOutcome]] = {}
    for outcome in refreshed.outcomes:
        by_key.setdefault(outcome.series if by_series else outcome.series.timeframe, []).append(outcome)
    order = refreshed.market.series if by_series else refreshed.market.timeframes
    for key in order:
        if key in by_key:
            yield _group_row(key, by_key[key], by_series)


def _group_row(key: Any, outcomes: Sequence[SeriesOutcome], by_series: bool) -> list[Text | str]:
    def rows(asset: Table, what: str) -> str:
        return str(sum(getattr(outcome, what) for outcome in outcomes if outcome.asset == asset))

    def updated(asset: Table) -> str:
        return str(sum(outcome.outcome == "updated" for outcome in outcomes if outcome.asset == asset))

    counted = [outcome.outcome for outcome in outcomes if outcome.asset == Table.raw_candles]
    failed = {outcome.series for outcome in outcomes if outcome.outcome == "failed"}
    head = [key.instrument, key.timeframe.value] if by_series else [key.value, str(len({e.series for e in outcomes}))]
    return [
        *head,
        rows(Table.raw_candles, "rows_added"),
        rows(Table.raw_candles, "rows_revised"),
        str(
            sum(outcome.rows_added + outcome.rows_revised for outcome in outcomes if outcome.asset == Table.indicators)
        ),
        updated(Table.exports),
        "off" if _uploads_are_off(outcomes) else updated(Table.uploads),
        _outcome_text(
            counted or [outcome.outcome for outcome in outcomes if outcome.asset == Table.exports], len(failed)
        ).append(_rejections(outcomes), style="yellow"),
    ]


def _uploads_are_off(outcomes: Sequence[SeriesOutcome]) -> bool:
    return any(each.asset == Table.uploads and each.reason == OFF for each in outcomes)


def _outcome_text(outcomes: Sequence[str], failed: int) -> Text:
    counts = {outcome: outcomes.count(outcome) for outcome in STATUS_COLOURS if outcome != "failed"}
    parts = [f"{count} {outcome}" for outcome, count in counts.items() if count]
    parts += [f"{failed} failed"] if failed else []
    return Text(", ".join(parts), style="red" if failed else "green")


def _rejections(outcomes: Sequence[SeriesOutcome]) -> str:
    """The candles that were rejected in good answers: of one series in words, of several the first and their number."""
    reasons = [each.reason for each in outcomes if each.asset == Table.raw_candles and each.outcome not in UNREJECTED]
    reasons = [reason for reason in reasons if reason]
    if not reasons:
        return ""
    return f" ({reasons[0]})" if len(reasons) == 1 else f" ({reasons[0]}; others in {len(reasons) - 1} more series)"


def _print_failures(console: Console, refreshed: "Refreshed") -> None:
    failed = [outcome for outcome in refreshed.outcomes if outcome.outcome == "failed"]
    for (asset, reason), series in _by_reason(failed).items():
        console.print(Text(f"failed: {asset} of {listing(series)}: {reason}", style="red"), soft_wrap=True)
    empty = [outcome for outcome in refreshed.outcomes if outcome.outcome == "no data" and outcome.reason]
    for (_, reason), series in _by_reason(empty).items():
        console.print(Text(f"no data: {listing(series)}: {reason}", style="yellow"), soft_wrap=True)
    for message in refreshed.errors:
        console.print(Text(message, style="red"), soft_wrap=True)
    for name, faults in refreshed.failed_checks.items():
        where = LISTED_BY.get(name, "refresh check lists the first of them")
        console.print(Text(f"check not passed: {name} ({faults}); {where}", style="yellow"), soft_wrap=True)


def _by_reason(failed: Sequence[SeriesOutcome]) -> dict[tuple[str, str], list[Series]]:
    groups: dict[tuple[str, str], list[Series]] = {}
    for outcome in failed:
        groups.setdefault((outcome.asset, outcome.reason or "failed"), []).append(outcome.series)
    return groups


# ---- refresh universe


def print_universe(console: Console, file: Path, universe: Universe) -> None:
    """How many instruments a renewed universe has, and what is new, gone, renumbered or not known."""
    console.print(f"{len(universe.instruments)} instruments in {file}", soft_wrap=True, highlight=False, markup=False)
    notes = {
        "added": universe.added,
        "removed": universe.removed,
        "another security id": universe.renumbered,
        "not in the scrip master, an id from before is kept": universe.unknown,
    }
    for what, symbols in notes.items():
        if symbols:
            console.print(
                f"{what} ({len(symbols)}): {', '.join(symbols)}", soft_wrap=True, highlight=False, markup=False
            )
    console.print(
        "`refresh up` loads the new list by itself; `dagster dev` loads it with Reload definitions.", highlight=False
    )
