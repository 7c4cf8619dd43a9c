"""Candles as lines of text: a column per candle, half a line as the smallest step of the price."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

Rows = Mapping[str, NDArray]

NOTHING, WICK, BODY = 0, 1, 2
# By what the upper and the lower half of a cell hold.
CELLS = {
    (NOTHING, NOTHING): " ",
    (NOTHING, WICK): "╷",
    (NOTHING, BODY): "╻",
    (WICK, NOTHING): "╵",
    (WICK, WICK): "│",
    (WICK, BODY): "╽",
    (BODY, NOTHING): "╹",
    (BODY, WICK): "╿",
    (BODY, BODY): "┃",
}
ROSE, FELL = "green", "red"
LABELS = 5


def draw(rows: Rows, *, height: int) -> list[Text]:
    """The candles as `height` lines with a price axis, and a line of times below.

    Args:
        rows: open_time, open, high, low and close as arrays, the oldest first, at least one.
        height: lines for prices.
    """
    highest, lowest = float(rows["high"].max()), float(rows["low"].min())
    cells, colours = _cells(rows, lowest, highest, height), _colours(rows)
    lines = []
    for number in range(height):
        line = Text()
        for column, colour in enumerate(colours):
            line.append(CELLS[cells[2 * number][column], cells[2 * number + 1][column]], style=colour)
        line.append(f" {_label(number, height, lowest, highest)}", style="dim")
        lines.append(line)
    return [*lines, Text(_times(rows["open_time"]), style="dim")]


def _cells(rows: Rows, lowest: float, highest: float, height: int) -> list[list[int]]:
    """What each half line holds of each candle, from the top."""
    halves = 2 * height
    step = (highest - lowest) / (halves - 1) or 1.0

    def places(prices: NDArray) -> NDArray[np.int64]:
        return np.rint((highest - prices) / step).astype(np.int64)

    top, bottom = places(rows["high"]), places(rows["low"])
    ends = places(rows["open"]), places(rows["close"])
    body_top, body_bottom = np.minimum(*ends), np.maximum(*ends)
    places_of_lines = np.arange(halves)[:, None]
    cells = np.where((places_of_lines >= top) & (places_of_lines <= bottom), WICK, NOTHING)
    return np.where((places_of_lines >= body_top) & (places_of_lines <= body_bottom), BODY, cells).tolist()


def _colours(rows: Rows) -> Sequence[str]:
    return np.where(rows["close"] >= rows["open"], ROSE, FELL).tolist()


def _label(number: int, height: int, lowest: float, highest: float) -> str:
    every = max(1, (height - 1) // (LABELS - 1))
    if number % every:
        return ""
    return price_text(highest - (highest - lowest) * number / max(1, height - 1))


def price_text(price: float) -> str:
    """A price with as many decimals as its size needs.

    >>> price_text(118346.04), price_text(1.08512), price_text(0.00001234)
    ('118,346.04', '1.08512', '1.234e-05')
    """
    return f"{price:,.2f}" if abs(price) >= 100 else f"{price:,.5f}" if abs(price) >= 0.001 else f"{price:.4g}"


def _times(times: NDArray) -> str:
    first, last = (str(time.astype("datetime64[m]")).replace("T", " ") for time in (times[0], times[-1]))
    return f"{first}{last.rjust(max(len(times), 34) - len(first))}"
