"""TradingView's variants, held against published values and against their formulas."""

import csv
import gzip
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from refresh_pipeline.analytics.bars import Bars
from refresh_pipeline.analytics.indicators import indicators
from refresh_pipeline.analytics.tradingview import VARIANTS, relative_volatility, stochastic_rsi
from refresh_pipeline.market.calendars.registry import CALENDARS
from refresh_pipeline.market.candles import Floats
from refresh_pipeline_tests.analytics.sample_bars import OWN_GOLDEN

CRYPTO = CALENDARS["crypto"]
# As the published values were computed.
SPECS = [{"tv_cmo": [14]}, {"tv_dpo": [14]}, "tv_keltner", "tv_mama"]
REFERENCES = (
    ("tv_cmo_14", "cmo", "cmo"),
    ("tv_keltner_middle", "keltner", "centerline"),
    ("tv_keltner_upper", "keltner", "upperBand"),
    ("tv_keltner_lower", "keltner", "lowerBand"),
    ("tv_mama_mama", "mama", "mama"),
    ("tv_mama_fama", "mama", "fama"),
)


def table(name: str, *columns: str) -> list[Floats]:
    with gzip.open(OWN_GOLDEN / "public" / f"{name}.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    return [np.array([float(row[column] or "nan") for row in rows]) for column in columns]


@pytest.fixture(scope="module")
def computed() -> Mapping[str, Any]:
    names = ("open", "high", "low", "close", "volume")
    columns: dict[str, Floats] = dict(zip(names, table("spy_2017_2018", *names), strict=True))
    times = np.datetime64("2017-01-03", "us") + np.arange(len(columns["close"])) * np.timedelta64(1, "D")
    return dict(indicators(SPECS, CRYPTO).compute(Bars(times, columns, np.array([0, len(times)]))))


@pytest.mark.parametrize(("column", "file", "reference"), REFERENCES)
def test_variants_have_the_published_values(
    column: str, file: str, reference: str, computed: dict[str, Floats]
) -> None:
    [wanted] = table(file, reference)
    np.testing.assert_array_equal(np.isnan(computed[column]), np.isnan(wanted))
    np.testing.assert_allclose(computed[column], wanted, rtol=1e-9, atol=1e-9)


def test_the_centered_oscillator_has_the_published_values_once_they_are_known(computed: dict[str, Floats]) -> None:
    [wanted] = table("dpo", "dpo")
    # They are drawn 8 bars back, where they were not known yet.
    np.testing.assert_allclose(computed["tv_dpo_centered_14"][8:], wanted[:-8], rtol=1e-9, atol=1e-9)
    close, [mean] = table("spy_2017_2018", "close")[0], table("dpo", "sma")
    np.testing.assert_allclose(computed["tv_dpo_14"][30:], close[30:] - mean[14:-16], rtol=1e-9)


def test_a_rising_market_is_at_the_top_of_its_volatility_index() -> None:
    rising, falling = np.linspace(100.0, 200.0, 80), np.linspace(200.0, 100.0, 80)
    assert relative_volatility(rising, 10, 14)[-1] == pytest.approx(100.0)
    assert relative_volatility(falling, 10, 14)[-1] == pytest.approx(0.0)
    assert np.isnan(relative_volatility(np.full(80, 5.0), 10, 14)).all()


def test_the_stochastic_of_the_rsi_is_smoothed_twice() -> None:
    close = 100 + np.cumsum(np.random.default_rng(1).standard_normal(200))
    raw, _ = stochastic_rsi(close, 14, 14, 1, 1)
    k, d = stochastic_rsi(close, 14, 14, 3, 3)
    assert k[-1] == pytest.approx(raw[-3:].mean())
    assert d[-1] == pytest.approx(k[-3:].mean())
    assert 0 <= np.nanmin(raw) <= np.nanmax(raw) <= 100
    assert int(np.argmax(~np.isnan(d))) == 14 + 13 + 2 + 2


@pytest.mark.parametrize("name", VARIANTS)
def test_a_short_series_has_no_value(name: str) -> None:
    entry = VARIANTS[name]
    columns = [np.array([3.0, 4.0, 5.0])] * len(entry.takes.split())
    outputs = entry.function(*columns, *entry.parameters.values())
    assert all(np.isnan(output).all() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
