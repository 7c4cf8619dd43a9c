"""The command `acknowledge`: faults of candle checks that are known and accepted."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from refresh_pipeline.cli.console import counted, err, print_error, print_line
from refresh_pipeline.cli.options import (
    WRONG_REQUEST,
    DataDirOption,
    InstrumentOption,
    NowOption,
    TimeframeOption,
    narrowed,
    reject_unknown,
    request,
    warehouse_errors,
)

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market
    from refresh_pipeline.warehouse.acknowledgements import Acknowledged
    from refresh_pipeline.warehouse.queries import Fault
    from refresh_pipeline.warehouse.warehouse import Warehouse


def acknowledge(
    *,
    market: Annotated[str, typer.Option("--market", "-m", help="Acknowledge faults of this market.")],
    check: Annotated[str | None, typer.Option("--check", help="Acknowledge faults of this check.")] = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    note: Annotated[str, typer.Option("--note", help="Store this reason with the faults.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Let acknowledged faults fail their check again.")] = False,
    as_list: Annotated[bool, typer.Option("--list", help="List acknowledged faults and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Acknowledge without asking.")] = False,
    now: NowOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Accept known faults of a check of candles: it passes until there is another fault."""
    with request(market, data_dir, now=now) as wanted:
        if len(wanted.markets) != 1:
            raise ValueError(f"--market: found {market}, allowed: one market")
        from refresh_pipeline.pipeline.quality import candle_checks

        chosen = wanted.markets[0]
        names = [each.name for each in candle_checks(chosen)]
        if not as_list and check not in names:
            raise ValueError(f"--check: found {check}, allowed: {', '.join(names)}")
        reject_unknown(wanted.markets, instrument, timeframe)
        series = set(narrowed(chosen, instrument, timeframe))
    from refresh_pipeline.warehouse.warehouse import Warehouse

    warehouse = Warehouse(database=wanted.settings.warehouse)
    with warehouse_errors():
        warehouse.prepare(chosen)
        if as_list:
            _print_acknowledged(entry for entry in warehouse.acknowledged(chosen) if entry.fault.series in series)
            return
        assert check is not None
        faults = _faults(warehouse, chosen, check, wanted.now, undo=undo)
        faults = [fault for fault in faults if fault.series in series]
        if not _is_wanted(check, faults, undo=undo, yes=yes):
            return
        if undo:
            warehouse.withdraw_acknowledgements(chosen, check, faults)
        else:
            warehouse.acknowledge(chosen, check, faults, note, wanted.now)
    print_line(f"{counted(len(faults), 'fault')} of {check} {'counted again' if undo else 'acknowledged'}")


def _faults(warehouse: "Warehouse", market: "Market", check: str, now: datetime, *, undo: bool) -> "list[Fault]":
    """The faults that a check has now; with `undo`, its acknowledged ones."""
    from refresh_pipeline.pipeline.quality import candle_verdicts

    if undo:
        return [entry.fault for entry in warehouse.acknowledged(market) if entry.check == check]
    verdict = candle_verdicts(warehouse, market, now, [check])[check]
    if verdict.is_cut_short:
        print_error(f"{check} lists only the first of its faults: they are too many to be acknowledged")
        raise typer.Exit(WRONG_REQUEST)
    return list(verdict.faults)


def _is_wanted(check: str, faults: "Sequence[Fault]", *, undo: bool, yes: bool) -> bool:
    """List the faults and ask; ends with exit code 2 where the answer is no, False where there is none."""
    for fault in faults:
        err.print(f"{check}: {shown(fault)}", markup=False, highlight=False, soft_wrap=True)
    if not faults:
        print_line("No acknowledged fault matches." if undo else "No fault to acknowledge.")
        return False
    question = "Let these faults fail the check again?" if undo else "Acknowledge these faults?"
    if not yes and not _confirmed(question):
        err.print("Nothing changed; use --yes to skip the question.")
        raise typer.Exit(WRONG_REQUEST)
    return True


def _print_acknowledged(entries: "Iterable[Acknowledged]") -> None:
    for entry in entries:
        reason = f": {entry.note}" if entry.note else ""
        since = f"{entry.acknowledged_at:%Y-%m-%d %H:%M} UTC"
        print_line(f"{entry.check}: {shown(entry.fault)} (acknowledged {since}{reason})")


def shown(fault: "Fault") -> str:
    """A fault on one line."""
    at = "" if fault.open_time is None else f" {fault.open_time.astype('datetime64[s]')}"
    return f"{fault.series}{at}: {fault.what}"


def _confirmed(question: str) -> bool:
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        return False
