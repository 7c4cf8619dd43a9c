"""The table of `refresh status --orphans`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from refresh_pipeline.cli.console import grid, out, print_table
from refresh_pipeline.cli.options import Request, warehouse_errors

COUNTS = {"candles": "candles", "rows": "rows", "export_files": "export files", "uploaded_files": "uploaded files"}


def show_orphans(wanted: Request, *, as_json: bool) -> None:
    """Print what is stored and no YAML names any more."""
    from refresh_pipeline.monitoring.orphans import orphan_rows

    with warehouse_errors():
        rows = orphan_rows(wanted.settings, wanted.markets)
    if as_json:
        out.print_json(json.dumps(rows), highlight=False)
    else:
        print_orphans(out, rows)


def print_orphans(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """What no YAML names any more, and the commands that forget it or give it another name."""
    if not rows:
        console.print("Every stored market and series has its place in a YAML.")
        return
    table = grid(
        "market", "instrument", "timeframe", *COUNTS.values(), right=tuple(COUNTS.values()), wrapped=("instrument",)
    )
    for row in rows:
        counts = [f"{row[name]:,}" for name in COUNTS]
        table.add_row(row["market"], row["instrument"] or "(no YAML)", row["timeframe"] or "", *counts)
    print_table(console, table)
    console.print(
        "`refresh forget --market MARKET --instrument NAME` removes a series' candles and files; "
        "`refresh rename --market MARKET OLD NEW` gives them the name that the YAML has now.",
        highlight=False,
    )
