"""The command `markets`: the markets that could be refreshed, and which of them are."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from refresh_pipeline.cli.console import grid, out, print_line, print_table, print_warning
from refresh_pipeline.cli.options import JsonOption, wrong_requests

if TYPE_CHECKING:
    from refresh_pipeline.market.model import Market


def markets(*, as_json: JsonOption = False) -> None:
    """List every market: whether it is enabled, its source, calendar, instruments and timeframes."""
    from refresh_pipeline.settings import setting_faults

    with wrong_requests():
        rows, sentences = _rows(), setting_faults()
    for sentence in sentences:
        print_warning(sentence)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
        return
    print_markets(out, rows)
    print_line("REFRESH_MARKETS enables markets; refresh new makes one.")


def _rows() -> list[dict[str, Any]]:
    from refresh_pipeline.market_files import load_each, market_files
    from refresh_pipeline.settings import load_settings

    settings = load_settings()
    files = market_files(settings)
    right, wrong = load_each(load_settings(enabled_markets=",".join(files)))
    rows = {market.name: _described(market) for market in right}
    return [
        {
            "market": name,
            "enabled": name in settings.market_names,
            **rows.get(name, {}),
            "file": str(file),
            "error": str(wrong[name]) if name in wrong else None,
        }
        for name, file in sorted(files.items())
    ]


def _described(market: "Market") -> dict[str, Any]:
    return {
        "source": ", ".join(source.kind for source in (market.source, *market.fallbacks)),
        "calendar": market.calendar_spec.name,
        "instruments": list(market.instruments),
        "timeframes": [timeframe.value for timeframe in market.timeframes],
    }


def print_markets(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """A row for each market, and a line for each file that is wrong."""
    names = ("market", "enabled", "source", "calendar", "instruments", "timeframes")
    table = grid(*names, right=("instruments",), wrapped=("market", "source", "timeframes"))
    for row in rows:
        if not row["error"]:
            timeframes = _ends(row["timeframes"])
            cells = ("yes" if row["enabled"] else "no", row["source"], row["calendar"], str(len(row["instruments"])))
            table.add_row(row["market"], *cells, timeframes)
    print_table(console, table)
    console.print()
    for row in rows:
        if row["error"]:
            console.print(f"{row['market']}: {row['error']}", style="red", markup=False, soft_wrap=True)


def _ends(names: Sequence[str]) -> str:
    """The names in short.

    >>> _ends(["m1", "m5", "m15", "H1", "D1"])
    'm1 ... D1 (5)'
    >>> _ends(["m15", "H1"])
    'm15, H1'
    """
    return ", ".join(names) if len(names) < 4 else f"{names[0]} ... {names[-1]} ({len(names)})"
