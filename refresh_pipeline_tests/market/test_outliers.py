"""Implausible prices: flagged on real faults, on their repaired twins and on clean series not."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.candles import PRICE_COLUMNS, Floats
from refresh_pipeline.market.outliers import Kind, PriceFaults, price_faults

REAL_CANDLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "candles"
# Of each real fault the row at which it begins, and what it looks like.
FAULTY = {
    "yf_4063_T_1d_bad_stock_split": {9: Kind.step},
    "yf_AET_L_1d_100x_error": {4: Kind.unit, 13: Kind.unit},
    "yf_ALPHA_PA_1d_bad_stock_split": {11: Kind.spike},
    "yf_ASAI_L_1h_bad_unit": {11: Kind.unit},
    "yf_MOB_ST_1d_bad_stock_split": {9: Kind.spike},
    "yf_SSW_JO_1d_100x_error": {22: Kind.unit},
}
CLEAN = [
    "binance_BTCUSDT_1h_2024w01",
    "binance_SOLUSDT_1m",
    "coinbase_BTCUSD_1h",
    "coinbase_BTCUSD_1m_201804",
    "coinbase_ETHUSD_1m_201804",
    "coinbase_LTCUSD_1m_201804",
    "nse_NIFTY50_1m",
    "nse_YESBANK_1m",
    "oanda_EURUSD_1h",
    "oanda_XAUUSD_1m_201405",
    "yahoo_SPY_1d",
    *(f"{name}_fixed" for name in FAULTY),
]


def real(name: str) -> dict[str, Floats]:
    path = REAL_CANDLES / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select open::double as open, high::double as high, low::double as low, close::double as close "
            "from read_parquet(?) where isfinite(close) and least(open, high, low, close) > 0 order by time",
            [str(path)],
        ).fetchnumpy()
    return {column: np.asarray(rows[column]) for column in PRICE_COLUMNS}


def faults(prices: dict[str, Floats]) -> dict[int, Kind]:
    found = price_faults(prices, np.array([0, len(prices["close"])]))
    return dict(zip(found.rows.tolist(), found.kinds, strict=True))


@pytest.mark.parametrize("name", FAULTY)
def test_real_faults_are_flagged_where_they_begin(name: str) -> None:
    assert faults(real(name)) == FAULTY[name]


@pytest.mark.parametrize("name", CLEAN)
def test_clean_series_are_not_flagged(name: str) -> None:
    assert faults(real(name)) == {}


# ---- by hand

CALM = 100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.002, 400)))


def flat(close: Floats, **changed: Floats) -> dict[str, Floats]:
    return dict.fromkeys(PRICE_COLUMNS, close) | changed


def with_factor(factor: float, rows: slice) -> Floats:
    close = CALM.copy()
    close[rows] *= factor
    return close


@pytest.mark.parametrize(
    ("factor", "rows", "kind"),
    [
        (100.0, slice(200, 201), Kind.unit),
        (0.01, slice(200, 201), Kind.unit),
        (100.0, slice(200, None), Kind.unit),
        (1.7, slice(200, 201), Kind.spike),
        (0.5, slice(200, None), Kind.step),
        (10.0, slice(200, None), Kind.step),
    ],
)
def test_a_fault_is_flagged_once_by_what_it_looks_like(factor: float, rows: slice, kind: Kind) -> None:
    assert faults(flat(with_factor(factor, rows))) == {200: kind}


def test_a_single_price_off_by_a_hundred_is_flagged_though_the_close_is_right() -> None:
    high = CALM.copy()
    high[200] *= 100
    assert faults(flat(CALM, high=high)) == {200: Kind.inside}


@pytest.mark.parametrize("factor", [1.1, 1.4, 0.7])
def test_a_large_true_move_is_none(factor: float) -> None:
    assert faults(flat(with_factor(factor, slice(200, None)))) == {}


def test_what_moves_wildly_every_day_may_go_on_doing_so() -> None:
    wild = 0.001 * np.exp(np.cumsum(np.random.default_rng(4).normal(0, 0.4, 400)))
    assert faults(flat(wild)) == {}


def test_one_series_says_nothing_of_the_next_one() -> None:
    close = np.concatenate([CALM, CALM * 1000, CALM / 7])
    found: PriceFaults = price_faults(flat(close), np.array([0, 400, 800, 800, 1200]))
    assert len(found.rows) == 0


def test_of_nothing_nothing_is_said() -> None:
    assert len(price_faults(flat(np.array([])), np.array([0])).rows) == 0
    assert faults(flat(np.array([5.0]))) == {}
