"""Indicators of other packages: found by entry point, refused where they look ahead, computed like any other."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.analytics.own_indicators import OwnIndicatorError, own_indicator, own_indicators
from refresh_pipeline.market.calendars.crypto import CryptoCalendar
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.warehouse.computations import computations

MODULE = """
import numpy as np
from refresh_pipeline.analytics.own_indicators import own_indicator


def momentum(close):
    result = np.full(len(close), np.nan)
    result[12:] = close[12:] - close[:-12]
    return result


def tomorrow(close):
    return np.append(close[1:], np.nan)


def whole_history(close):
    return np.cumsum(close)


def too_short(close):
    return close[1:]


def centered(close):
    return (close - close.mean()) / close.std()


def made(function, warm_up=12):
    return own_indicator("my_" + function.__name__, function, warm_up=warm_up, description="Mine.")


good, ahead, endless = made(momentum), made(tomorrow), made(whole_history)
short, scaled, number = made(too_short), made(centered), 5
"""
NAMES = {
    "my_momentum": "good",
    "ahead": "ahead",
    "endless": "endless",
    "short": "short",
    "scaled": "scaled",
    "standard": "scaled",
}
POINTS = NAMES | {"number": "number", "gone": "nowhere"}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with entry points, as pip installs it."""
    (tmp_path / "indicators_of_mine.py").write_text(MODULE)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "\n".join(f"{name} = indicators_of_mine:{value}" for name, value in POINTS.items())
    (info / "entry_points.txt").write_text(f"[refresh_pipeline.indicators]\n{points}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own_indicators.cache_clear()
    yield
    own_indicators.cache_clear()
    sys.modules.pop("indicators_of_mine", None)


def test_an_indicator_of_ones_own_is_a_column_with_the_functions_values() -> None:
    computation = indicators(["sma_10", "my_momentum"], CryptoCalendar())
    assert [column.name for column in computation.columns] == ["sma_10", "my_momentum"]
    # More bars than a block, from which they are computed again.
    close = np.random.default_rng(3).uniform(90, 110, 1300)
    times = np.arange(1300).astype("datetime64[h]").astype("datetime64[us]")
    values = computation.compute(Bars(times, dict.fromkeys(CANDLE_COLUMNS, close), np.array([0, 1300])))["my_momentum"]
    np.testing.assert_allclose(values[12:].astype(float), close[12:] - close[:-12])
    assert np.isnan(values[:12].astype(float)).all()
    assert computation.fingerprints["my_momentum"].version == 1


def test_nothing_of_ones_own_is_computed_unless_it_is_chosen() -> None:
    assert "my_momentum" not in [column.name for column in indicators(None, CryptoCalendar()).columns]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ahead", "it looks ahead"),
        ("scaled", "it looks ahead"),
        ("endless", "more than the 12 bars of its warm_up"),
        ("short", "one for each bar"),
        ("number", "found int, allowed: the result of own_indicator"),
        ("gone", "nowhere"),
    ],
)
def test_one_that_cannot_be_used_refuses_the_markets_that_name_it_alone(name: str, words: str) -> None:
    text = (
        "{{name: x, source: {{kind: demo}}, calendar: crypto, instruments: [A], timeframes: [H1], history: 1d, "
        "indicators: {{compute: [{}]}}}}"
    )
    with pytest.raises(MarketError, match=words):
        computations(parse_market(text.format(name), "x.yaml"))
    assert computations(parse_market(text.format("sma_10"), "x.yaml"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "My One"}, "lower-case"),
        ({"inputs": ("price",)}, "inputs: found 'price'"),
        ({"warm_up": -1}, "warm_up: found -1"),
    ],
)
def test_arguments_that_are_not_allowed_are_named(options: dict, words: str) -> None:
    arguments = {"name": "mine", "warm_up": 5, "description": "Mine."} | options
    with pytest.raises(OwnIndicatorError, match=words):
        own_indicator(compute=lambda close: close, **arguments)
