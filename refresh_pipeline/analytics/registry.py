"""The registry of indicators, one entry each: columns with meanings and units, parameters, how they are computed.

From an entry come the table's columns with their types, units, descriptions and warm-ups, the documentation and the
tests. Adding an indicator is adding an entry here; a function of TA-Lib is a row in talib_functions.py. What a market
chooses of them, and computing, live elsewhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product

from refresh_pipeline.analytics import (
    anchored,
    cumulative,
    denominators,
    derived,
    hilbert,
    levels,
    sessions,
    volume_profile,
    zigzag,
)
from refresh_pipeline.analytics.bars import Bars, Column, Values, flag_column, number_column, price_column, text_column
from refresh_pipeline.analytics.charting_registry import CHARTING, ChartingFunction
from refresh_pipeline.analytics.evaluation import BlockFormula, Part, RecursiveFormula, RowFormula
from refresh_pipeline.analytics.recursive import Average
from refresh_pipeline.analytics.talib_functions import (
    FUNCTIONS,
    OF_A_WINDOW,
    SURPLUS,
    Number,
    TalibFunction,
    bare,
    lookback,
    whole_outputs,
)
from refresh_pipeline.analytics.tradingview import VARIANTS
from refresh_pipeline.market.calendars.base import Calendar

Parameters = Mapping[str, Number]
# The sets: the NSE predecessor's columns, every function of TA-Lib, what charting programs have besides, and all.
CLASSIC, TALIB, TRADINGVIEW, ALL = "classic", "talib", "tradingview", "all"
# What is computed where a market chooses nothing: no transforms of single prices, cycles and patterns of TA-Lib, no
# columns that are another one's double, but Ichimoku.
STANDARD = "standard"
# Computed only where a market names it: it reads two whole sessions at each refresh, 2,880 bars of any timeframe.
PROFILE = "profile"
_NOT_STANDARD = {"math", "prices", "cycles", "patterns"}
_STANDARD_ALSO = {"ichimoku"}
# Periods of own parameters: one bar is no window, and longer ones than this have no end.
SHORTEST, LONGEST = 2, 10_000


@dataclass(frozen=True, slots=True)
class DefaultColumns:
    """One set of parameters that is computed unless a market chooses otherwise, and what its columns are called."""

    of: str
    parameters: Parameters
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator: everything that the table, the documentation and the tests know of it."""

    name: str
    group: str
    # Whose formula it is, and which of its variants.
    source: str
    # With their defaults; none where the formula has no choice.
    parameters: Parameters
    # What follows the indicator's name in the columns of parameters of a market's own; "" for nothing.
    outputs: Sequence[str]
    shipped: Sequence[DefaultColumns]
    # Whether a value depends on all bars before it.
    cumulative: bool
    # The columns for one set of parameters under these names, and how they are computed.
    part: Callable[[Parameters, Sequence[str]], Part]
    # Whether it can be computed with a set of parameters.
    accepts: Callable[[Parameters], bool] = lambda _: True

    def names_for(self, parameters: Parameters) -> list[str]:
        """The columns of a market's own parameters: the indicator, its output, and the parameters that were given.

        Numbers alone are those of the first parameters, in order; otherwise each has its parameter's name before it.

        >>> from refresh_pipeline.market.calendars.crypto import CryptoCalendar
        >>> entry = registry(CryptoCalendar())["stoch"]
        >>> entry.names_for({"fastk_period": 14}), entry.names_for({"slowk_period": 14})
        (['stoch_slowk_14', 'stoch_slowd_14'], ['stoch_slowk_slowk_period_14', 'stoch_slowd_slowk_period_14'])
        """
        are_first = list(parameters) == list(self.parameters)[: len(parameters)]
        shown = [_shown(value) if are_first else f"{key}_{_shown(value)}" for key, value in parameters.items()]
        suffix = "_".join(shown)
        return [f"{self.name}{f'_{output}' if output else ''}_{suffix}" for output in self.outputs]


def _shown(value: Number) -> str:
    return repr(value).removesuffix(".0").replace(".", "_").replace("-", "minus_")


# ---- functions of TA-Lib

# Columns of the predecessor's set that are a function of TA-Lib: the function, its parameters, the columns.
_CLASSIC_FUNCTIONS: Sequence[tuple[str, Parameters, Sequence[str]]] = (
    *(("SMA", {"timeperiod": n}, [f"sma_{n}"]) for n in (10, 20, 50, 100, 200)),
    *(("EMA", {"timeperiod": n}, [f"ema_{n}"]) for n in (10, 20, 50, 100, 200)),
    *(("RSI", {"timeperiod": n}, [f"rsi_{n}"]) for n in (14, 21)),
    *(("ADX", {"timeperiod": n}, [f"adx_{n}"]) for n in (14, 21)),
    *(("ATR", {"timeperiod": n}, [f"atr_{n}"]) for n in (14, 21)),
    (
        "STOCH",
        {"fastk_period": 14, "slowk_period": 3, "slowk_matype": 0, "slowd_period": 3, "slowd_matype": 0},
        ["stoch_k", "stoch_d"],
    ),
    ("WILLR", {"timeperiod": 14}, ["williams_r"]),
    ("PLUS_DI", {"timeperiod": 14}, ["di_plus"]),
    ("MINUS_DI", {"timeperiod": 14}, ["di_minus"]),
    ("AROON", {"timeperiod": 14}, ["aroon_down", "aroon_up"]),
    ("AROONOSC", {"timeperiod": 14}, ["aroon_oscillator"]),
    (
        "BBANDS",
        {"timeperiod": 20, "nbdevup": 2.0, "nbdevdn": 2.0, "matype": 0},
        ["bb_upper", "bb_middle", "bb_lower"],
    ),
    (
        "MACD",
        {"fastperiod": 12, "slowperiod": 26, "signalperiod": 9},
        ["macd_line", "macd_signal", "macd_histogram"],
    ),
    ("MFI", {"timeperiod": 14}, ["mfi_14"]),
    ("CMF", {"timeperiod": 20}, ["cmf_20"]),
    ("OBV", {}, ["obv"]),
    ("AD", {}, ["ad_line"]),
)
# Sums without an end, in TA-Lib's words; how they go on is in cumulative.py.
_ENDLESS: Mapping[str, tuple[Callable[[Bars], Sequence[Values]], Sequence[str]]] = {
    "OBV": (cumulative.on_balance_volume, ["obv_so_far"]),
    "AD": (cumulative.accumulation, ["ad_so_far"]),
    "PVT": (cumulative.price_volume_trend, ["pvt_so_far"]),
    "WAD": (cumulative.williams_accumulation, ["wad_so_far"]),
    "CUMSUM": (cumulative.sum_of_closes, ["cumsum_so_far"]),
    "NVI": (cumulative.negative_volume_index, ["nvi_so_far"]),
    "PVI": (cumulative.positive_volume_index, ["pvi_so_far"]),
    "VWAP": (cumulative.endless_vwap, ["vwap_value", "vwap_volume"]),
}
# `vwap` is the predecessor's, per session; TA-Lib's never begins anew.
# Sums that go by the way of the close: since version 2 closes within 1e-9 of the price are equal.
_WITH_TIES = ("OBV", "WAD")
_RENAMED = {"VWAP": ["vwap_endless"]}
_CYCLE = ("HT_DCPHASE", "HT_SINE", "HT_TRENDMODE")
# Outputs in another unit than the function's others.
_UNITS = {("SUPERTREND", "trend"): "1 or -1"}
_COUNTS_ROWS = {"MAXINDEX", "MININDEX", "MINMAXINDEX"}
# Parameters that stretch an indicator's memory as they grow.
_PERIODS = ("period", "periods")


def _names(name: str) -> list[str]:
    """The columns of a function at its default parameters."""
    outputs = FUNCTIONS[name].outputs.split() or [""]
    return _RENAMED.get(name) or [f"{name.lower()}_{output}" if output else name.lower() for output in outputs]


def _talib_indicators() -> Iterator[Indicator]:
    for name, function in FUNCTIONS.items():
        outputs = function.outputs.split() or [""]
        base, names = name.lower(), _names(name)
        classic = [
            DefaultColumns(CLASSIC, parameters, own) for one, parameters, own in _CLASSIC_FUNCTIONS if one == name
        ]
        # obv is the same column in both sets.
        shipped = [each for each in classic if list(each.names) != names] + [
            DefaultColumns(TALIB, function.parameters, names)
        ]
        yield Indicator(
            name=base,
            group=function.group,
            source=f"{function.title}; TA-Lib {name}.",
            parameters=function.parameters,
            outputs=outputs,
            shipped=shipped,
            cumulative=name in _ENDLESS or name == "ADOSC",
            part=partial(_talib_part, name, function),
            accepts=partial(_talib_accepts, name),
        )


def _talib_accepts(name: str, parameters: Parameters) -> bool:
    return lookback(name, parameters) >= 0


def _talib_part(name: str, function: TalibFunction, parameters: Parameters, names: Sequence[str]) -> Part:
    if name in _CYCLE:
        return _cycle_part()
    formula = _recursive_formula(name, parameters) or _block_formula(name, function, parameters)
    warm_up = formula.begins_before if isinstance(formula, BlockFormula) else 0
    return Part(_columns(name, function, parameters, names, warm_up), formula)


@lru_cache(maxsize=1)
def _cycle_part() -> Part:
    """The three functions of the dominant cycle's phase, computed together."""
    columns = [
        column
        for name in _CYCLE
        for column in _columns(name, FUNCTIONS[name], {}, _names(name), FUNCTIONS[name].warm_up)
    ]
    return Part(columns, BlockFormula(hilbert.cycle, ["close"], [], FUNCTIONS["HT_DCPHASE"].warm_up, leaves_out=True))


def _recursive_formula(name: str, parameters: Parameters) -> RecursiveFormula | None:
    """How a function goes on from a state, if it does."""
    if name in _ENDLESS:
        return RecursiveFormula(*_ENDLESS[name], version=2 if name in _WITH_TIES else 1)
    if name == "EMA":
        periods = int(parameters["timeperiod"])
        average = Average(f"ema_{periods}_so_far", periods, 2 / (periods + 1), begins=periods - 1)
        return RecursiveFormula(
            partial(cumulative.exponential_average, average=average), [average.state], required_states=True
        )
    if name == "ADOSC":
        fast, slow = int(parameters["fastperiod"]), int(parameters["slowperiod"])
        compute = partial(cumulative.accumulation_oscillator, fast=fast, slow=slow)
        return RecursiveFormula(compute, cumulative.oscillator_states(fast, slow))
    return None


def _block_formula(name: str, function: TalibFunction, parameters: Parameters) -> BlockFormula:
    first = lookback(name, parameters)
    stretched = max(
        [
            1.0,
            *(
                parameters[each] / of
                for each, of in function.parameters.items()
                if each.rstrip("123").endswith(_PERIODS)
            ),
        ]
    )
    warm_up = max(round(function.warm_up * stretched), first + SURPLUS)
    takes = ["volume_or_0" if each == "volume" else each for each in function.takes]
    if name == "MAVP":
        takes, warm_up = ["close"], warm_up + FUNCTIONS["HT_DCPERIOD"].warm_up
    return BlockFormula(
        derived.cycle_average if name == "MAVP" else denominators.defined(name),
        takes,
        list(parameters.values()),
        warm_up,
        undefined=first if any(whole_outputs(name)) else 0,
        # Without a memory a window is what counts; with one, the bar's own volume.
        needs_volume_of=(1 if function.warm_up else first + 1) if "volume" in function.takes else 0,
        counts_rows=name in _COUNTS_ROWS,
        of_a_window=name in OF_A_WINDOW,
        # Since version 2, 0/0 is null.
        version=2 if name in denominators.UNDEFINED else 1,
    )


def _columns(
    name: str, function: TalibFunction, parameters: Parameters, names: Sequence[str], warm_up: int
) -> list[Column]:
    settings = ", ".join(f"{key} {value:g}" for key, value in parameters.items())
    which = function.outputs.split() or [""]
    kinds = ["integer" if name in _COUNTS_ROWS else "smallint" if whole else "double" for whole in whole_outputs(name)]
    return [
        Column(
            column,
            f"{function.title}{f': {output}' if output else ''}{f' ({settings})' if settings else ''}."
            f"{denominators.note(name)}",
            _UNITS.get((name, output), function.unit),
            warm_up=warm_up,
            sql_type=kind,
        )
        for column, output, kind in zip(names, which, kinds, strict=True)
    ]


# ---- what TA-Lib does not have


def _own(
    name: str,
    group: str,
    source: str,
    formula: RecursiveFormula | BlockFormula | RowFormula,
    columns: Sequence[Column],
    *,
    of: str = CLASSIC,
) -> Indicator:
    """An indicator without a choice of parameters."""
    names = [column.name for column in columns]
    if isinstance(formula, BlockFormula):
        columns = [replace(column, warm_up=formula.begins_before) for column in columns]
    return Indicator(
        name=name,
        group=group,
        source=source,
        parameters={},
        outputs=names,
        shipped=[DefaultColumns(of, {}, names)],
        cumulative=isinstance(formula, RecursiveFormula),
        part=lambda _, __: Part(columns, formula),
    )


def _bands() -> Iterator[Indicator]:
    yield _own(
        "band_width",
        "volatility",
        "Bollinger.",
        RowFormula(derived.band_width_and_place, ["bb_upper", "bb_middle", "bb_lower"], version=2),
        [
            price_column("bb_width", "bb_upper - bb_lower."),
            number_column(
                "bb_percent",
                "(close - bb_lower) / bb_width; null where the bands have no width (4e-7 of the price).",
                "ratio",
            ),
        ],
    )
    yield _own(
        "keltner",
        "volatility",
        "Keltner's channel in Raschke's form: EMA 20 and 2 ATR 20 on both sides.",
        RowFormula(derived.keltner_channel, ["ema_20", "atr_20"]),
        [
            price_column("keltner_middle", "ema_20."),
            price_column("keltner_upper", "ema_20 + 2 ATR 20."),
            price_column("keltner_lower", "ema_20 - 2 ATR 20."),
        ],
    )


def _volumes() -> Iterator[Indicator]:
    formula = BlockFormula(bare("SMA"), ["volume_or_0"], [20], 20 + SURPLUS, needs_volume_of=20)
    yield _own(
        "volume_sma",
        "volume",
        "Arithmetic mean; TA-Lib SMA.",
        formula,
        [number_column("volume_sma_20", "Mean volume of the last 20 bars.", "volume")],
    )
    yield _own(
        "volume_ratio",
        "volume",
        "The NSE predecessor's.",
        RowFormula(derived.volume_against_average, ["volume_sma_20"]),
        [number_column("volume_ratio", "volume / volume_sma_20.", "ratio")],
    )


def _fibonacci() -> Iterator[Indicator]:
    percents = ("23_6", "38_2", "50_0", "61_8", "78_6")
    yield _own(
        "fibonacci",
        "levels",
        "Retracements of the highest high and lowest low of the last 50 bars.",
        BlockFormula(
            derived.fibonacci, ["high", "low"], [], derived.WINDOW + SURPLUS, leaves_out=True, of_a_window=True
        ),
        [
            price_column(
                f"fib_{percent}", f"hi - (hi - lo) * {percent.replace('_', '.')} % of the last 50 bars' range."
            )
            for percent in percents
        ],
    )


def _levels() -> Iterator[Indicator]:
    reach = levels.LEVEL_BARS + levels.SWING
    columns = [
        column
        for side, which in (("support", "lows"), ("resistance", "highs"))
        for n in range(1, levels.LEVELS + 1)
        for column in (
            price_column(
                f"{side}_level_{n}",
                f"Price at which {which} turned, strongest number {n}: swings of the last {levels.LEVEL_BARS} bars "
                "within 1 %, as far as they were confirmed by then.",
            ),
            Column(
                f"{side}_strength_{n}", f"How often {which} turned at {side}_level_{n}.", "touches", sql_type="smallint"
            ),
        )
    ]
    yield _own(
        "support_resistance",
        "levels",
        "The NSE predecessor's, without its look ahead.",
        RowFormula(derived.support_and_resistance, reach=reach, version=2),
        columns,
    )
    yield _own(
        "zones",
        "levels",
        "The NSE predecessor's, with a rolling quantile.",
        RecursiveFormula(levels.zones, levels.ZONE_STATES, lookback=levels.ZONE_BARS - 1, version=3),
        _zone_columns(),
    )


def _zone_columns() -> list[Column]:
    meanings = {
        "high": ("High of", "price"),
        "low": ("Low of", "price"),
        "volume": ("Volume of", "volume"),
        "strength": ("Change of the close, in percent, of", "percent"),
    }
    return [
        number_column(
            f"{side}_zone_{value}",
            f"{said} the latest bar that {moved} by more than 2 % on a volume above the 80th percentile of 50 bars.",
            unit,
        )
        for side, moved in (("supply", "fell"), ("demand", "rose"))
        for value, (said, unit) in meanings.items()
    ]


def _sessions(calendar: Calendar) -> Iterator[Indicator]:
    points = [price_column("pivot_point", "(H + L + C) / 3 of the trading session before.")]
    points += [
        price_column(f"pivot_{each}", f"{each.upper()} of the trading session before.")
        for each in ("r1", "r2", "r3", "s1", "s2", "s3")
    ]
    yield _own(
        "sessions",
        "sessions",
        "VWAP, opening range and floor traders' pivots of the market's trading sessions.",
        # Since version 2 the opening range follows the sessions of an instrument's class.
        RecursiveFormula(
            partial(sessions.session_columns, calendar=calendar), sessions.STATES, version=2 if calendar.classes else 1
        ),
        [
            price_column("vwap", "Volume weighted mean of typical prices since the session began."),
            price_column("opening_range_high", "High of the session's first 30 minutes; so far, while they last."),
            price_column("opening_range_low", "Low of the session's first 30 minutes; so far, while they last."),
            *points,
        ],
    )


def _structure() -> Iterator[Indicator]:
    yield _own(
        "price_steps",
        "structure",
        "Against the bar before.",
        RowFormula(derived.steps_of_price, version=2),
        [
            flag_column("higher_high", "High above the one before."),
            flag_column("higher_low", "Low above the one before."),
            flag_column("lower_high", "High below the one before."),
            flag_column("lower_low", "Low below the one before."),
        ],
    )
    yield _own(
        "candle_shapes",
        "structure",
        "Nison, Japanese Candlestick Charting Techniques, 1991.",
        RowFormula(derived.candle_shapes, version=2),
        [
            flag_column("doji", "Body at most a tenth of the range."),
            flag_column("hammer", "Lower shadow at least twice the body, upper at most the body."),
            flag_column("shooting_star", "Upper shadow at least twice the body, lower at most the body."),
            flag_column("engulfing_bullish", "A rising body beyond both ends of the falling one before."),
            flag_column("engulfing_bearish", "A falling body beyond both ends of the rising one before."),
        ],
    )


def _regimes() -> Iterator[Indicator]:
    yield _own(
        "trend_strength",
        "regimes",
        "TA-Lib ADX.",
        RowFormula(partial(derived.same_as, "adx_14"), ["adx_14"]),
        [number_column("trend_strength", "adx_14.", "0 to 100")],
    )
    yield _own(
        "trend_direction",
        "regimes",
        "The NSE predecessor's.",
        RowFormula(derived.trend, ["ema_20", "ema_50"], version=2),
        [text_column("trend_direction", "bullish where ema_20 is above ema_50, bearish below, sideways where equal.")],
    )
    yield _own(
        "volatility_regime",
        "regimes",
        "The NSE predecessor's.",
        RowFormula(derived.volatility_regime, ["volatility_rank"], version=2),
        [
            text_column(
                "volatility_regime",
                "high, medium or low: whether atr_14 ranks above 0.7 or below 0.3 among the last 50 bars'.",
            )
        ],
    )
    yield _own(
        "volume_regime",
        "regimes",
        "The NSE predecessor's.",
        RowFormula(derived.volume_regime, ["volume_ratio"], version=2),
        [text_column("volume_regime", "high, medium or low: volume_ratio above 1.5 or below 0.7.")],
    )


def _quality() -> Iterator[Indicator]:
    yield _own(
        "data_quality_score",
        "regimes",
        "How complete the bar is.",
        RowFormula(derived.data_quality, [name for name in derived.QUALITY if name != "volume"]),
        [
            number_column(
                "data_quality_score", "How much of volume, sma_20, rsi_14, atr_14 and macd_line the bar has.", "percent"
            )
        ],
    )


# ---- what charting programs have besides


def _charting_indicators() -> Iterator[Indicator]:
    for name, function in {**CHARTING, **VARIANTS}.items():
        outputs = [output for output, *_ in function.columns]
        yield Indicator(
            name=name,
            group=function.group,
            source=function.source,
            parameters=function.parameters,
            outputs=outputs,
            shipped=[
                DefaultColumns(TRADINGVIEW, function.parameters, [f"{name}_{each}".rstrip("_") for each in outputs])
            ],
            cumulative=False,
            part=function.part,
            accepts=partial(_charting_accepts, function),
        )


def is_standard(entry: Indicator, columns: DefaultColumns) -> bool:
    """Whether columns are computed where a market chooses nothing."""
    if columns.of in (CLASSIC, TRADINGVIEW):
        return columns.of == CLASSIC or entry.name in _STANDARD_ALSO
    doubles = any(each.of == CLASSIC and each.parameters == columns.parameters for each in entry.shipped)
    return columns.of == TALIB and entry.group not in _NOT_STANDARD and not doubles


def _charting_accepts(function: ChartingFunction, parameters: Parameters) -> bool:
    periods = [parameters[name] for name, default in function.parameters.items() if isinstance(default, int)]
    are_sensible = all(SHORTEST <= each <= LONGEST for each in periods)
    return are_sensible and all(each > 0 for each in parameters.values()) and function.accepts(parameters)


def _zigzag_part(parameters: Parameters, names: Sequence[str]) -> Part:
    percent = float(parameters["percent"])
    settings = f"(percent {percent:g})"
    meanings = (
        ("price", f"Price of the last turning point that was confirmed by then {settings}."),
        ("1 or -1", f"1 where it was a low, -1 where it was a high {settings}."),
        ("bars", f"Bars since the turning point {settings}."),
    )
    columns = [number_column(name, meaning, unit) for name, (unit, meaning) in zip(names, meanings, strict=True)]
    return Part(columns, RecursiveFormula(partial(zigzag.zigzag, percent=percent), zigzag.states(percent)))


def _zigzag() -> Iterator[Indicator]:
    yield Indicator(
        name="zigzag",
        group="levels",
        source="Turns by a percentage of highs and lows; a turning point is shown from the bar that confirmed it.",
        parameters={"percent": 5.0},
        outputs=["price", "side", "age"],
        shipped=[DefaultColumns(TRADINGVIEW, {"percent": 5.0}, ["zigzag_price", "zigzag_side", "zigzag_age"])],
        cumulative=True,
        part=_zigzag_part,
        accepts=lambda parameters: 0 < parameters["percent"] < 100,
    )


def _anchored(calendar: Calendar) -> Iterator[Indicator]:
    levels_of = {"fib": ("Fibonacci's", 3), "camarilla": ("Camarilla's", 4)}
    day = [
        price_column(f"vwap_{side}_{number}", f"Session's VWAP {sign} {number} of its deviations.")
        for number in (1, 2)
        for side, sign in (("upper", "plus"), ("lower", "less"))
    ]
    day += [
        price_column(f"pivot_{name}_{side}{number}", f"{who} {side.upper()}{number} of the session before.")
        for name, (who, count) in levels_of.items()
        for side in ("r", "s")
        for number in range(1, count + 1)
    ]
    for name, who, sides in (("woodie", "Woodie's", ("r1", "r2", "s1", "s2")), ("demark", "DeMark's", ("r1", "s1"))):
        day.append(price_column(f"pivot_{name}", f"{who} pivot point of the session before."))
        day += [price_column(f"pivot_{name}_{each}", f"{who} {each.upper()} of the session before.") for each in sides]
    yield _of_period(
        "day", "VWAP's bands, and pivots of Fibonacci, Camarilla, Woodie and DeMark, by session.", day, calendar
    )
    for period in ("week", "month"):
        columns = [price_column(f"vwap_{period}", f"VWAP since the {period} began.")]
        columns.append(price_column(f"pivot_{period}", f"(H + L + C) / 3 of the {period} before."))
        columns += [
            price_column(f"pivot_{period}_{each}", f"{each.upper()} of the {period} before.")
            for each in ("r1", "r2", "r3", "s1", "s2", "s3")
        ]
        yield _of_period(period, f"VWAP and floor traders' pivots by {period}.", columns, calendar)


def _of_period(period: str, source: str, columns: Sequence[Column], calendar: Calendar) -> Indicator:
    compute = partial(anchored.anchored_columns, calendar=calendar, period=period)
    formula = RecursiveFormula(compute, anchored.states(period))
    return _own(f"{period}s", "sessions", source, formula, columns, of=TRADINGVIEW)


def _volume_profile_part(calendar: Calendar, parameters: Parameters, names: Sequence[str]) -> Part:
    percent = float(parameters["percent"])
    settings = f"(percent {percent:g})"
    meanings = ("Point of control: the price of most volume", "Value area high", "Value area low")
    columns = [
        price_column(name, f"{meaning} of the {session} {settings}.", warm_up=volume_profile.REACH)
        for name, (session, meaning) in zip(
            names,
            product(("session so far", "session before"), meanings),
            strict=True,
        )
    ]
    compute = partial(volume_profile.volume_profile, calendar=calendar, percent=percent)
    return Part(columns, RowFormula(compute, reach=volume_profile.REACH))


def _volume_profile(calendar: Calendar) -> Iterator[Indicator]:
    outputs = [f"{before}{each}" for before in ("", "previous_") for each in ("poc", "vah", "val")]
    yield Indicator(
        name="volume_profile",
        group=PROFILE,
        source="QuantConnect Lean's market profile by volume, of a session; rows of prices grow with the price.",
        parameters={"percent": 0.05},
        outputs=outputs,
        shipped=[DefaultColumns(PROFILE, {"percent": 0.05}, [f"profile_{each}" for each in outputs])],
        cumulative=False,
        part=partial(_volume_profile_part, calendar),
        accepts=lambda parameters: 0.001 <= parameters["percent"] <= 10,
    )


def hidden_dependencies() -> Iterator[Part]:
    """What others are made of and nobody asked for."""
    atr = FUNCTIONS["ATR"]
    yield _talib_part("ATR", atr, {"timeperiod": 20}, ["atr_20"])
    formula = BlockFormula(
        derived.volatility_rank, ["high", "low", "close"], [14], atr.warm_up + derived.WINDOW, leaves_out=True
    )
    rank = Column("volatility_rank", "Rank of atr_14 among the last 50 bars'.", "0 to 1", warm_up=formula.begins_before)
    yield Part([rank], formula)


LAST_BAR = Part([], RecursiveFormula(cumulative.last_bar, (cumulative.LAST_CLOSE, cumulative.LAST_VOLUME)))


@lru_cache(maxsize=8)
def registry(calendar: Calendar) -> Mapping[str, Indicator]:
    """Every indicator by name, in the order of the table's columns; sessions are those of the calendar."""
    indicators = [
        *_bands(),
        *_volumes(),
        *_sessions(calendar),
        *_fibonacci(),
        *_levels(),
        *_structure(),
        *_regimes(),
        *_quality(),
    ]
    charting = [*_anchored(calendar), *_zigzag(), *_charting_indicators(), *_volume_profile(calendar)]
    return {indicator.name: indicator for indicator in [*indicators, *_talib_indicators(), *charting]}
