"""Implausible prices: flagged on real faults, on their repaired twins and on clean series not."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.candles import PRICE_COLUMNS, Floats
from refresh_pipeline.market.outliers import Kind, PriceFaults, price_faults

# Of each published fault the row at which it begins, and what it looks like.
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


def published(path: Path) -> dict[str, Floats]:
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
def test_published_faults_are_flagged_where_they_begin(name: str, candle_folder: Path) -> None:
    assert faults(published(candle_folder / f"{name}.parquet")) == FAULTY[name]


@pytest.mark.parametrize("name", CLEAN)
def test_clean_series_are_not_flagged(name: str, candle_folder: Path) -> None:
    assert faults(published(candle_folder / f"{name}.parquet")) == {}


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


# ---- a market that moves as violently as a fault

# GME in January 2021, unadjusted: open, high, low, close in dollars and volume in millions. A public record.
GME = np.array(
    [
        (19.00, 19.10, 17.15, 17.25, 10.0), (17.35, 18.08, 17.23, 17.37, 5.0), (17.34, 18.98, 17.33, 18.36, 6.1),
        (18.47, 19.45, 18.02, 18.08, 6.1), (18.18, 18.30, 17.08, 17.69, 6.5), (19.41, 20.65, 19.01, 19.94, 14.9),
        (19.96, 20.40, 19.32, 19.95, 7.1), (20.42, 38.65, 20.03, 31.40, 144.5), (38.09, 43.06, 33.05, 39.91, 93.7),
        (38.49, 40.75, 34.01, 35.50, 46.9), (41.55, 45.52, 36.64, 39.36, 74.7), (37.37, 41.19, 36.06, 39.12, 33.5),
        (39.23, 44.75, 37.00, 43.03, 56.2), (42.59, 76.76, 42.32, 65.01, 197.2), (96.73, 159.18, 61.13, 76.79, 177.9),
        (88.56, 150.00, 80.20, 147.98, 178.6), (354.83, 380.00, 249.00, 347.51, 93.4),
        (265.00, 483.00, 112.25, 193.60, 58.8), (379.71, 413.98, 250.00, 325.00, 50.6),
        (316.56, 322.00, 212.00, 225.00, 37.4), (140.76, 158.00, 74.22, 90.00, 78.2),
        (112.01, 113.40, 85.25, 92.41, 42.7), (91.19, 91.50, 53.33, 53.50, 62.4),
    ]
)  # fmt: skip


def squeeze(*, with_volume: bool) -> dict[str, Floats]:
    """A calm year, then GME's days."""
    calm = 17.2 * CALM[:250] / CALM[249]
    columns = [np.concatenate([calm, GME[:, number]]) for number in range(4)]
    prices = dict(zip(PRICE_COLUMNS, columns, strict=True))
    volume = {"volume": np.concatenate([np.full(250, 8.0), GME[:, 4]])} if with_volume else {}
    return {**prices, **volume}


@pytest.mark.parametrize("with_volume", [True, False])
def test_a_squeeze_is_no_fault(with_volume: bool) -> None:
    assert faults(squeeze(with_volume=with_volume)) == {}


@pytest.mark.parametrize(
    ("factor", "kind"), [(0.25, Kind.step), (4.0, Kind.step), (100.0, Kind.unit), (0.01, Kind.unit)]
)
def test_a_split_is_flagged_though_it_multiplies_shares(factor: float, kind: Kind) -> None:
    close, volume = with_factor(factor, slice(200, None)), np.full(400, 8.0)
    volume[200:] /= factor
    assert faults(flat(close, volume=volume)) == {200: kind}


def test_a_single_price_far_from_the_others_is_flagged_whatever_the_volume_beside() -> None:
    low, volume = CALM.copy(), np.full(400, 8.0)
    low[200] /= 2
    volume[199] = 800.0
    assert faults(flat(CALM, low=low, volume=volume)) == {200: Kind.inside}
