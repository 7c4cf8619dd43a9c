"""The tables of docs/indicators.md, made from the registry: `python -m refresh_pipeline_tests.indicators_document`.

A test holds the document against them; what stands before the first table is written by hand and left alone.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from refresh_pipeline.analytics.bars import Column
from refresh_pipeline.analytics.evaluation import BlockFormula, RowFormula
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.analytics.registry import DefaultColumns, Indicator, registry
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline_tests.analytics.sample_bars import Market, computed_alone, history

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "indicators.md"
HEADER = (
    "| column | indicator | type | unit | meaning | empty rows | bars before |",
    "|---|---|---|---|---|---|---|",
)
BARS = 700
# With what a market has to name.
EVERYTHING = indicators(["all", "volume_profile"], CALENDARS["crypto"])


def tables() -> str:
    """One table a group, a row a column."""
    entries = registry(CALENDARS["crypto"]).values()
    columns = {column.name: column for column in EVERYTHING.columns}
    empty = empty_rows()
    lines: list[str] = []
    for group in dict.fromkeys(entry.group for entry in entries):
        lines += ["", f"## {group}", "", *HEADER]
        for entry, shipped, name in shipped_columns(entry for entry in entries if entry.group == group):
            lines.append(_row(columns[name], entry, shipped, empty[name]))
    return "\n".join(lines) + "\n"


def shipped_columns(entries: Iterator[Indicator]) -> Iterator[tuple[Indicator, DefaultColumns, str]]:
    """Every column of some indicators that is computed unless a market chooses otherwise."""
    return ((entry, shipped, name) for entry in entries for shipped in entry.shipped for name in shipped.names)


def empty_rows() -> dict[str, str]:
    """How many rows of a young series have no value, by column; - where that hangs on the market."""
    market = {**history(Market(bars=BARS, price=0.5)), "volume": np.ones(BARS)}
    computed = computed_alone(EVERYTHING, market)
    known = {
        name: np.array([value is not None and value == value for value in values]) for name, values in computed.items()
    }
    return {
        name: str(int(there.argmax())) if there.any() and "level" not in name and "strength_" not in name else "-"
        for name, there in known.items()
    }


def _row(column: Column, entry: Indicator, shipped: DefaultColumns, empty: str) -> str:
    formula = entry.part(shipped.parameters, shipped.names).formula
    before = str(column.warm_up) if isinstance(formula, BlockFormula | RowFormula) else "state"
    cells = [f"`{column.name}`", f"`{entry.name}`", column.sql_type, column.unit, column.description, empty, before]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Write the tables anew."""
    generated = tables().split("\n\n| ")[0]
    written_by_hand = DOCUMENT.read_text(encoding="utf-8").split(generated)[0].rstrip("\n")
    DOCUMENT.write_text(f"{written_by_hand}\n{tables()}", encoding="utf-8")


if __name__ == "__main__":
    main()
