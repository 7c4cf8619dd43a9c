"""Candles and computed columns as pandas DataFrames, for notebooks and scripts.

Each call opens the warehouse, reads and closes it: it waits while a refresh writes, and keeps no refresh waiting. The
extra `frames` installs pandas; `refresh_pipeline.analytics.dataframes` computes columns of frames from elsewhere.
"""

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import TIME_UNIT, instant, parse_instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market_files import load_markets
from refresh_pipeline.settings import Settings, load_settings
from refresh_pipeline.warehouse.adjustments import ADJUSTED
from refresh_pipeline.warehouse.arrays import BEGINNING, END
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.compute_on_read import computed_columns, expired_stretch
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline.warehouse.schema import Table, qualified

if TYPE_CHECKING:
    import pandas as pd

Bounds = list[np.datetime64 | None]
LAYERS = {"candles": Table.raw_candles, "enhanced": Table.enhanced_candles, "indicators": Table.indicators}


def candles(
    market: str,
    instrument: str,
    timeframe: str,
    *,
    layer: str = "candles",
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    adjusted: bool = False,
    data_dir: str | None = None,
) -> "pd.DataFrame":
    """The stored rows of one series, oldest first, with the open time (UTC) as index.

    The column `close_time` says when the bar ends by the market's calendar: the row is known from then on.

    Args:
        market: its name; its YAML is looked for as every command does.
        instrument: by any usual spelling.
        timeframe: by any usual spelling.
        layer: candles, enhanced or indicators.
        since: rows that open at or after this instant (UTC without an offset).
        until: rows that open before this instant.
        adjusted: whether prices of before a split or dividend are as if after it; of the layer candles.
        data_dir: the data folder, instead of REFRESH_DATA_DIR.

    Raises:
        ValueError: the market, the instrument, the timeframe or the layer does not exist, or an instant is none.
        WarehouseBusy: another program holds the file for longer than a minute.
        WarehouseUnreadable: there is no warehouse, or it is damaged.
    """
    if layer not in LAYERS:
        raise ValueError(f"layer: found {layer!r}, allowed: {', '.join(LAYERS)}")
    if adjusted and layer != "candles":
        raise ValueError(f"adjusted: found True with layer {layer!r}, allowed: with layer 'candles'")
    settings = load_settings(enabled_markets=market, data_dir=data_dir)
    [chosen] = load_markets(settings, named_by="market")
    series = Series(chosen.instrument(instrument), chosen.timeframe(timeframe))
    table = f'"{chosen.name}".{ADJUSTED}' if adjusted else qualified(chosen.name, LAYERS[layer])
    bounds = _bounds(since, until)
    frame = _read(settings, table, series, bounds)
    if LAYERS[layer] in computations(chosen):
        frame = _with_expired(frame, settings, chosen, LAYERS[layer], series, bounds=bounds)
    opens = frame["open_time"].to_numpy().astype(TIME_UNIT)
    closes = chosen.calendar_of(series.instrument).closes(series.timeframe, opens)
    frame = frame.drop(columns=["instrument", "timeframe"]).set_index("open_time").tz_localize("UTC")
    frame.insert(0, "close_time", closes)
    frame["close_time"] = frame["close_time"].dt.tz_localize("UTC")
    return frame


def joined_as_of(left: "pd.DataFrame", right: "pd.DataFrame", suffix: str = "_right") -> "pd.DataFrame":
    """The rows of a short timeframe, each with the newest row of a longer one that was known at its close.

    Both are frames of `candles`. A row of `right` is joined from its `close_time` on, so nothing looks ahead: the bar
    H1 of 10:00 is first seen beside the bar m15 of 10:45, which closes at the same instant.

    Args:
        left: the shorter timeframe, whose index stays.
        right: the longer timeframe.
        suffix: appended to each column of `right`.

    Raises:
        ValueError: a frame has no column `close_time`.
    """
    import pandas as pd  # noqa: PLC0415 (an extra, and a second to import)

    for name, frame in (("left", left), ("right", right)):
        if "close_time" not in frame:
            raise ValueError(f"{name}: found no column close_time; take frames of refresh_pipeline.notebook.candles")
    known = right.add_suffix(suffix).rename(columns={f"close_time{suffix}": "close_time"})
    known[f"close_time{suffix}"] = known["close_time"]
    result = pd.merge_asof(left.reset_index(), known.reset_index(drop=True), on="close_time")
    return result.set_index("open_time")


def _bounds(since: str | datetime | None, until: str | datetime | None) -> Bounds:
    first, end = (_bound(name, bound) for name, bound in (("since", since), ("until", until)))
    if first is not None and end is not None and first >= end:
        raise ValueError(f"since {since} is not before until {until}")
    return [first, end]


def _bound(name: str, bound: str | datetime | None) -> np.datetime64 | None:
    try:
        return None if bound is None else instant(parse_instant(bound) if isinstance(bound, str) else bound)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _read(settings: Settings, table: str, series: Series, bounds: list[np.datetime64 | None]) -> "pd.DataFrame":
    values: list[Any] = [series.instrument, series.timeframe.value]
    condition = "instrument = ? and timeframe = ?"
    for comparison, bound in zip((">=", "<"), bounds, strict=True):
        if bound is not None:
            condition += f" and open_time {comparison} ?"
            values.append(bound.astype(datetime))
    statement = f"select * from {table} where {condition} order by open_time"
    with connect(settings.warehouse, read_only=True) as connection:
        return connection.execute(statement, values).df()


def _with_expired(
    frame: "pd.DataFrame", settings: Settings, market: Market, table: Table, series: Series, *, bounds: Bounds
) -> "pd.DataFrame":
    """The stored rows of a frame after those that have expired, which are computed with the file closed in between."""
    since, until = (bound if bound is not None else end for bound, end in zip(bounds, (BEGINNING, END), strict=True))
    opened = partial(connect, settings.warehouse, read_only=True)
    with opened() as connection:
        expired = expired_stretch(connection, market.name, table, series, (since, until))
    if expired is None:
        return frame
    names = [name for name in frame.columns if name not in ("instrument", "timeframe")]
    found = computed_columns(opened, market, {table: names}, series, expired)
    return _completed(frame, {name: found[table, name] for name in names}, series, expired[1])


def _completed(
    frame: "pd.DataFrame", computed: dict[str, NDArray], series: Series, stored: np.datetime64
) -> "pd.DataFrame":
    """The rows of a frame that are stored, from the first of them on, after the computed ones."""
    import pandas as pd  # noqa: PLC0415 (an extra, and a second to import)

    older = pd.DataFrame(computed)
    older.insert(0, "instrument", series.instrument)
    older.insert(1, "timeframe", series.timeframe.value)
    later = frame.loc[frame["open_time"] >= stored, :]
    return pd.concat([older, later], ignore_index=True) if len(later) else older
