"""Column names and their order in the files of the broker service before this (layout `fx_refresh`).

Values are this project's: where its numbers were wrong (docs/enhanced-candles.md), the names hold the right ones. One
row out per candle, empty where a value is not yet defined.
"""

from collections.abc import Sequence

from refresh_pipeline.market.candles import QUOTE_COLUMNS
from refresh_pipeline.market.export_spec import Layer

# Its times, for DuckDB's strftime: UTC, without a zone.
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

QUOTES = {name: "".join(part.capitalize() for part in name.split("_")) for name in QUOTE_COLUMNS}
CANDLES = {"volume": "Volume", "open": "Open", "high": "High", "low": "Low", "close": "Close", "median": "Median"}
DEGREES = (2, 3, 5, 8, 13, 21, 34, 55, 89)
# Of ours, in its order; its name where that differs.
ENHANCED: Sequence[tuple[str, str]] = (
    *(("ao", "ao"), ("ac", "ac"), ("jaw", "jaw"), ("teeth", "teeth"), ("lips", "lips")),
    *(("big_jaw", "bjaw"), ("big_teeth", "bteeth"), ("big_lips", "blips")),
    *(("tide_jaw", "tjaw"), ("tide_teeth", "tteeth"), ("tide_lips", "tlips")),
    *(
        (f"fractal_{side}_{degree}", f"{letter}{'' if degree == 2 else degree}")
        for degree in DEGREES
        for side, letter in (("up", "fh"), ("down", "fl"))
    ),
    *(("gator_upper", "gl"), ("gator_lower", "gh"), ("mfi", "mfi")),
    *(("divergent_buy", "fdbb"), ("divergent_sell", "fdbs"), ("divergent", "fdb")),
    *(("ao_above_zero", "aoaz"), ("ao_below_zero", "aobz")),
    *(("zero_cross", "zlc"), ("zero_cross_buy", "zlcb"), ("zero_cross_sell", "zlcs")),
    *(("ao_color", "aocolor"), ("ac_color", "accolor"), ("zone", "zcol"), ("zone_signal", "zone_sig")),
    *(("zone_sell", "sz"), ("zone_buy", "bz"), ("ac_sell", "acs"), ("ac_buy", "acb")),
    *(("saucer_sell", "ss"), ("saucer_buy", "sb")),
    *(("price_peak_above", "price_peak_above"), ("price_peak_below", "price_peak_bellow")),
    *(("ao_peak_above", "ao_peak_above"), ("ao_peak_below", "ao_peak_bellow")),
    *(("mouth_direction", "mouth_direction"), ("mouth_phase", "mouth_phase"), ("bar_position", "bar_position")),
    ("water_state", "water_state"),
    # One measure under both of its names.
    *(("mouth_confidence", "mouth_direction_confidence"), ("mouth_confidence", "mouth_phase_confidence")),
    *(("mfi_squat", "mfi_sq"), ("mfi_green", "mfi_green"), ("mfi_fade", "mfi_fade"), ("mfi_fake", "mfi_fake")),
    *(("mfi_signal", "mfi_sig"), ("mfi_code", "mfi_str")),
)


def columns(layer: Layer, two_sided: bool) -> list[tuple[str, str]]:
    """Our name and that service's of every column of a file, in its order.

    >>> [theirs for _, theirs in columns(Layer.candles, two_sided=False)]
    ['Date', 'Volume', 'Open', 'High', 'Low', 'Close', 'Median']
    """
    candles = [("open_time", "Date"), *(QUOTES.items() if two_sided else ()), *CANDLES.items()]
    return [*candles, *(ENHANCED if layer is Layer.enhanced else ())]
