"""The command `signals`: the newest signal of each kind for every series."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from refresh_pipeline.cli.console import grid, out, print_table
from refresh_pipeline.cli.options import (
    DataDirOption,
    InstrumentOption,
    JsonOption,
    MarketOption,
    TimeframeOption,
    chosen_series,
    request,
    warehouse_errors,
)
from refresh_pipeline.market.signals import SignalDirection, SignalKind

SIGNS = {"buy": "▲", "up": "▲", "green": "▲", "sell": "▼", "down": "▼", "red": "▼", "squat": "■"}
# As many as fit 80 columns beside the series.
KINDS_A_TABLE = 3
COLORS = {"▲": "green", "▼": "red", "■": "yellow"}

KindOption = Annotated[SignalKind | None, typer.Option(help="Show signals of this kind alone.")]
DirectionOption = Annotated[SignalDirection | None, typer.Option(help="Show signals of this direction alone.")]


def signals(
    *,
    market: MarketOption = None,
    instrument: InstrumentOption = None,
    timeframe: TimeframeOption = None,
    kind: KindOption = None,
    direction: DirectionOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show the newest fractal, divergent bar, zone, saucer, zero cross and squat of every series."""
    with request(market, data_dir, lenient=True) as wanted:
        chosen = chosen_series(wanted.markets, instrument, timeframe)
    from refresh_pipeline.monitoring.signals import SignalFilter, coherence_rows, signal_rows, stored_signals

    with warehouse_errors():
        states = stored_signals(wanted.settings, chosen)
    rows = signal_rows(states, SignalFilter(kind, direction))
    if as_json:
        out.print_json(json.dumps({"signals": rows, "coherence": coherence_rows(states)}), highlight=False)
    else:
        _print_table(rows)


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a series, as wide as a terminal is: kinds without a signal have no column, times no year."""
    kinds = [kind for kind in SignalKind if any(row[kind.value] for row in rows)]
    markets = {row["market"] for row in rows}
    for first in range(0, max(len(kinds), 1), KINDS_A_TABLE):
        shown = kinds[first : first + KINDS_A_TABLE]
        table = grid("series", "", "mouth", "zone", *(kind.value.replace("_", " ") for kind in shown))
        for row in rows:
            instrument = row["instrument"] if len(markets) == 1 else f"{row['market']} {row['instrument']}"
            mouth = _signed(row["mouth_direction"], row["mouth_phase"])
            cells = [_signal(row[kind.value]) for kind in shown]
            table.add_row(instrument, row["timeframe"], mouth, _signed(row["zone"]), *cells)
        print_table(out, table)
        out.print()


def _signal(signal: Mapping[str, Any] | None) -> Any:
    if signal is None:
        return ""
    return _signed(signal["direction"], (signal["known_at"] or signal["open_time"])[5:16].replace("T", " "))


def _signed(direction: str | None, text: str | None = None) -> Any:
    from rich.text import Text

    sign = SIGNS.get(direction or "", "–")
    return Text(f"{sign} {text or direction or ''}".strip(), style=COLORS.get(sign, "dim"))
