"""The registry's entries for charting.py: what charting programs have and TA-Lib lacks, each with parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from refresh_pipeline.analytics import charting, side_by_side
from refresh_pipeline.analytics.bars import Column
from refresh_pipeline.analytics.evaluation import BlockFormula, Part
from refresh_pipeline.analytics.talib_functions import SURPLUS, Number
from refresh_pipeline.market.candles import Floats

# A recursion of n bars is followed for so many times n before a block.
MEMORY = 12


@dataclass(frozen=True, slots=True)
class ChartingFunction:
    """A function of charting.py as the registry needs it.

    Attributes:
        function: takes the columns of `takes`, then the parameters.
        group: of the registry.
        source: whose formula it is.
        takes: candle columns.
        parameters: with their defaults.
        columns: name, unit and meaning of each output.
        reach: bars that a value looks back, from the parameters.
        memory: bars that a recursion remembers, likewise; 0 without one.
        types: of columns other than double.
        accepts: whether a set of parameters makes sense together.
        of_a_window: whether a value has the same bits wherever its arrays begin, if they hold its window.
        side_by_side: the same function of many stretches at once, of side_by_side.py; None where it has no loop.
    """

    function: Callable[..., Floats | tuple[Floats, ...]]
    group: str
    source: str
    takes: str
    parameters: Mapping[str, Number]
    columns: Sequence[tuple[str, str, str]]
    reach: Callable[[Mapping[str, Number]], float]
    memory: Callable[[Mapping[str, Number]], float] = field(default=lambda _: 0)
    types: Mapping[str, str] = field(default_factory=dict)
    accepts: Callable[[Mapping[str, Number]], bool] = field(default=lambda _: True)
    of_a_window: bool = False
    side_by_side: Callable[..., tuple[Floats, ...]] | None = None

    def part(self, parameters: Mapping[str, Number], names: Sequence[str]) -> Part:
        """The columns under these names, and how they are computed."""
        memory = self.memory(parameters)
        formula = BlockFormula(
            self.function,
            ["volume_or_0" if name == "volume" else name for name in self.takes.split()],
            list(parameters.values()),
            round(self.reach(parameters) + MEMORY * memory) + SURPLUS,
            needs_volume_of=(1 if memory else round(self.reach(parameters))) if "volume" in self.takes else 0,
            of_a_window=self.of_a_window,
            side_by_side=self.side_by_side,
        )
        settings = ", ".join(f"{key} {value:g}" for key, value in parameters.items())
        return Part(
            [
                Column(
                    name,
                    f"{meaning}{f' ({settings})' if settings else ''}.",
                    unit,
                    warm_up=formula.begins_before,
                    sql_type=self.types.get(output, "double"),
                )
                for name, (output, unit, meaning) in zip(names, self.columns, strict=True)
            ],
            formula,
        )


CHARTING: Mapping[str, ChartingFunction] = {
    "ichimoku": ChartingFunction(
        charting.ichimoku, "overlap", "Hosoda; the lagging line is the close drawn 26 bars back.", "high low",
        {"conversion": 9, "base": 26, "span": 52},
        [
            ("conversion", "price", "Conversion line (tenkan): middle of the range"),
            ("base", "price", "Base line (kijun): middle of the range"),
            ("span_a", "price", "Leading span A at this bar: mean of both lines, base bars ago"),
            ("span_b", "price", "Leading span B at this bar: middle of the longest range, base bars ago"),
        ],
        lambda p: p["span"] + p["base"] + p["conversion"],
        of_a_window=True,
    ),
    "alma": ChartingFunction(
        charting.alma, "overlap", "Legoux and Kouzis-Loukas, 2009.", "close",
        {"timeperiod": 9, "offset": 0.85, "sigma": 6.0},
        [("", "price", "Arnaud Legoux's moving average")], lambda p: p["timeperiod"],
    ),
    "vidya": ChartingFunction(
        charting.vidya, "overlap", "Chande, 1994: weighted by his momentum.", "close", {"timeperiod": 14},
        [("", "price", "Variable index dynamic average")], lambda p: p["timeperiod"], lambda p: 4 * p["timeperiod"],
        side_by_side=side_by_side.vidya,
    ),
    "mcginley": ChartingFunction(
        charting.mcginley, "overlap", "McGinley, 1990, without his factor 0.6, as TradingView has it.", "close",
        {"timeperiod": 14}, [("", "price", "McGinley's dynamic line")], lambda p: p["timeperiod"],
        lambda p: 3 * p["timeperiod"],
        side_by_side=side_by_side.mcginley,
    ),
    "frama": ChartingFunction(
        charting.frama, "overlap", "Ehlers, 2005.", "high low close", {"timeperiod": 16},
        [("", "price", "Fractal adaptive moving average")],
        lambda p: 2 * p["timeperiod"], lambda p: 4 * p["timeperiod"],
        side_by_side=side_by_side.frama,
    ),
    "envelope": ChartingFunction(
        charting.envelope, "overlap", "Mean and percent.", "close", {"timeperiod": 20, "percent": 2.5},
        [("upper", "price", "Mean plus the percentage"), ("lower", "price", "Mean less the percentage")],
        lambda p: p["timeperiod"],
    ),
    "regression_channel": ChartingFunction(
        charting.regression_channel, "overlap", "Least squares; deviations of the closes from the line.", "close",
        {"timeperiod": 100, "deviations": 2.0},
        [
            ("middle", "price", "End of the regression line"),
            ("upper", "price", "The line plus the deviations"),
            ("lower", "price", "The line less the deviations"),
        ],
        lambda p: p["timeperiod"],
    ),
    "chandelier_exit": ChartingFunction(
        charting.chandelier_exit, "overlap", "Le Beau.", "high low close", {"timeperiod": 22, "multiplier": 3.0},
        [
            ("long", "price", "Highest high less the multiple of the ATR"),
            ("short", "price", "Lowest low plus the multiple of the ATR"),
        ],
        lambda p: p["timeperiod"], lambda p: 2 * p["timeperiod"],
    ),
    "chande_kroll_stop": ChartingFunction(
        charting.chande_kroll_stop, "overlap", "Chande and Kroll, 1994.", "high low close",
        {"timeperiod": 10, "multiplier": 1.0, "smoothing": 9},
        [("long", "price", "Stop of long positions"), ("short", "price", "Stop of short positions")],
        lambda p: p["timeperiod"] + p["smoothing"], lambda p: 2 * p["timeperiod"],
    ),
    "atr_stop": ChartingFunction(
        charting.atr_stop, "overlap", "Wilder's volatility stop, from the close.", "high low close",
        {"timeperiod": 21, "multiplier": 3.0},
        [("", "price", "Trailing stop"), ("side", "1 or -1", "1 while the stop lies below the close, -1 above")],
        lambda p: p["timeperiod"], lambda p: 2 * p["timeperiod"],
        side_by_side=side_by_side.atr_stop,
    ),
    "fisher": ChartingFunction(
        charting.fisher, "momentum", "Ehlers, 2002.", "high low", {"timeperiod": 10},
        [("", "number", "Fisher transform of the median price"), ("trigger", "number", "Its value a bar ago")],
        lambda p: p["timeperiod"], lambda _: 12,
        side_by_side=side_by_side.fisher,
    ),
    "stc": ChartingFunction(
        charting.schaff_trend_cycle, "momentum", "Schaff, in the form of one stochastic of MACD.", "close",
        {"cycle": 10, "fastperiod": 23, "slowperiod": 50}, [("", "0 to 100", "Schaff's trend cycle")],
        lambda p: p["slowperiod"] + p["cycle"], lambda p: p["slowperiod"],
    ),
    "kst": ChartingFunction(
        charting.kst, "momentum", "Pring, 1992.", "close", {"signalperiod": 9},
        [("", "percent", "Know Sure Thing"), ("signal", "percent", "Mean of the line")],
        lambda p: 45 + p["signalperiod"],
    ),
    "pmo": ChartingFunction(
        charting.price_momentum, "momentum", "Swenlin, DecisionPoint.", "close",
        {"firstperiod": 35, "secondperiod": 20, "signalperiod": 10},
        [("", "percent", "Price momentum oscillator"), ("signal", "percent", "Average of the line")],
        lambda p: p["firstperiod"] + p["secondperiod"] + p["signalperiod"], lambda p: 1.5 * p["firstperiod"],
        side_by_side=side_by_side.price_momentum,
    ),
    "squeeze": ChartingFunction(
        charting.squeeze, "momentum", "Carter's TTM squeeze, with LazyBear's momentum.", "high low close",
        {"timeperiod": 20, "deviations": 2.0, "reach": 1.5},
        [
            ("on", "0 or 1", "1 while Bollinger's bands lie inside Keltner's channel"),
            ("momentum", "price", "Regression of the close against its middle"),
        ],
        lambda p: 2 * p["timeperiod"] + 1, types={"on": "smallint"},
    ),
    "td_sequential": ChartingFunction(
        charting.sequential, "momentum", "DeMark's setups; counts begin anew after 9.", "close", {},
        [
            ("buy", "bars", "Closes in a row below the close 4 bars before"),
            ("sell", "bars", "Closes in a row above the close 4 bars before"),
        ],
        lambda _: 40, lambda _: 30, types={"buy": "smallint", "sell": "smallint"},
    ),
    "connors_rsi": ChartingFunction(
        charting.connors_rsi, "momentum", "Connors, 2012.", "close", {"timeperiod": 3, "streak": 2, "rank": 100},
        [("", "0 to 100", "Mean of RSI, RSI of the streak, and rank of the change")],
        lambda p: p["rank"] + 1, lambda p: 2 * p["timeperiod"] + 2 * p["streak"],
    ),
    "rvgi": ChartingFunction(
        charting.relative_vigor, "momentum", "Ehlers, 2002.", "open high low close", {"timeperiod": 10},
        [("", "ratio", "Relative vigor index"), ("signal", "ratio", "Weighted mean of the line")],
        lambda p: p["timeperiod"] + 6,
    ),
    "wavetrend": ChartingFunction(
        charting.wave_trend, "momentum", "LazyBear, TradingView.", "high low close", {"channel": 10, "average": 21},
        [("", "number", "WaveTrend"), ("signal", "number", "Mean of 4 bars of the line")],
        lambda p: 2 * p["channel"] + p["average"] + 4, lambda p: p["average"] + p["channel"],
    ),
    "qqe": ChartingFunction(
        charting.qqe, "momentum", "Livshin; TradingView.", "close",
        {"timeperiod": 14, "smoothing": 5, "factor": 4.236},
        [("", "0 to 100", "Smoothed RSI"), ("trailing", "0 to 100", "Its trailing line")],
        lambda p: 5 * p["timeperiod"] + p["smoothing"], lambda p: 3 * p["timeperiod"],
        side_by_side=side_by_side.qqe,
    ),
    "choppiness": ChartingFunction(
        charting.choppiness, "volatility", "Dreiss.", "high low close", {"timeperiod": 14},
        [("", "0 to 100", "Choppiness: 100 goes nowhere")], lambda p: p["timeperiod"] + 1,
    ),
    "ulcer": ChartingFunction(
        charting.ulcer, "volatility", "Martin, 1987.", "close", {"timeperiod": 14},
        [("", "percent", "Ulcer index: root mean square of drawdowns")], lambda p: p["timeperiod"],
    ),
    "historical_volatility": ChartingFunction(
        charting.historical_volatility, "volatility", "Sample deviation of log returns, not annualized.", "close",
        {"timeperiod": 20}, [("", "percent", "Standard deviation of log returns a bar")], lambda p: p["timeperiod"] + 1,
    ),
    "log_return": ChartingFunction(
        charting.log_return, "volatility", "ln(close / close before).", "close", {},
        [("", "number", "Logarithm of the close against the close before")], lambda _: 1,
        of_a_window=True,
    ),
    "z_score": ChartingFunction(
        charting.z_score, "volatility", "Mean and population deviation.", "close", {"timeperiod": 20},
        [("", "deviations", "Distance of the close from its mean in standard deviations")], lambda p: p["timeperiod"],
    ),
    "hurst": ChartingFunction(
        charting.hurst, "volatility", "Deviations of changes over 2 to maxlag bars, as QuantConnect Lean's.", "close",
        {"timeperiod": 252, "maxlag": 20},
        [("", "number", "Hurst exponent: 0.5 of a random walk, above of a trend, below of a return to the mean")],
        lambda p: p["timeperiod"], accepts=lambda p: 3 <= p["maxlag"] < p["timeperiod"],
        of_a_window=True,
    ),
    "drawdown": ChartingFunction(
        charting.drawdown, "volatility", "Against the highest close of a window.", "close", {"timeperiod": 252},
        [("", "percent", "Distance of the close below its highest one; 0 at a high")], lambda p: p["timeperiod"],
        of_a_window=True,
    ),
    "klinger": ChartingFunction(
        charting.klinger, "volume", "Klinger, in TradingView's form.", "high low close volume",
        {"fastperiod": 34, "slowperiod": 55, "signalperiod": 13},
        [("", "volume", "Klinger's volume oscillator"), ("signal", "volume", "Average of the line")],
        lambda p: p["slowperiod"] + p["signalperiod"], lambda p: p["slowperiod"],
    ),
    "ease_of_movement": ChartingFunction(
        charting.ease_of_movement, "volume", "Arms; by 10,000 units of volume.", "high low volume", {"timeperiod": 14},
        [("", "number", "Ease of movement; null over bars without volume")], lambda p: p["timeperiod"] + 1,
    ),
}  # fmt: skip
