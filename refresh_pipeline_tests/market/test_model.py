"""A market from its YAML, and what one is told about each mistake in it."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from refresh_pipeline.market import model
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import (
    Market,
    MarketError,
    UnknownInstrument,
    normalized,
    parse_duration,
    parse_market,
    source_options,
)
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe, UnknownTimeframe

CATALOG = Path(model.__file__).parent / "catalog"
PARTS = {
    "name": "crypto",
    "source": "{kind: binance}",
    "calendar": "crypto",
    "instruments": "[BTC/USDT, ETH/USDT]",
    "timeframes": "[m1, H1]",
    "history": "30d",
}


def yaml_of(**changes: str | None) -> str:
    """A good market's YAML with some keys changed, added or (None) left out."""
    parts = {**PARTS, **changes}
    return "\n".join(f"{key}: {value}" for key, value in parts.items() if value is not None)


def market(**changes: str | None) -> Market:
    return parse_market(yaml_of(**changes), "my.yaml")


def complaint(**changes: str | None) -> str:
    """What one is told about a market's YAML."""
    with pytest.raises(MarketError) as caught:
        market(**changes)
    return str(caught.value)


@pytest.mark.parametrize("file", sorted(CATALOG.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_market_is_valid_and_called_like_its_file(file: Path):
    shipped = parse_market(file.read_text(), file.name, lambda universe: (CATALOG / universe).read_text())
    assert shipped.name == file.stem
    assert len({series.key for series in shipped.series}) == len(shipped.instruments) * len(shipped.timeframes)
    assert len({series.file_stem.lower() for series in shipped.series}) == len(shipped.series)


def test_a_market_says_what_its_yaml_says():
    crypto = market(timeframes="[H1, m1, 1d]", history="{m1: 2d, 1h: 4w, D1: 2y}")
    assert list(crypto.instruments) == ["BTC/USDT", "ETH/USDT"]
    assert crypto.timeframes == (Timeframe.m1, Timeframe.H1, Timeframe.D1)
    assert crypto.history[Timeframe.H1] == timedelta(days=28)
    assert crypto.source.kind == "binance"
    assert crypto.calendar.name == "crypto"


def test_series_come_short_timeframes_first_and_by_priority():
    keys = [series.key for series in market().series]
    assert keys == ["BTC/USDT|m1", "ETH/USDT|m1", "BTC/USDT|H1", "ETH/USDT|H1"]
    assert market().series[0] == Series("BTC/USDT", Timeframe.m1)


def test_one_history_holds_for_all_timeframes():
    assert set(market(history="2w").history.values()) == {timedelta(days=14)}


# Each mistake, and what its message must hold: the key, what was found, what is allowed.
MISTAKES: list[tuple[dict[str, str | None], list[str]]] = [
    ({"name": None}, ["name: missing", "allowed keys: name, source, calendar"]),
    ({"name": "5"}, ["name: found 5", "allowed: text"]),
    ({"name": "My Market"}, ["name: found 'My Market'", "allowed: lower-case letters"]),
    ({"name": "[a]"}, ["name: found ['a']", "allowed: text"]),
    ({"source": "binance"}, ["source: found 'binance'", "allowed: a mapping with kind"]),
    ({"source": ""}, ["source: found None", "allowed: a mapping with kind"]),
    ({"source": "{}"}, ["source.kind: missing", "allowed keys: kind"]),
    ({"source": "{kind: 5}"}, ["source.kind: found 5", "allowed: text"]),
    ({"calendar": "cripto"}, ["calendar: found 'cripto'", "allowed: crypto, fx"]),
    ({"calendar": "24"}, ["calendar: found 24", "allowed: text"]),
    ({"calendar": None}, ["calendar: missing"]),
    ({"calendar": "{name: cripto}"}, ["calendar.name: found 'cripto'", "allowed: crypto, fx, nse"]),
    ({"calendar": "{name: nse, holidays: [2027-01-26]}"}, ["calendar.holidays", "unknown key", "closed"]),
    ({"calendar": "{name: nse, closed: 2027-01-26}"}, ["calendar.closed", "allowed: a list of dates"]),
    ({"calendar": "{name: nse, closed: [26.1.2027]}"}, ["calendar.closed", "found '26.1.2027'", "allowed: a date"]),
    ({"calendar": "{name: nse, sessions: {2027-11-08: 18h}}"}, ["calendar.sessions", "'18:00-19:00'"]),
    ({"calendar": "{name: nse, sessions: {2027-11-08: '19:00-18:00'}}"}, ["2027-11-08", "each ending later"]),
    ({"calendar": "{name: nse, early_closes: {2027-11-08: noon}}"}, ["calendar.early_closes", "a time of day"]),
    ({"calendar": "{name: nse, known_until: soon}"}, ["calendar.known_until", "found 'soon'", "allowed: a date"]),
    ({"calendar": "{name: nse, closed: [2027-01-26, 2027-01-26]}"}, ["2027-01-26 is named more than once"]),
    ({"instruments": "{A: {class: metals}}"}, ["class: found 'metals'", "did you mean 'metal'?"]),
    ({"instruments": "[]"}, ["instruments: found []", "allowed: at least one"]),
    ({"instruments": "{}"}, ["instruments: found {}", "allowed: at least one"]),
    ({"instruments": ""}, ["instruments: found None", "allowed: a list of names, or a mapping"]),
    ({"instruments": "BTC/USDT"}, ["instruments: found 'BTC/USDT'", "allowed: a list of names, or a mapping"]),
    ({"instruments": "[NO]"}, ["instruments: found [False]", "False is no text", "in quotes"]),
    ({"instruments": "{ON: {}}"}, ["instruments: found {True: {}}", "True is no text", "in quotes"]),
    ({"instruments": "[4063]"}, ["4063 is no text", "in quotes"]),
    ({"instruments": "[A, [B]]"}, ["['B'] is no text"]),
    ({"instruments": "[A, B, A]"}, ["A named more than once"]),
    ({"instruments": "[EUR/USD, EURUSD]"}, ["'EUR/USD' and 'EURUSD' cannot be told apart"]),
    ({"instruments": "['A|B']"}, ["'A|B' is no instrument name", "allowed: text without"]),
    ({"instruments": "['A,B']"}, ["'A,B' is no instrument name"]),
    ({"instruments": "['A[1]']"}, ["'A[1]' is no instrument name"]),
    ({"instruments": "['../A']"}, ["'../A' is no instrument name"]),
    ({"instruments": "['A B']"}, ["'A B' is no instrument name"]),
    ({"instruments": "['--']"}, ["'--' is no instrument name"]),
    ({"instruments": "['']"}, ["'' is no instrument name"]),
    ({"instruments": "{A: {}, A: {}}"}, ["found A more than once", "allowed: each key once", "line 4"]),
    ({"instruments": "{A: x}"}, ["instruments.A: found 'x'", "allowed: a mapping with symbol, class, ids"]),
    ({"instruments": "{A: false}"}, ["instruments.A: found False", "allowed: a mapping with symbol"]),
    ({"instruments": "{A: {symbl: x}}"}, ["instruments.A.symbl: found 'x'", "mean 'symbol'", "allowed: symbol, class"]),
    ({"instruments": "{A: {symbol: 5}}"}, ["instruments.A.symbol: found 5", "allowed: text"]),
    ({"instruments": "{A: {ids: [5]}}"}, ["instruments.A.ids: found [5]", "allowed: a mapping"]),
    ({"timeframes": "[]"}, ["timeframes: found []", "allowed: at least one"]),
    ({"timeframes": ""}, ["timeframes: found None", "allowed: a list of m1, m5"]),
    ({"timeframes": "m1"}, ["timeframes: found 'm1'", "allowed: a list of m1, m5"]),
    ({"timeframes": "{m1: 1}"}, ["timeframes: found {'m1': 1}", "allowed: a list of m1, m5"]),
    ({"timeframes": "[M1]"}, ["timeframes: found ['M1']", "ambiguous", "'m1'", "'MN1'"]),
    ({"timeframes": "[m1, 1min]"}, ["timeframes: found ['m1', '1min']", "m1 named more than once"]),
    ({"timeframes": "[m7]"}, ["timeframes: found ['m7']", "unknown timeframe 'm7'", "allowed: m1, m5"]),
    ({"timeframes": "[m1, null]"}, ["timeframes: found ['m1', None]", "unknown timeframe 'None'"]),
    ({"timeframes": None}, ["timeframes: missing"]),
    ({"history": None}, ["history: missing"]),
    ({"history": ""}, ["history: found None", "allowed: a whole number and m, h, d, w or y"]),
    ({"history": "30"}, ["history: found 30", "for instance 30d"]),
    ({"history": "0d"}, ["history: found '0d'", "for instance 30d"]),
    ({"history": "-3d"}, ["history: found '-3d'", "for instance 30d"]),
    ({"history": "999999999999y"}, ["history: found '999999999999y'", "up to 100y"]),
    ({"history": "[30d]"}, ["history: found ['30d']", "for instance 30d"]),
    ({"history": "{m1: 2d}"}, ["history: found {'m1': '2d'}", "nothing said of H1"]),
    ({"history": "{}"}, ["history: found {}", "nothing said of m1, H1"]),
    ({"history": "{m1: 2d, H1: x}"}, ["history.H1: found 'x'", "for instance 30d"]),
    ({"history": "{M1: 2d, H1: 3d}"}, ["history: found", "timeframe 'M1' is ambiguous"]),
    ({"history": "{m1: 2d, H1: 3d, m7: 1d}"}, ["history: found", "unknown timeframe 'm7'"]),
    ({"history": "{m1: 2d, 1min: 3d, H1: 1d}"}, ["history: found", "m1 named more than once"]),
    ({"reread": "0"}, ["reread: found 0", "allowed: 1 or more"]),
    ({"reread": "1001"}, ["reread: found 1001", "allowed: 1000 or less"]),
    ({"reread": "many"}, ["reread: found 'many'", "allowed: a whole number"]),
    ({"reread": "1.5"}, ["reread: found 1.5", "allowed: a whole number"]),
    ({"reread": "true"}, ["reread: found True", "allowed: a whole number"]),
    ({"two_sided": "both"}, ["two_sided: found 'both'", "allowed: true or false"]),
    ({"owners": "me"}, ["owners: found 'me'", "allowed: a list"]),
    ({"owners": "[5]"}, ["owners.0: found 5", "allowed: text"]),
    ({"instrument": "[A]"}, ["instrument: found ['A']", "unknown key", "did you mean 'instruments'", "allowed: name"]),
    ({"colour": "red"}, ["colour: found 'red'", "unknown key", "allowed: name, source"]),
    ({"name": "a\nname: b"}, ["found name more than once", "allowed: each key once"]),
    ({"history": "{m1: 1d, m1: 2d, H1: 1d}"}, ["found m1 more than once"]),
    ({"universe": "all.csv"}, ["universe: found 'all.csv'", "instead of instruments"]),
    ({"universe": "[all.csv]", "instruments": None}, ["universe: found ['all.csv']", "allowed: a CSV file's name"]),
    ({"name": "2024-99-99"}, ["not readable as YAML"]),
    ({"name": "a: b"}, ["not readable as YAML", "line 1"]),
    ({"name": "!!python/object:os.system x"}, ["not readable as YAML"]),
]


@pytest.mark.parametrize(("changes", "parts"), MISTAKES, ids=[str(changes)[:60] for changes, _ in MISTAKES])
def test_a_mistake_is_told_by_file_key_what_was_found_and_what_is_allowed(
    changes: dict[str, str | None], parts: list[str]
):
    message = complaint(**changes)
    assert message.startswith("my.yaml: ")
    assert [part for part in parts if part not in message] == [], message


def test_every_mistake_is_told_at_once_and_each_on_its_line():
    lines = complaint(name="X", calendar="moon", timeframes="[M1]", history="30x").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["name", "calendar", "timeframes", "history"]
    assert all(line.startswith("my.yaml: ") for line in lines)


@pytest.mark.parametrize("text", ["", "[]", "5", "just words", "# nothing\n"])
def test_a_file_that_is_no_mapping_is_told_so(text: str):
    with pytest.raises(MarketError, match=r"my.yaml: found .*, allowed: a mapping with name, source"):
        parse_market(text, "my.yaml")


def test_a_long_value_is_not_repeated_in_full():
    message = complaint(history="x" * 5000)
    assert len(message) < 300


def test_names_may_be_written_in_whatever_way_people_write_them():
    fx = market(instruments="[EUR/USD, SPX500, BTC-PERP]")
    for text in ("EUR/USD", "EUR-USD", "EURUSD", "eur/usd", " eur_usd ", "EUR%2FUSD", "eur%2fusd", "EUR:USD"):
        assert fx.instrument(text) == "EUR/USD"
    assert fx.instrument("btcperp") == "BTC-PERP"
    assert normalized("eur%2fusd") == "EURUSD"


def test_an_unknown_instrument_is_told_the_nearest_and_what_there_is():
    with pytest.raises(
        UnknownInstrument, match=r"market 'crypto' has no instrument 'BTC/USD'; did you mean 'BTC/USDT'"
    ):
        market().instrument("BTC/USD")
    with pytest.raises(UnknownInstrument, match=r"has no instrument 'XYZ' \(allowed: BTC/USDT, ETH/USDT\)"):
        market().instrument("XYZ")


def test_of_many_instruments_only_some_are_named():
    many = market(instruments="[" + ", ".join(f"A{n}" for n in range(50)) + "]")
    with pytest.raises(UnknownInstrument, match="and 38 more"):
        many.instrument("XYZ")


def test_a_timeframe_is_asked_for_by_any_name_if_the_market_has_it():
    assert market().timeframe("60") is Timeframe.H1
    with pytest.raises(ValueError, match=r"market 'crypto' has no timeframe D1 \(it has m1, H1\)"):
        market().timeframe("1d")
    with pytest.raises(UnknownTimeframe, match="ambiguous"):
        market().timeframe("M1")


def test_an_instrument_may_have_details():
    nse = market(instruments="{RELIANCE: {symbol: REL, class: equity, ids: {dhan: 2885}}, TCS: }")
    assert nse.instruments["RELIANCE"].asset_class == "equity"
    assert nse.instruments["RELIANCE"].ids == {"dhan": 2885}
    assert nse.symbol("RELIANCE", default=str.lower) == "REL"
    assert nse.symbol("TCS", default=str.lower) == "tcs"


def universe(text: str) -> Market:
    return parse_market(yaml_of(instruments=None, universe="all.csv"), "my.yaml", {"all.csv": text}.__getitem__)


def test_a_universe_gives_an_instrument_per_row():
    nse = universe("\ufeffInstrument, Symbol ,CLASS,dhan\r\nRELIANCE,REL,equity,2885\r\n\r\n TCS ,,,\r\n")
    assert list(nse.instruments) == ["RELIANCE", "TCS"]
    assert nse.instruments["RELIANCE"].model_dump() == {
        "symbol": "REL",
        "asset_class": "equity",
        "ids": {"dhan": "2885"},
    }
    assert nse.instruments["TCS"].ids == {}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "all.csv: found 0 rows; allowed: a header"),
        ("instrument\n", "all.csv: found 1 rows; allowed: a header"),
        ("instrument,dhan\nTCS,1\nINFY,2\nTCS,3\n", "all.csv: found TCS more than once"),
        ("instrument,dhan\n,1\n", "'' is no instrument name"),
        ("instrument\nA|B\n", "'A|B' is no instrument name"),
    ],
)
def test_a_mistake_in_a_universe_is_told(text: str, part: str):
    with pytest.raises(MarketError) as caught:
        universe(text)
    assert part in str(caught.value)


class Options(BaseModel):
    """Some source's options."""

    model_config = ConfigDict(extra="forbid")

    directory: str
    depth: int = Field(default=1, le=5)


def options_of(source: str) -> Options:
    return source_options(market(source=source), Options)


def test_a_source_gets_its_options():
    assert options_of("{kind: x, directory: d, depth: 3}") == Options(directory="d", depth=3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{kind: x}", "market 'crypto': source: directory: missing; allowed keys: directory, depth"),
        ("{kind: x, directory: 5}", "market 'crypto': source: directory: found 5; allowed: text (in quotes, if it"),
        ("{kind: x, directory: d, depth: 9}", "market 'crypto': source: depth: found 9; allowed: 5 or less"),
        ("{kind: x, directory: d, deph: 9}", "source: deph: found 9; unknown key; did you mean 'depth'? (allowed: di"),
    ],
)
def test_a_mistake_in_a_sources_options_is_told(source: str, message: str):
    with pytest.raises(MarketError) as caught:
        options_of(source)
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "days"), [("1d", 1), ("2w", 14), ("48h", 2), ("1440m", 1), ("1y", 365), (" 3 d ", 3)])
def test_a_length_of_time_is_read_as_people_write_it(text: str, days: int):
    assert parse_duration(text) == timedelta(days=days)


def test_a_calendar_with_days_of_its_own():
    added = market(
        calendar="{name: nse, closed: [2027-01-26], sessions: {2027-11-08: '18:00-19:00'}, early_closes: "
        "{2027-02-01: 13:00}, known_until: 2027-12-31}"
    )
    calendar = added.calendar
    assert calendar is added.calendar_of("BTC/USDT")
    assert calendar is not CALENDARS["nse"]
    assert calendar.name == "nse"
    assert str(calendar.last_known) == "2027-12-31T18:30:00.000000"
    days = calendar.open_times(Timeframe.D1, instant("2027-01-24T18:30"), instant("2027-01-28"))
    assert [str(day + np.timedelta64(330, "m"))[:10] for day in days] == ["2027-01-25", "2027-01-27", "2027-01-28"]
    opens = calendar.is_open(np.array(["2027-02-01T07:29", "2027-02-01T07:31", "2027-11-08T12:45"], "datetime64[us]"))
    assert opens.tolist() == [True, False, True]


def test_days_of_a_markets_calendar_hold_for_its_classes():
    fx = market(calendar="{name: fx, closed: [2026-06-10]}", instruments="{EUR/USD: {}, XAU/USD: {class: metal}}")
    noon = np.array(["2026-06-10T15:00"], dtype="datetime64[us]")
    for name in fx.instruments:
        assert not fx.calendar_of(name).is_open(noon)[0]
    assert fx.session_key("XAU/USD") == "fx/metal"
