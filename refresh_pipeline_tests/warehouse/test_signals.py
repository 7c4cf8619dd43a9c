"""The view `signals`, and the newest signals, against the enhanced candles read bar by bar."""

from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.model import IndicatorSettings
from refresh_pipeline.warehouse import signals
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.signals import NEWEST_BARS, newest_signals
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import address_in
from refresh_pipeline_tests.warehouse.test_checkpoints import MARKET, NOW, A, B, refreshed
from refresh_pipeline_tests.warehouse.test_checkpoints import candles as quarters

Event = tuple[np.datetime64, str, str, np.datetime64 | None]


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    warehouse = Warehouse(database=str(tmp_path_factory.mktemp("signals") / "refresh.duckdb"))
    warehouse.prepare(MARKET)
    refreshed(warehouse, {A: quarters(1), B: quarters(2, slice(0, 500))})
    return warehouse


def expected(warehouse: Warehouse, instrument: str) -> list[Event]:
    """The signals of a series, from its rows one after the other."""
    with warehouse.reader() as connection:
        statement = "select * from test.enhanced_candles where instrument = ? order by open_time"
        rows = arrays_of(connection, statement, [instrument])
    times, zone = rows["open_time"], np.nan_to_num(rows["zone_signal"].astype(float))
    turned = np.r_[zone[:1] != 0, zone[1:] != zone[:-1]]
    flags = {
        ("fractal", "up"): rows["fractal_up_2"] == 1,
        ("fractal", "down"): rows["fractal_down_2"] == 1,
        ("squat", "squat"): rows["mfi_squat"] == 1,
    }
    for direction, sign in (("buy", 1), ("sell", -1)):
        flags[("divergent", direction)] = rows["divergent"] == sign
        flags[("zero_cross", direction)] = rows["zero_cross"] == sign
        flags[("saucer", direction)] = rows[f"saucer_{direction}"] == 1
        flags[("zone_change", direction)] = (zone == sign) & turned
    events = []
    for (kind, direction), there in flags.items():
        for row in np.flatnonzero(there):
            known = row + 2 if kind == "fractal" else row
            events.append((times[row], kind, direction, times[known] if known < len(times) else None))
    return sorted(events, key=lambda event: event[:3])


@pytest.mark.parametrize("series", [A, B])
def test_the_view_has_every_signal_with_the_bar_that_made_it_known(warehouse: Warehouse, series: object) -> None:
    instrument = series.instrument  # type: ignore[attr-defined]
    with warehouse.reader() as connection:
        rows = connection.execute(
            "select open_time, kind, direction, known_at from test.signals where instrument = ? order by 1, 2, 3",
            [instrument],
        ).fetchall()
    wanted = expected(warehouse, instrument)
    assert len(wanted) > 100
    assert [(np.datetime64(row[0], "us"), row[1], row[2]) for row in rows] == [event[:3] for event in wanted]
    assert [None if row[3] is None else np.datetime64(row[3], "us") for row in rows] == [event[3] for event in wanted]


def test_the_newest_of_each_kind_is_the_last_one_of_the_view(warehouse: Warehouse) -> None:
    with warehouse.reader() as connection:
        found = newest_signals(connection, MARKET, A.timeframe, [B.instrument, A.instrument])
    assert [state.series for state in found] == [B, A]
    for state in found:
        last = {kind: (time, direction) for time, kind, direction, _ in expected(warehouse, state.series.instrument)}
        shown = {kind: (np.datetime64(one.open_time, "us"), one.direction) for kind, one in state.newest.items()}
        assert shown.items() <= last.items()
        assert {"fractal", "squat"} <= shown.keys()
        assert state.mouth_direction in ("buy", "sell", "neither")


def test_signals_are_looked_for_in_the_newest_bars_alone(warehouse: Warehouse) -> None:
    with warehouse.reader() as connection:
        [state] = newest_signals(connection, MARKET, A.timeframe, [A.instrument])
    oldest = min(signal.open_time for signal in state.newest.values())
    assert (state.open_time - oldest).total_seconds() <= NEWEST_BARS * 900 + signals.QUIET.total_seconds()


def test_a_market_without_candles_has_no_signals(tmp_path: Path) -> None:
    warehouse = Warehouse(database=address_in(tmp_path))
    warehouse.prepare(MARKET)
    with warehouse.reader() as connection:
        assert newest_signals(connection, MARKET, A.timeframe, [A.instrument]) == []
        assert connection.execute("select count(*) from test.signals").fetchall() == [(0,)]


def test_candles_that_wait_to_be_computed_are_not_computed_for_a_reader(tmp_path: Path) -> None:
    indicators = IndicatorSettings.model_validate({"keep": {"m5": "1d"}})
    keeping = MARKET.model_copy(update={"indicators": indicators})
    warehouse = Warehouse(database=address_in(tmp_path))
    warehouse.prepare(keeping)
    warehouse.store_candles(keeping, {series: quarters(seed=1) for series in (A, B)}, "demo", NOW)
    warehouse.refresh_tail(keeping, Table.enhanced_candles, [A])
    with warehouse.reader() as connection:
        names = [A.instrument, B.instrument]
        assert [state.series for state in newest_signals(connection, keeping, A.timeframe, names)] == [A]


def test_the_view_comes_back_with_the_columns_of_today(tmp_path: Path) -> None:
    warehouse = Warehouse(database=address_in(tmp_path))
    warehouse.prepare(MARKET)
    with warehouse.get_connection() as connection:
        connection.execute("create or replace view test.signals as select 1 as something_else")
    Warehouse(database=warehouse.database).prepare(MARKET)
    with warehouse.reader() as connection:
        assert connection.execute("select known_at from test.signals").fetchall() == []
