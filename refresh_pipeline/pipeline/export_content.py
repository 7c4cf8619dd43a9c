"""Which export files a market's YAML asks for, and what belongs into each: its rows and columns. Reads nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.files import fx_refresh
from refresh_pipeline.market.export_spec import Compression, Export, Format, Layer, Layout, Window
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.adjusted_rows import adjusted_name
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.manifests import Rows, joined_columns
from refresh_pipeline.warehouse.schema import Table, candle_columns

FULL = Window.model_validate("full")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file that a market's YAML asks for."""

    series: Series
    export: Export
    layer: Layer
    kind: Format
    path: str

    @property
    def shape(self) -> str:
        """What decides its content beside its rows."""
        return self.export.shape(self.kind)

    @property
    def grows(self) -> bool:
        """Whether new rows can be appended: later bars change no earlier row, and no older copy shares its bytes."""
        is_plain_text = self.kind is Format.csv and self.export.compression_of(self.kind) is Compression.none
        is_whole = self.export.window == FULL and self.export.keep.newest == 1
        # A dividend of later, or another close before one, changes every adjusted row before it.
        return self.layer is Layer.candles and is_plain_text and is_whole and not self.export.adjusted

    @property
    def time_format(self) -> str:
        """How its text has times, as DuckDB's strftime takes it; empty for ISO 8601."""
        return fx_refresh.TIME_FORMAT if self.export.layout is Layout.fx_refresh else ""


def wanted_files(market: Market, series: Series) -> list[Wanted]:
    """Every file of one series alone that the market's YAML asks for."""
    return [
        Wanted(series, export, layer, kind, export.path(market.name, layer, series, kind))
        for export in market.exports.values()
        if export.layout is not Layout.dataset
        for layer in export.layers
        for kind in export.formats
    ]


def wanted_paths(market: Market) -> set[str]:
    """The names of every file of one series that the market's YAML asks for now."""
    return {file.path for series in market.series for file in wanted_files(market, series)}


def columns_of(market: Market, files: Sequence[Wanted]) -> list[str]:
    """Every column of the warehouse that these files need, `open_time` first."""
    needed = dict.fromkeys(["open_time"])
    kinds = {(file.layer, file.export.layout, file.export.adjusted): file for file in files}
    for file in kinds.values():
        needed |= dict.fromkeys(ours for ours, _ in names_of(market, file.layer, file.export))
    return list(needed)


def names_of(market: Market, layer: Layer, export: Export) -> list[tuple[str, str]]:
    """The joined tables' name and the file's of every column of a layer, in the file's order."""
    if export.adjusted:
        return [("open_time", "open_time"), *((adjusted_name(each), each) for each in candle_columns(market.two_sided))]
    return names_in(market, layer, export.layout)


def names_in(market: Market, layer: Layer, layout: Layout) -> list[tuple[str, str]]:
    """The same of a layout whose candles are as they were traded."""
    if layout is Layout.fx_refresh:
        return fx_refresh.columns(layer, market.two_sided)
    candles = () if layer is Layer.indicators else candle_columns(market.two_sided)
    joined = joined_columns(computations(market).values())
    computed = [(name, name) for name in joined]
    if layer is not Layer.joined:
        # By itself a table has no need of names that tell it from the other.
        own = {Layer.enhanced: Table.enhanced_candles, Layer.indicators: Table.indicators}.get(layer)
        computed = [(name, column) for name, (table, column) in joined.items() if table == own]
    return [*((name, name) for name in ("open_time", *candles)), *computed]


def window_of(files: Sequence[Wanted]) -> Window:
    """The rows that all of these files need together."""
    windows = [file.export.window for file in files]
    if any(window == FULL for window in windows):
        return FULL
    return Window.model_construct(
        last=max((window.last for window in windows if window.last), default=None),
        days=max((window.days for window in windows if window.days), default=None),
    )


def content_of(market: Market, file: Wanted, rows: Rows) -> dict[str, NDArray]:
    """What belongs into a file, out of at least that much of its series."""
    first = first_row_of(rows["open_time"], file.export.window)
    return {theirs: rows[ours][first:] for ours, theirs in names_of(market, file.layer, file.export)}


def types_of(market: Market, file: Wanted) -> dict[str, str]:
    """The tables' SQL types of the computed columns of a file, by its names; arrays of rows hold numbers as float64."""
    tables = computations(market).values()
    types = {(table.name, column.name): column.sql_type for table in tables for column in table.columns}
    joined = {name: types[place] for name, place in joined_columns(tables).items()}
    names = names_of(market, file.layer, file.export)
    return {theirs: joined[ours] for ours, theirs in names if ours in joined}


def first_row_of(open_times: NDArray, window: Window) -> int:
    """The number of the first row of a window."""
    if window.last:
        return max(len(open_times) - window.last, 0)
    if window.days:
        return int(np.searchsorted(open_times, open_times[-1] - np.timedelta64(window.days, "D"), side="right"))
    return 0
