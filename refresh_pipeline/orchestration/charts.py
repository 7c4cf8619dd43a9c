"""The chart of one series in the web UI: candles in their zones, the alligator, fractals, the ao.

What is drawn is read from the warehouse by whoever asks for it. matplotlib is imported with the first picture: a run of
many series draws none and does not pay for it.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse.outcomes import Attempt
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# As many bars as can be told apart on the page of a run.
BARS = 120
FRACTAL_DEGREE = 2
COLUMNS = (
    *("open_time", "open", "high", "low", "close", "jaw", "teeth", "lips", "zone", "ao", "ao_color"),
    *(f"fractal_{side}_{FRACTAL_DEGREE}" for side in ("up", "down")),
)
LINES = {"jaw": "#1f5fd0", "teeth": "#d03030", "lips": "#20a040"}
# A bar whose zone is not defined yet is drawn as one that belongs to none.
ZONES = {"green": "#20a040", "red": "#d03030", "gray": "#808080", None: "#808080"}
WIDE, HIGH, DOTS_PER_INCH = 11, 6, 90

Rows = Mapping[str, NDArray]


def with_chart(attempts: Mapping[Series, Attempt], warehouse: Warehouse, market: Market) -> dict[Series, Attempt]:
    """The same attempts, each with a picture of the newest candles of its series where there are any."""
    charted = {}
    for series, attempt in attempts.items():
        rows = warehouse.newest_rows(market, Table.enhanced_candles, series, COLUMNS, BARS)
        metadata = {"chart": chart(series, rows)} if len(rows["open_time"]) else {}
        charted[series] = replace(attempt, metadata={**attempt.metadata, **metadata})
    return charted


def chart(series: Series, rows: Rows) -> dg.MarkdownMetadataValue:
    """The newest candles of one series, oldest first, as an image within a text; `rows` holds COLUMNS as arrays."""
    image = base64.b64encode(picture(series, rows)).decode()
    return dg.MetadataValue.md(f"![{series}: the newest {len(rows['open'])} candles](data:image/png;base64,{image})")


def picture(series: Series, rows: Rows) -> bytes:
    """The same as a PNG file's bytes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (0.5 s that most runs need not spend)

    figure = Figure(figsize=(WIDE, HIGH), dpi=DOTS_PER_INCH)
    # Fixed margins: matplotlib draws everything twice to find its own.
    figure.subplots_adjust(left=0.09, right=0.96, bottom=0.08, top=0.95, hspace=0.03)
    prices, oscillator = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    _draw_candles(prices, rows)
    _draw_alligator(prices, rows)
    _draw_fractals(prices, rows)
    colors = [ZONES[color] for color in rows["ao_color"]]
    # A bar without a value has no height.
    _draw_bars(oscillator, (np.zeros(len(colors)), np.nan_to_num(rows["ao"])), 0.8, facecolors=colors)
    oscillator.set_ylabel("ao")
    prices.set_title(f"{series}, UTC", loc="left")
    prices.legend(loc="upper left", ncols=5, frameon=False, fontsize="small")
    _label_times(oscillator, rows["open_time"])
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_candles(axes: "Axes", rows: Rows) -> None:
    colors, bar = [ZONES[zone] for zone in rows["zone"]], np.arange(len(rows["open"]))
    axes.vlines(bar, rows["low"], rows["high"], colors=colors, linewidth=0.8)
    bottom, top = np.minimum(rows["open"], rows["close"]), np.maximum(rows["open"], rows["close"])
    # Hollow where the price rose: the colour is the zone's already.
    faces = [color if fell else "white" for color, fell in zip(colors, rows["close"] < rows["open"], strict=True)]
    _draw_bars(axes, (bottom, top), 0.7, facecolors=faces, edgecolors=colors, linewidths=0.8, zorder=3)


def _draw_bars(axes: "Axes", ends: tuple[NDArray, NDArray], width: float, **look: Any) -> None:
    """One collection: `axes.bar` makes an artist of each bar, which takes ten times as long."""
    from matplotlib.collections import PolyCollection  # noqa: PLC0415 (as above)

    left = np.arange(len(ends[0])) - width / 2
    across = np.stack([left, left, left + width, left + width], axis=1)
    along = np.stack([ends[0], ends[1], ends[1], ends[0]], axis=1)
    bars = np.stack([across, along], axis=2)
    axes.add_collection(PolyCollection(list(bars), **look))
    axes.autoscale_view()


def _draw_alligator(axes: "Axes", rows: Rows) -> None:
    for name, color in LINES.items():
        axes.plot(np.arange(len(rows[name])), rows[name], color=color, linewidth=1.2, label=name, zorder=4)


def _draw_fractals(axes: "Axes", rows: Rows) -> None:
    away = 0.02 * float(np.ptp(np.append(rows["high"], rows["low"])))
    for side, edge, marker, offset in (("up", "high", "^", away), ("down", "low", "v", -away)):
        bars = np.flatnonzero(rows[f"fractal_{side}_{FRACTAL_DEGREE}"] == 1)
        places = rows[edge][bars] + offset
        axes.scatter(bars, places, marker=marker, s=16, color="black", label=f"fractal {side}", zorder=5)


def _label_times(axes: "Axes", times: NDArray[np.datetime64]) -> None:
    # Bars side by side, whatever lies between them: a weekend is no gap in a chart.
    shown = np.linspace(0, len(times) - 1, min(len(times), 8)).astype(np.int64)
    axes.set_xticks(
        shown, [str(times[row].astype("datetime64[m]")).replace("T", "\n") for row in shown], fontsize="small"
    )
    axes.set_xlim(-1, len(times))
