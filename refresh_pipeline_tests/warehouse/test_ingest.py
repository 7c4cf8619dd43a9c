"""Storing candles: each once, the newest value, old ones on record, bad ones aside; held against a plain model."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refresh_pipeline.market.candles import CANDLE_COLUMNS, NOT_POSITIVE, Candles, Malformed
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import column_versions
from refresh_pipeline.warehouse.connection import connect, transaction
from refresh_pipeline.warehouse.ingest import Staged, Stored, store
from refresh_pipeline.warehouse.outcomes import SeriesStats
from refresh_pipeline.warehouse.schema import Table, candle_columns
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import of_a_file
from refresh_pipeline_tests.thoroughness import examples
from refresh_pipeline_tests.warehouse.children import child, finished, says
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    FIRST,
    NOW,
    at,
    candles,
    everything,
    flat,
    market_of,
    opens,
    prepared,
    query,
)

MARKET = market_of()


def stored(warehouse: Warehouse, arrived: Candles, seconds: float = 0, series: Series = BTC) -> Stored:
    """What became of candles of one series that arrived so many seconds after the usual instant."""
    return warehouse.store_candles(MARKET, {series: arrived}, "test", at(seconds))[series]


def values(warehouse: Warehouse, table: str = "raw_candles") -> list[tuple]:
    return query(warehouse, f"select open_time, close from fair.{table} order by all")


def moment(number: int) -> datetime:
    return (FIRST + np.timedelta64(5 * number, "m")).astype(datetime)


def naive(seconds: float) -> datetime:
    return at(seconds).replace(tzinfo=None)


def test_candles_are_stored_as_they_came(warehouse: Warehouse):
    arrived = candles(20)
    assert stored(warehouse, arrived) == Stored(added=20)
    rows = query(
        warehouse, f"select open_time, {', '.join(CANDLE_COLUMNS)}, source, fetched_at from fair.raw_candles order by 1"
    )
    expected = zip(arrived.open_time.tolist(), *(arrived[name].tolist() for name in CANDLE_COLUMNS), strict=True)
    assert rows == [(*row, "test", naive(0)) for row in expected]


def test_storing_twice_leaves_one_row_per_candle_and_touches_nothing(warehouse: Warehouse):
    stored(warehouse, candles(20))
    before = everything(warehouse)
    assert stored(warehouse, candles(20), seconds=60) == Stored()
    assert everything(warehouse) == before


def test_a_late_correction_wins_and_what_it_replaced_is_kept(warehouse: Warehouse):
    stored(warehouse, flat(1.5, 0, 1, 2))
    assert stored(warehouse, flat(2.5, 1), seconds=60) == Stored(revised=1)
    assert values(warehouse) == [(moment(0), 1.5), (moment(1), 2.5), (moment(2), 1.5)]
    fetched = query(warehouse, "select fetched_at from fair.raw_candles order by open_time")
    assert fetched == [(naive(0),), (naive(60),), (naive(0),)]
    revisions = query(
        warehouse,
        "select instrument, timeframe, open_time, open, high, low, close, volume, source, fetched_at, replaced_at "
        "from fair.raw_candle_revisions",
    )
    assert revisions == [("BTC/USD", "m5", moment(1), *[1.5] * 4, 1.0, "test", naive(0), naive(60))]


def test_each_of_several_corrections_is_kept(warehouse: Warehouse):
    for second, price in enumerate((1.5, 2.5, 3.5, 2.5)):
        stored(warehouse, flat(price, 0), seconds=second)
    assert values(warehouse) == [(moment(0), 2.5)]
    revisions = query(
        warehouse, "select close, fetched_at, replaced_at from fair.raw_candle_revisions order by replaced_at"
    )
    assert revisions == [(1.5, naive(0), naive(1)), (2.5, naive(1), naive(2)), (3.5, naive(2), naive(3))]


@pytest.mark.parametrize("column", CANDLE_COLUMNS)
def test_a_change_of_any_column_is_a_correction(warehouse: Warehouse, column: str):
    wide = {"open": 5.0, "high": 9.0, "low": 1.0, "close": 5.0, "volume": 3.0}
    other = wide | {column: wide[column] + 0.5}
    first, second = (
        Candles(opens(1), {name: np.array([value]) for name, value in row.items()}) for row in (wide, other)
    )
    assert stored(warehouse, first) == Stored(added=1)
    assert stored(warehouse, second, seconds=1) == Stored(revised=1)
    assert query(warehouse, f"select {column} from fair.raw_candles") == [(other[column],)]


def test_a_volume_that_becomes_known_or_unknown_is_a_correction_and_staying_unknown_is_none(warehouse: Warehouse):
    unknown = float("nan")
    assert stored(warehouse, flat(1.5, 0, volume=unknown)) == Stored(added=1)
    assert query(warehouse, "select volume from fair.raw_candles") == [(None,)]
    assert stored(warehouse, flat(1.5, 0, volume=unknown), seconds=1) == Stored()
    assert stored(warehouse, flat(1.5, 0, volume=4.0), seconds=2) == Stored(revised=1)
    assert stored(warehouse, flat(1.5, 0, volume=unknown), seconds=3) == Stored(revised=1)
    revisions = query(warehouse, "select volume from fair.raw_candle_revisions order by replaced_at")
    assert revisions == [(None,), (4.0,)]


def test_of_duplicates_in_one_batch_the_last_wins_and_nothing_counts_as_revised(warehouse: Warehouse):
    batch = Candles.concatenated([flat(1.5, 2, 1, 0), flat(2.5, 1), flat(3.5, 1)])
    assert stored(warehouse, batch) == Stored(added=3)
    assert values(warehouse) == [(moment(0), 1.5), (moment(1), 3.5), (moment(2), 1.5)]
    assert values(warehouse, "raw_candle_revisions") == []


def test_candles_may_come_newest_first(warehouse: Warehouse):
    arrived = candles(50)
    stored(warehouse, Candles(arrived.open_time[::-1], {name: row[::-1] for name, row in arrived.columns.items()}))
    rows = query(warehouse, "select close from fair.raw_candles order by open_time")
    assert [row[0] for row in rows] == arrived["close"].tolist()


def test_quotes_are_kept_and_their_corrections_too(tmp_path: Path):
    market = market_of(two_sided=True)
    warehouse = prepared(tmp_path, market)
    results = []
    for second, price in enumerate((1.25, 1.75)):
        quoted = flat(1.5, 0)
        quoted = Candles(quoted.open_time, {**quoted.columns, "bid_close": np.array([price])})
        results.append(warehouse.store_candles(market, {BTC: quoted}, "test", at(second))[BTC])
    assert results == [Stored(added=1), Stored(revised=1)]
    assert query(warehouse, "select close, bid_close, ask_close from fair.raw_candles") == [(1.5, 1.75, None)]
    assert query(warehouse, "select bid_close from fair.raw_candle_revisions") == [(1.25,)]


# ---- what must not be stored


def test_a_candle_that_contradicts_itself_is_set_aside_with_the_reason(warehouse: Warehouse):
    assert stored(warehouse, Candles.concatenated([flat(1.5, 0), flat(-2.0, 1)])) == Stored(added=1, rejected=1)
    assert values(warehouse) == [(moment(0), 1.5)]
    rejected = query(warehouse, "select * from fair.rejected_candles")
    assert rejected == [("BTC/USD", "m5", moment(1), *[-2.0] * 4, 1.0, NOT_POSITIVE, None, "test", naive(0))]


def test_a_bad_candle_that_comes_again_is_counted_but_noted_once(warehouse: Warehouse):
    for second in range(3):
        assert stored(warehouse, flat(-2.0, 1, 1), seconds=second) == Stored(rejected=2)
    assert stored(warehouse, flat(-3.0, 1), seconds=9) == Stored(rejected=1)
    assert stored(warehouse, flat(-3.0, 1, volume=2.0), seconds=10) == Stored(rejected=1)
    assert query(warehouse, "select close, volume, rejected_at from fair.rejected_candles order by rejected_at") == [
        (-2.0, 1.0, naive(0)),
        (-3.0, 1.0, naive(9)),
        (-3.0, 2.0, naive(10)),
    ]


def test_a_bad_candle_replaces_no_good_one_neither_stored_nor_in_its_batch(warehouse: Warehouse):
    stored(warehouse, flat(1.5, 0))
    before = query(warehouse, "select * from fair.raw_candles")
    assert stored(warehouse, flat(-2.0, 0), seconds=1) == Stored(rejected=1)
    assert query(warehouse, "select * from fair.raw_candles") == before
    assert stored(warehouse, Candles.concatenated([flat(1.5, 1), flat(-2.0, 1)])) == Stored(added=1, rejected=1)
    assert values(warehouse) == [(moment(0), 1.5), (moment(1), 1.5)]
    assert warehouse.series_stats(MARKET, [BTC])[BTC].candle_count == 2


def test_bad_candles_alone_make_no_series(warehouse: Warehouse):
    assert stored(warehouse, flat(-2.0, 0)) == Stored(rejected=1)
    assert warehouse.series_stats(MARKET, [BTC]) == {BTC: SeriesStats()}
    assert len(warehouse.pending_recompute(MARKET, Table.enhanced_candles, [BTC]).series) == 0


def test_what_is_infinite_or_no_number_is_kept_aside_as_it_came(warehouse: Warehouse):
    arrived = Candles.concatenated([flat(float("inf"), 0), flat(float("nan"), 1), flat(2.0, 2, volume=float("inf"))])
    assert stored(warehouse, arrived) == Stored(rejected=3)
    rows = query(warehouse, "select close, volume from fair.rejected_candles order by open_time")
    assert rows == [(float("inf"), 1.0), (None, 1.0), (2.0, float("inf"))]


def test_a_candle_without_an_opening_time_is_set_aside(warehouse: Warehouse):
    lost = Candles(np.array(["NaT"], dtype="datetime64[us]"), flat(1.5, 0).columns)
    for second in range(2):
        assert stored(warehouse, Candles.concatenated([lost, flat(1.5, 7)]), seconds=second).rejected == 1
    assert values(warehouse) == [(moment(7), 1.5)]
    assert query(warehouse, "select open_time, reason from fair.rejected_candles") == [(None, "open_time is missing")]


def test_rows_that_are_no_candles_are_kept_as_text_once(warehouse: Warehouse):
    rows = [Malformed("2024-01-01,x", "no number: 'x'"), Malformed("half \ud83d", "no row"), Malformed("", "empty")]
    arrived = flat(1.5, 0, malformed=[*rows, rows[0]])
    assert stored(warehouse, arrived) == Stored(added=1, rejected=4)
    assert stored(warehouse, arrived, seconds=60) == Stored(rejected=4)
    assert stored(warehouse, flat(1.5, malformed=rows), seconds=60, series=ETH) == Stored(rejected=3)
    rejected = query(
        warehouse,
        "select instrument, open_time, close, reason, received, rejected_at from fair.rejected_candles "
        "order by instrument desc, reason desc",
    )
    assert rejected[3:] == [
        ("BTC/USD", None, None, "malformed row: no row", "half ", naive(0)),
        ("BTC/USD", None, None, "malformed row: no number: 'x'", "2024-01-01,x", naive(0)),
        ("BTC/USD", None, None, "malformed row: empty", "", naive(0)),
    ]
    assert {row[0] for row in rejected[:3]} == {"ETH/USD"}


@pytest.mark.parametrize("place", [0, 777, 4999])
def test_one_bad_candle_among_thousands_is_found_wherever_it_lies(warehouse: Warehouse, place: int):
    # DuckDB 1.5 guesses a column's type from a sample of a thousand rows, and fails where it holds nothing.
    arrived = candles(5000)
    arrived["low"][place] = -1.0
    assert stored(warehouse, arrived) == Stored(added=4999, rejected=1)
    assert query(warehouse, "select open_time, reason from fair.rejected_candles") == [(moment(place), NOT_POSITIVE)]


def test_nothing_that_arrived_is_nothing_to_do(warehouse: Warehouse):
    before = everything(warehouse)
    assert warehouse.store_candles(MARKET, {}, "test", NOW) == {}
    assert warehouse.store_candles(MARKET, {BTC: Candles.none()}, "test", NOW) == {BTC: Stored()}
    assert everything(warehouse) == before


# ---- what follows from it


def test_only_what_changed_makes_a_series_stale_and_from_its_first_candle_on(warehouse: Warehouse):
    stored(warehouse, candles(50))
    stored(warehouse, flat(1.5, 3), series=ETH)
    for series in (BTC, ETH):
        warehouse.refresh_tail(MARKET, Table.enhanced_candles, [series])
    stored(warehouse, candles(50), seconds=1)
    assert len(warehouse.pending_recompute(MARKET, Table.enhanced_candles, MARKET.series).series) == 0
    stored(warehouse, flat(1.5, 40, 20, 60), seconds=2)
    pending = warehouse.pending_recompute(MARKET, Table.enhanced_candles, MARKET.series)
    assert pending.series == [BTC]
    assert pending.since.tolist() == [moment(20)]


@dataclass
class Model:
    """What should be stored, in plain Python."""

    candles: dict[Series, dict[int, float]] = field(default_factory=dict)
    replaced: list[tuple[str, int, float]] = field(default_factory=list)
    rejected: set[tuple[str, int, float]] = field(default_factory=set)

    def store(self, batch: Mapping[Series, Sequence[tuple[int, float]]]) -> dict[Series, Stored]:
        return {series: self._store_one(series, rows) for series, rows in batch.items()}

    def _store_one(self, series: Series, rows: Sequence[tuple[int, float]]) -> Stored:
        good = {number: price for number, price in rows if price > 0}
        bad = [(series.instrument, number, price) for number, price in rows if price <= 0]
        held = self.candles.setdefault(series, {})
        other = {number for number in good if number in held and held[number] != good[number]}
        result = Stored(len(good.keys() - held.keys()), len(other), len(bad))
        self.replaced += [(series.instrument, number, held[number]) for number in other]
        self.rejected |= set(bad)
        held |= good
        return result


ROWS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([1.5, 2.5, 3.5, -1.0])), max_size=12)
BATCHES = st.lists(st.dictionaries(st.sampled_from([BTC, ETH]), ROWS, min_size=1), min_size=1, max_size=6)


@settings(max_examples=examples(5), deadline=None)
@given(batches=BATCHES)
def test_whatever_arrives_in_whatever_order_the_tables_say_what_a_dictionary_would(batches):
    model = Model()
    with tempfile.TemporaryDirectory() as folder, connect(str(Path(folder) / "warehouse.duckdb")) as connection:
        with transaction(connection):
            column_versions.ensure(connection, "fair", (), two_sided=False)
        for second, batch in enumerate(batches):
            arrivals = {series: _candles_of(rows) for series, rows in batch.items()}
            staged = Staged.of(arrivals, candle_columns(two_sided=False))
            with transaction(connection):
                result = store(connection, "fair", staged, "test", at(second))
            assert result == model.store(batch)
            _assert_is(connection, model)


def _candles_of(rows: Sequence[tuple[int, float]]) -> Candles:
    return Candles.concatenated([flat(price, number) for number, price in rows])


def _assert_is(connection: duckdb.DuckDBPyConnection, model: Model) -> None:
    def rows(table: str) -> list[tuple]:
        number = "(epoch(open_time) - epoch(timestamp '2024-01-01'))::integer // 300"
        return connection.execute(f"select instrument, {number}, close from fair.{table} order by all").fetchall()

    held = {series: stored for series, stored in model.candles.items() if stored}
    expected = [(series.instrument, *row) for series, stored in held.items() for row in stored.items()]
    assert rows("raw_candles") == sorted(expected)
    assert rows("raw_candle_revisions") == sorted(model.replaced)
    assert rows("rejected_candles") == sorted(model.rejected)
    counts = connection.execute(
        "select instrument, candle_count, first_open_time, last_open_time from fair.series"
    ).fetchall()
    assert sorted(counts) == sorted(
        (series.instrument, len(stored), moment(min(stored)), moment(max(stored))) for series, stored in held.items()
    )


# ---- when something goes wrong in the middle, and when several are at it


class Interrupted:
    """A connection that fails when a certain statement is due."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, fatal: int) -> None:
        self._connection, self._left = connection, fatal

    def execute(self, statement: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        self._left -= 1
        if self._left < 0 and statement != "rollback":
            raise KeyboardInterrupt
        return self._connection.execute(statement, parameters)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


@of_a_file("the test stands before its connection")
def test_a_batch_that_is_interrupted_anywhere_leaves_nothing_and_can_be_stored_again(warehouse: Warehouse):
    stored(warehouse, flat(1.5, 0))
    before = everything(warehouse)
    batch = {BTC: flat(2.5, 0, 1), ETH: Candles.concatenated([flat(1.5, 0), flat(-1.0, 1)])}
    staged = Staged.of(batch, candle_columns(two_sided=False))
    interruptions = 0
    while True:
        try:
            with connect(warehouse.database) as connection:
                doomed: duckdb.DuckDBPyConnection = Interrupted(connection, interruptions)  # type: ignore[assignment]
                with transaction(doomed):
                    result = store(doomed, "fair", staged, "test", NOW)
            break
        except KeyboardInterrupt:
            interruptions += 1
            assert everything(warehouse) == before
    assert interruptions > 10
    assert result == {BTC: Stored(added=1, revised=1), ETH: Stored(added=1, rejected=1)}


@of_a_file("each statement of a lake is several")
def test_a_process_that_is_killed_between_any_two_statements_loses_and_doubles_nothing(warehouse: Warehouse):
    stored(warehouse, flat(1.5, 0))
    with child("die_at_each_statement", warehouse.database) as children:
        *deaths, last = finished(children).splitlines()
    assert len(deaths) > 10
    assert set(deaths) == {"[1, 0, 0] counted 1"}
    assert last == "[2, 1, 1] counted 2"


def test_a_process_that_is_killed_at_any_moment_leaves_a_file_that_opens_and_agrees_with_itself(warehouse: Warehouse):
    corrections = 0
    for moments in range(3):
        with child("fill", warehouse.database, "BTC/USD", 1000, "tell") as process:
            told = [says(process) for _ in range(moments + 1)]
            # It is at the next candle; where in its work is chance.
            process.kill()
            process.wait()
        assert told == [f"{number} stored" for number in range(moments + 1)]
        assert _corrections(warehouse) >= corrections + moments + 1
        corrections = _corrections(warehouse)
        held = query(warehouse, "select candle_count, first_open_time, last_open_time from fair.series")
        stored = query(warehouse, "select count(*), min(open_time), max(open_time) from fair.raw_candles")
        assert held == stored
        assert query(warehouse, "select count(distinct open_time) from fair.raw_candles") == [(held[0][0],)]


def _corrections(warehouse: Warehouse) -> int:
    return query(warehouse, "select count(*) from fair.raw_candle_revisions")[0][0]


def test_two_processes_store_different_series_at_once(warehouse: Warehouse):
    with ExitStack() as stack:
        fillers = [
            stack.enter_context(child("fill", warehouse.database, series.instrument, 5)) for series in (BTC, ETH)
        ]
        reader = stack.enter_context(child("hold", warehouse.database, "read"))
        assert says(reader) == "open"
        reader.kill()
        assert [finished(filler) for filler in fillers] == ["", ""]
    counts = query(warehouse, "select instrument, count(*), min(close), max(close) from fair.raw_candles group by 1")
    assert sorted(counts) == [("BTC/USD", 5, 2.5, 2.5), ("ETH/USD", 5, 2.5, 2.5)]
    assert query(warehouse, "select count(*) from fair.raw_candle_revisions") == [(10,)]
    assert {held.candle_count for held in warehouse.series_stats(MARKET, [BTC, ETH]).values()} == {5}
