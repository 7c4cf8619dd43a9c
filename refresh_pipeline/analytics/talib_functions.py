"""The functions of TA-Lib: what each takes, gives and means, and how far back it looks. Computing is not here.

One row a function, with TA-Lib's own default parameters, every one of them written out: defaults change between its
releases. Titles are TA-Lib's. How far back a function with a memory has to begin is measured:
`python -m refresh_pipeline_tests.benchmarks.measure_warm_up` prints the table anew.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import unwrap
from typing import Any

from refresh_pipeline.analytics.lazy_talib import load_talib

_talib = load_talib()
_abstract = import_module("talib.abstract")

Number = int | float
# Outputs that are counted or flagged: whole numbers, without a value for "not yet".
WHOLE = {"integer", "minidx", "maxidx", "swinghigh", "swinglow", "trend"}


@dataclass(frozen=True, slots=True)
class TalibFunction:
    """One function: title, group, the candle columns it takes, the unit of what it gives."""

    title: str
    group: str
    inputs: str
    unit: str
    parameters: Mapping[str, Number] = field(default_factory=dict)
    # Names of the outputs where there are several, as TA-Lib has them.
    outputs: str = ""
    # Bars until a function with a memory has forgotten where it began (to 1e-9, over a halt of 300 bars too; Hilbert's
    # transform alone divides rounding by rounding there), at its default parameters; 0 without a memory.
    warm_up: int = 0

    @property
    def takes(self) -> Sequence[str]:
        """The candle columns, in order."""
        return self.inputs.split()


# Rows that a function without a memory begins before its first full window: what running sums leave behind is then the
# same wherever a history is cut.
SURPLUS = 8
# Functions whose values have the same bits wherever the history begins: of a bar, of two bars, or the greatest and
# the least of a window. What adds up a window is not among them, as a sum that is carried along rounds otherwise.
OF_A_WINDOW = frozenset(
    {
        *("ACOS", "ASIN", "ATAN", "CEIL", "COS", "COSH", "EXP", "FLOOR", "LN", "LOG10", "SIN", "SINH", "SQRT", "TAN"),
        *("TANH", "ADD", "DIV", "MULT", "SUB", "MEDPRICE", "AVGPRICE", "TYPPRICE", "WCLPRICE", "BOP", "MARKETFI"),
        *("MOM", "ROC", "ROCP", "ROCR", "ROCR100", "TRANGE"),
        *("MAX", "MIN", "MINMAX", "MIDPOINT", "MIDPRICE", "DONCHIAN", "AROON", "AROONOSC", "WILLR"),
    }
)


def lookback(name: str, parameters: Mapping[str, Number]) -> int:
    """How many rows have no value yet at the beginning of a history."""
    function = _abstract.Function(name)
    kept = dict(function.parameters)
    function.parameters = dict(parameters)
    try:
        return function.lookback
    finally:
        function.parameters = kept


def whole_outputs(name: str) -> list[bool]:
    """Which outputs are whole numbers, in order."""
    return [output in WHOLE for output in _abstract.Function(name).output_names]


def bare(name: str) -> Callable[..., Any]:
    """The C function behind a name: what TA-Lib wraps around it for data frames costs more than 500 bars do."""
    return unwrap(getattr(_talib, name))


FUNCTIONS: dict[str, TalibFunction] = {
    "HT_DCPERIOD": TalibFunction("Hilbert transform: Dominant Cycle Period", "cycles", "close", "bars", warm_up=512),
    "HT_DCPHASE": TalibFunction("Hilbert transform: Dominant Cycle Phase", "cycles", "close", "degrees", warm_up=512),
    "HT_PHASOR": TalibFunction(
        "Hilbert transform: Phasor Components", "cycles", "close", "price", outputs="inphase quadrature", warm_up=512
    ),
    "HT_SINE": TalibFunction(
        "Hilbert transform: SineWave", "cycles", "close", "-1 to 1", outputs="sine leadsine", warm_up=512
    ),
    "HT_TRENDMODE": TalibFunction("Hilbert transform: Trend vs Cycle Mode", "cycles", "close", "0 or 1", warm_up=512),
    "ADD": TalibFunction("High plus low", "math", "high low", "price"),
    "CUMSUM": TalibFunction("Sum of all closes so far", "math", "close", "price"),
    "DIV": TalibFunction("High divided by low", "math", "high low", "ratio"),
    "MAX": TalibFunction("Highest close", "math", "close", "price", {"timeperiod": 30}),
    "MAXINDEX": TalibFunction(
        "Number of the bar with the highest close", "math", "close", "bar number", {"timeperiod": 30}
    ),
    "MIN": TalibFunction("Lowest close", "math", "close", "price", {"timeperiod": 30}),
    "MININDEX": TalibFunction(
        "Number of the bar with the lowest close", "math", "close", "bar number", {"timeperiod": 30}
    ),
    "MINMAX": TalibFunction(
        "Lowest and highest close",
        "math",
        "close",
        "price",
        {"timeperiod": 30},
        outputs="min max",
    ),
    "MINMAXINDEX": TalibFunction(
        "Numbers of the bars with the lowest and the highest close",
        "math",
        "close",
        "bar number",
        {"timeperiod": 30},
        outputs="minidx maxidx",
    ),
    "MULT": TalibFunction("High times low", "math", "high low", "price squared"),
    "SUB": TalibFunction("High minus low", "math", "high low", "price"),
    "SUM": TalibFunction("Sum of closes", "math", "close", "price", {"timeperiod": 30}),
    "ACOS": TalibFunction("Arc cosine of the close", "math", "close", "number"),
    "ASIN": TalibFunction("Arc sine of the close", "math", "close", "number"),
    "ATAN": TalibFunction("Arc tangent of the close", "math", "close", "number"),
    "CEIL": TalibFunction("The close rounded up", "math", "close", "price"),
    "COS": TalibFunction("Cosine of the close", "math", "close", "number"),
    "COSH": TalibFunction("Hyperbolic cosine of the close", "math", "close", "number"),
    "EXP": TalibFunction("e to the power of the close", "math", "close", "number"),
    "FLOOR": TalibFunction("The close rounded down", "math", "close", "price"),
    "LN": TalibFunction("Natural logarithm of the close", "math", "close", "number"),
    "LOG10": TalibFunction("Logarithm of the close to base 10", "math", "close", "number"),
    "SIN": TalibFunction("Sine of the close", "math", "close", "number"),
    "SINH": TalibFunction("Hyperbolic sine of the close", "math", "close", "number"),
    "SQRT": TalibFunction("Square root of the close", "math", "close", "number"),
    "TAN": TalibFunction("Tangent of the close", "math", "close", "number"),
    "TANH": TalibFunction("Hyperbolic tangent of the close", "math", "close", "number"),
    "AC": TalibFunction(
        "Accelerator/Decelerator Oscillator",
        "momentum",
        "high low",
        "price",
        {"fastperiod": 5, "slowperiod": 34, "signalperiod": 5},
    ),
    "ADX": TalibFunction(
        "Average Directional Movement Index", "momentum", "high low close", "0 to 100", {"timeperiod": 14}, warm_up=640
    ),
    "ADXR": TalibFunction(
        "Average Directional Movement Index Rating",
        "momentum",
        "high low close",
        "0 to 100",
        {"timeperiod": 14},
        warm_up=640,
    ),
    "AO": TalibFunction("Awesome Oscillator", "momentum", "high low", "price", {"fastperiod": 5, "slowperiod": 34}),
    "APO": TalibFunction(
        "Absolute Price Oscillator",
        "momentum",
        "close",
        "price",
        {"fastperiod": 12, "slowperiod": 26, "matype": 1},
        warm_up=384,
    ),
    "AROON": TalibFunction(
        "Aroon", "momentum", "high low", "0 to 100", {"timeperiod": 14}, outputs="aroondown aroonup"
    ),
    "AROONOSC": TalibFunction("Aroon Oscillator", "momentum", "high low", "-100 to 100", {"timeperiod": 14}),
    "BOP": TalibFunction("Balance Of Power", "momentum", "open high low close", "-1 to 1"),
    "CCI": TalibFunction("Commodity Channel Index", "momentum", "high low close", "number", {"timeperiod": 14}),
    "CMO": TalibFunction(
        "Chande Momentum Oscillator", "momentum", "close", "-100 to 100", {"timeperiod": 14}, warm_up=640
    ),
    "CMOU": TalibFunction(
        "Chande Momentum Oscillator (Unsmoothed)", "momentum", "close", "-100 to 100", {"timeperiod": 14}
    ),
    "COPPOCK": TalibFunction(
        "Coppock Curve", "momentum", "close", "percent", {"wmaperiod": 10, "roc1period": 11, "roc2period": 14}
    ),
    "DPO": TalibFunction("Detrended Price Oscillator", "momentum", "close", "price", {"timeperiod": 20}),
    "DX": TalibFunction(
        "Directional Movement Index", "momentum", "high low close", "0 to 100", {"timeperiod": 14}, warm_up=640
    ),
    "ER": TalibFunction("Kaufman Efficiency Ratio", "momentum", "close", "0 to 1", {"timeperiod": 10}),
    "ERI": TalibFunction(
        "Elder Ray Index (Bull Power / Bear Power)",
        "momentum",
        "high low close",
        "price",
        {"timeperiod": 13},
        outputs="bullpower bearpower",
        warm_up=256,
    ),
    "FOSC": TalibFunction("Forecast Oscillator", "momentum", "close", "percent", {"timeperiod": 5}),
    "FRACTAL": TalibFunction(
        "Williams Fractal",
        "momentum",
        "high low",
        "0 or 100",
        {"leftbars": 2, "rightbars": 2},
        outputs="swinghigh swinglow",
    ),
    "IMI": TalibFunction("Intraday Momentum Index", "momentum", "open close", "0 to 100", {"timeperiod": 14}),
    "KDJ": TalibFunction(
        "KDJ Stochastic",
        "momentum",
        "high low close",
        "0 to 100",
        {"fastk_period": 9, "slowk_period": 3, "slowk_matype": 13, "slowd_period": 3, "slowd_matype": 13},
        outputs="k d j",
        warm_up=128,
    ),
    "MACD": TalibFunction(
        "Moving Average Convergence/Divergence",
        "momentum",
        "close",
        "price",
        {"fastperiod": 12, "slowperiod": 26, "signalperiod": 9},
        outputs="macd macdsignal macdhist",
        warm_up=384,
    ),
    "MACDEXT": TalibFunction(
        "MACD with controllable MA type",
        "momentum",
        "close",
        "price",
        {"fastperiod": 12, "fastmatype": 0, "slowperiod": 26, "slowmatype": 0, "signalperiod": 9, "signalmatype": 0},
        outputs="macd macdsignal macdhist",
    ),
    "MACDFIX": TalibFunction(
        "Moving Average Convergence/Divergence Fix 12/26",
        "momentum",
        "close",
        "price",
        {"signalperiod": 9},
        outputs="macd macdsignal macdhist",
        warm_up=384,
    ),
    "MFI": TalibFunction("Money Flow Index", "momentum", "high low close volume", "0 to 100", {"timeperiod": 14}),
    "MINUS_DI": TalibFunction(
        "Minus Directional Indicator", "momentum", "high low close", "0 to 100", {"timeperiod": 14}, warm_up=640
    ),
    "MINUS_DM": TalibFunction(
        "Minus Directional Movement", "momentum", "high low", "price", {"timeperiod": 14}, warm_up=384
    ),
    "MOM": TalibFunction("Momentum", "momentum", "close", "price", {"timeperiod": 10}),
    "PLUS_DI": TalibFunction(
        "Plus Directional Indicator", "momentum", "high low close", "0 to 100", {"timeperiod": 14}, warm_up=640
    ),
    "PLUS_DM": TalibFunction(
        "Plus Directional Movement", "momentum", "high low", "price", {"timeperiod": 14}, warm_up=384
    ),
    "PPO": TalibFunction(
        "Percentage Price Oscillator",
        "momentum",
        "close",
        "percent",
        {"fastperiod": 12, "slowperiod": 26, "matype": 1},
        warm_up=384,
    ),
    "QSTICK": TalibFunction("Qstick", "momentum", "open close", "price", {"timeperiod": 10}),
    "ROC": TalibFunction(
        "Rate of change: (close / earlier close - 1) * 100", "momentum", "close", "percent", {"timeperiod": 10}
    ),
    "ROCP": TalibFunction(
        "Rate of change: (close - earlier close) / earlier close", "momentum", "close", "ratio", {"timeperiod": 10}
    ),
    "ROCR": TalibFunction("Rate of change: close / earlier close", "momentum", "close", "ratio", {"timeperiod": 10}),
    "ROCR100": TalibFunction(
        "Rate of change: close / earlier close * 100", "momentum", "close", "percent", {"timeperiod": 10}
    ),
    "RSI": TalibFunction("Relative Strength Index", "momentum", "close", "0 to 100", {"timeperiod": 14}, warm_up=640),
    "SMI": TalibFunction(
        "Stochastic Momentum Index",
        "momentum",
        "high low close",
        "-100 to 100",
        {"timeperiod": 13, "fastperiod": 2, "slowperiod": 25, "signalperiod": 9},
        outputs="smi smisignal",
        warm_up=640,
    ),
    "STOCH": TalibFunction(
        "Stochastic",
        "momentum",
        "high low close",
        "0 to 100",
        {"fastk_period": 5, "slowk_period": 3, "slowk_matype": 0, "slowd_period": 3, "slowd_matype": 0},
        outputs="slowk slowd",
    ),
    "STOCHF": TalibFunction(
        "Stochastic Fast",
        "momentum",
        "high low close",
        "0 to 100",
        {"fastk_period": 5, "fastd_period": 3, "fastd_matype": 0},
        outputs="fastk fastd",
    ),
    "STOCHRSI": TalibFunction(
        "Stochastic Relative Strength Index",
        "momentum",
        "close",
        "0 to 100",
        {"timeperiod": 14, "fastk_period": 5, "fastd_period": 3, "fastd_matype": 0},
        outputs="fastk fastd",
        warm_up=640,
    ),
    "TRIX": TalibFunction(
        "1-day Rate-Of-Change (ROC) of a Triple Smooth EMA",
        "momentum",
        "close",
        "percent",
        {"timeperiod": 30},
        warm_up=512,
    ),
    "TSI": TalibFunction(
        "True Strength Index", "momentum", "close", "-100 to 100", {"firstperiod": 25, "secondperiod": 13}, warm_up=640
    ),
    "ULTOSC": TalibFunction(
        "Ultimate Oscillator",
        "momentum",
        "high low close",
        "0 to 100",
        {"timeperiod1": 7, "timeperiod2": 14, "timeperiod3": 28},
    ),
    "VHF": TalibFunction("Vertical Horizontal Filter", "momentum", "close", "ratio", {"timeperiod": 28}),
    "VORTEX": TalibFunction(
        "Vortex Indicator", "momentum", "high low close", "ratio", {"timeperiod": 14}, outputs="plusvi minusvi"
    ),
    "WAD": TalibFunction("Williams' Accumulation/Distribution", "momentum", "high low close", "price"),
    "WILLR": TalibFunction("Williams' %R", "momentum", "high low close", "-100 to 0", {"timeperiod": 14}),
    "ACCBANDS": TalibFunction(
        "Acceleration Bands",
        "overlap",
        "high low close",
        "price",
        {"timeperiod": 20},
        outputs="upperband middleband lowerband",
    ),
    "BBANDS": TalibFunction(
        "Bollinger Bands",
        "overlap",
        "close",
        "price",
        {"timeperiod": 20, "nbdevup": 2.0, "nbdevdn": 2.0, "matype": 0},
        outputs="upperband middleband lowerband",
    ),
    "DEMA": TalibFunction(
        "Double Exponential Moving Average", "overlap", "close", "price", {"timeperiod": 30}, warm_up=384
    ),
    "DONCHIAN": TalibFunction(
        "Donchian Channels",
        "overlap",
        "high low",
        "price",
        {"timeperiod": 20},
        outputs="upperband middleband lowerband",
    ),
    "EMA": TalibFunction("Exponential Moving Average", "overlap", "close", "price", {"timeperiod": 30}, warm_up=384),
    "HMA": TalibFunction("Hull Moving Average", "overlap", "close", "price", {"timeperiod": 20}),
    "HT_TRENDLINE": TalibFunction(
        "Hilbert transform: Instantaneous Trendline", "overlap", "close", "price", warm_up=384
    ),
    "KAMA": TalibFunction(
        "Kaufman Adaptive Moving Average", "overlap", "close", "price", {"timeperiod": 30}, warm_up=768
    ),
    "KC": TalibFunction(
        "Keltner Channels",
        "overlap",
        "high low close",
        "price",
        {"timeperiod": 20, "atrperiod": 10, "nbdev": 2.0},
        outputs="upperband middleband lowerband",
        warm_up=256,
    ),
    "MA": TalibFunction(
        "Moving average of the kind that matype says (0: simple)",
        "overlap",
        "close",
        "price",
        {"timeperiod": 30, "matype": 0},
    ),
    "MAMA": TalibFunction(
        "MESA Adaptive Moving Average",
        "overlap",
        "close",
        "price",
        {"fastlimit": 0.5, "slowlimit": 0.05},
        outputs="mama fama",
        warm_up=384,
    ),
    "MAVP": TalibFunction(
        "Moving average over the dominant cycle's period (HT_DCPERIOD)",
        "overlap",
        "close periods",
        "price",
        {"minperiod": 2, "maxperiod": 30, "matype": 0},
    ),
    "MIDPOINT": TalibFunction("MidPoint over period", "overlap", "close", "price", {"timeperiod": 14}),
    "MIDPRICE": TalibFunction("Midpoint Price over period", "overlap", "high low", "price", {"timeperiod": 14}),
    "RMA": TalibFunction(
        "Wilder's Smoothed Moving Average", "overlap", "close", "price", {"timeperiod": 30}, warm_up=640
    ),
    "SAR": TalibFunction(
        "Parabolic SAR", "overlap", "high low", "price", {"acceleration": 0.02, "maximum": 0.2}, warm_up=384
    ),
    "SAREXT": TalibFunction(
        "Parabolic SAR - Extended",
        "overlap",
        "high low",
        "price",
        {
            "startvalue": 0.0,
            "offsetonreverse": 0.0,
            "accelerationinitlong": 0.02,
            "accelerationlong": 0.02,
            "accelerationmaxlong": 0.2,
            "accelerationinitshort": 0.02,
            "accelerationshort": 0.02,
            "accelerationmaxshort": 0.2,
        },
        warm_up=384,
    ),
    "SMA": TalibFunction("Simple Moving Average", "overlap", "close", "price", {"timeperiod": 30}),
    "SUPERTREND": TalibFunction(
        "SuperTrend",
        "overlap",
        "high low close",
        "price",
        {"timeperiod": 10, "multiplier": 3.0},
        outputs="supertrend trend",
        warm_up=384,
    ),
    "T3": TalibFunction(
        "Triple Exponential Moving Average (T3)",
        "overlap",
        "close",
        "price",
        {"timeperiod": 5, "vfactor": 0.7},
        warm_up=128,
    ),
    "TEMA": TalibFunction(
        "Triple Exponential Moving Average", "overlap", "close", "price", {"timeperiod": 30}, warm_up=512
    ),
    "TRIMA": TalibFunction("Triangular Moving Average", "overlap", "close", "price", {"timeperiod": 30}),
    "VWMA": TalibFunction("Volume Weighted Moving Average", "overlap", "close volume", "price", {"timeperiod": 30}),
    "WMA": TalibFunction("Weighted Moving Average", "overlap", "close", "price", {"timeperiod": 30}),
    "ZLEMA": TalibFunction(
        "Zero-Lag Exponential Moving Average", "overlap", "close", "price", {"timeperiod": 30}, warm_up=384
    ),
    "AVGDEV": TalibFunction("Average Deviation", "prices", "close", "price", {"timeperiod": 14}),
    "AVGPRICE": TalibFunction("Average Price", "prices", "open high low close", "price"),
    "HA": TalibFunction(
        "Heikin-Ashi Candles",
        "prices",
        "open high low close",
        "price",
        outputs="haopen hahigh halow haclose",
        warm_up=64,
    ),
    "MEDPRICE": TalibFunction("Median Price", "prices", "high low", "price"),
    "TYPPRICE": TalibFunction("Typical Price", "prices", "high low close", "price"),
    "WCLPRICE": TalibFunction("Weighted Close Price", "prices", "high low close", "price"),
    "BETA": TalibFunction("Beta", "statistics", "high low", "ratio", {"timeperiod": 5}),
    "CORREL": TalibFunction(
        "Pearson's Correlation Coefficient (r)", "statistics", "high low", "-1 to 1", {"timeperiod": 30}
    ),
    "LINEARREG": TalibFunction("Linear Regression", "statistics", "close", "price", {"timeperiod": 14}),
    "LINEARREG_ANGLE": TalibFunction("Linear Regression Angle", "statistics", "close", "degrees", {"timeperiod": 14}),
    "LINEARREG_INTERCEPT": TalibFunction(
        "Linear Regression Intercept", "statistics", "close", "price", {"timeperiod": 14}
    ),
    "LINEARREG_SLOPE": TalibFunction("Linear Regression Slope", "statistics", "close", "price", {"timeperiod": 14}),
    "PERCENTILE": TalibFunction(
        "Percentile (nearest rank)", "statistics", "close", "price", {"timeperiod": 30, "percentile": 50.0}
    ),
    "PERCENTRANK": TalibFunction("Percent Rank", "statistics", "close", "0 to 100", {"timeperiod": 100}),
    "STDDEV": TalibFunction("Standard Deviation", "statistics", "close", "price", {"timeperiod": 5, "nbdev": 1.0}),
    "TSF": TalibFunction("Time Series Forecast", "statistics", "close", "price", {"timeperiod": 14}),
    "VAR": TalibFunction("Variance", "statistics", "close", "price squared", {"timeperiod": 5, "nbdev": 1.0}),
    "ADR": TalibFunction("Average Day Range", "volatility", "high low", "price", {"timeperiod": 14}),
    "ATR": TalibFunction(
        "Average True Range", "volatility", "high low close", "price", {"timeperiod": 14}, warm_up=384
    ),
    "CVI": TalibFunction(
        "Chaikin's Volatility", "volatility", "high low", "percent", {"timeperiod": 10, "rocperiod": 10}, warm_up=512
    ),
    "MASSI": TalibFunction(
        "Mass Index", "volatility", "high low", "ratio", {"fastperiod": 9, "slowperiod": 25}, warm_up=384
    ),
    "NATR": TalibFunction(
        "Normalized Average True Range", "volatility", "high low close", "percent", {"timeperiod": 14}, warm_up=384
    ),
    "RVI": TalibFunction(
        "Relative Volatility Index",
        "volatility",
        "close",
        "0 to 100",
        {"timeperiod": 14, "stddevperiod": 10},
        warm_up=640,
    ),
    "TRANGE": TalibFunction("True Range", "volatility", "high low close", "price"),
    "AD": TalibFunction("Chaikin A/D Line", "volume", "high low close volume", "volume"),
    "ADOSC": TalibFunction(
        "Chaikin A/D Oscillator",
        "volume",
        "high low close volume",
        "volume",
        {"fastperiod": 3, "slowperiod": 10},
        warm_up=256,
    ),
    "CMF": TalibFunction("Chaikin Money Flow", "volume", "high low close volume", "-1 to 1", {"timeperiod": 20}),
    "EFI": TalibFunction(
        "Elder's Force Index", "volume", "close volume", "price times volume", {"timeperiod": 13}, warm_up=256
    ),
    "MARKETFI": TalibFunction("Market Facilitation Index", "volume", "high low volume", "price per volume"),
    "NVI": TalibFunction("Negative Volume Index", "volume", "close volume", "index, begins at 1000"),
    "OBV": TalibFunction("On Balance Volume", "volume", "close volume", "volume"),
    "PVI": TalibFunction("Positive Volume Index", "volume", "close volume", "index, begins at 1000"),
    "PVO": TalibFunction(
        "Percentage Volume Oscillator",
        "volume",
        "volume",
        "percent",
        {"fastperiod": 12, "slowperiod": 26, "matype": 1},
        warm_up=384,
    ),
    "PVT": TalibFunction("Price Volume Trend", "volume", "close volume", "volume"),
    "RVOL": TalibFunction("Relative Volume", "volume", "volume", "ratio", {"timeperiod": 20}),
    "VWAP": TalibFunction("Volume Weighted Average Price", "volume", "high low close volume", "price"),
}

# Candlestick patterns: all take open, high, low, close and give 100 or more, -100 or less, or 0 for none.
_PATTERNS = {
    "CDL2CROWS": "Two Crows",
    "CDL3BLACKCROWS": "Three Black Crows",
    "CDL3INSIDE": "Three Inside Up/Down",
    "CDL3LINESTRIKE": "Three-Line Strike",
    "CDL3OUTSIDE": "Three Outside Up/Down",
    "CDL3STARSINSOUTH": "Three Stars In The South",
    "CDL3WHITESOLDIERS": "Three Advancing White Soldiers",
    "CDLABANDONEDBABY": "Abandoned Baby",
    "CDLADVANCEBLOCK": "Advance Block",
    "CDLBELTHOLD": "Belt-hold",
    "CDLBREAKAWAY": "Breakaway",
    "CDLCLOSINGMARUBOZU": "Closing Marubozu",
    "CDLCONCEALBABYSWALL": "Concealing Baby Swallow",
    "CDLCOUNTERATTACK": "Counterattack",
    "CDLDARKCLOUDCOVER": "Dark Cloud Cover",
    "CDLDOJI": "Doji",
    "CDLDOJISTAR": "Doji Star",
    "CDLDRAGONFLYDOJI": "Dragonfly Doji",
    "CDLENGULFING": "Engulfing Pattern",
    "CDLEVENINGDOJISTAR": "Evening Doji Star",
    "CDLEVENINGSTAR": "Evening Star",
    "CDLGAPSIDESIDEWHITE": "Up/Down-gap side-by-side white lines",
    "CDLGRAVESTONEDOJI": "Gravestone Doji",
    "CDLHAMMER": "Hammer",
    "CDLHANGINGMAN": "Hanging Man",
    "CDLHARAMI": "Harami Pattern",
    "CDLHARAMICROSS": "Harami Cross Pattern",
    "CDLHIGHWAVE": "High-Wave Candle",
    "CDLHIKKAKE": "Hikkake Pattern",
    "CDLHIKKAKEMOD": "Modified Hikkake Pattern",
    "CDLHOMINGPIGEON": "Homing Pigeon",
    "CDLIDENTICAL3CROWS": "Identical Three Crows",
    "CDLINNECK": "In-Neck Pattern",
    "CDLINVERTEDHAMMER": "Inverted Hammer",
    "CDLKICKING": "Kicking",
    "CDLKICKINGBYLENGTH": "Kicking - bull/bear determined by the longer marubozu",
    "CDLLADDERBOTTOM": "Ladder Bottom",
    "CDLLONGLEGGEDDOJI": "Long Legged Doji",
    "CDLLONGLINE": "Long Line Candle",
    "CDLMARUBOZU": "Marubozu",
    "CDLMATCHINGLOW": "Matching Low",
    "CDLMATHOLD": "Mat Hold",
    "CDLMORNINGDOJISTAR": "Morning Doji Star",
    "CDLMORNINGSTAR": "Morning Star",
    "CDLONNECK": "On-Neck Pattern",
    "CDLPIERCING": "Piercing Pattern",
    "CDLRICKSHAWMAN": "Rickshaw Man",
    "CDLRISEFALL3METHODS": "Rising/Falling Three Methods",
    "CDLSEPARATINGLINES": "Separating Lines",
    "CDLSHOOTINGSTAR": "Shooting Star",
    "CDLSHORTLINE": "Short Line Candle",
    "CDLSPINNINGTOP": "Spinning Top",
    "CDLSTALLEDPATTERN": "Stalled Pattern",
    "CDLSTICKSANDWICH": "Stick Sandwich",
    "CDLTAKURI": "Takuri (Dragonfly Doji with very long lower shadow)",
    "CDLTASUKIGAP": "Tasuki Gap",
    "CDLTHRUSTING": "Thrusting Pattern",
    "CDLTRISTAR": "Tristar Pattern",
    "CDLUNIQUE3RIVER": "Unique 3 River",
    "CDLUPSIDEGAP2CROWS": "Upside Gap Two Crows",
    "CDLXSIDEGAP3METHODS": "Upside/Downside Gap Three Methods",
}
_PENETRATION = {
    "CDLABANDONEDBABY": 0.3,
    "CDLDARKCLOUDCOVER": 0.5,
    "CDLEVENINGDOJISTAR": 0.3,
    "CDLEVENINGSTAR": 0.3,
    "CDLMATHOLD": 0.5,
    "CDLMORNINGDOJISTAR": 0.3,
    "CDLMORNINGSTAR": 0.3,
}
FUNCTIONS |= {
    name: TalibFunction(
        f"Candlestick pattern: {title}",
        "patterns",
        "open high low close",
        "-200 to 200",
        {"penetration": _PENETRATION[name]} if name in _PENETRATION else {},
    )
    for name, title in _PATTERNS.items()
}
