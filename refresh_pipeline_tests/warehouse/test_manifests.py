"""What leaves the warehouse: the rows of exports, the manifests, and which series count as published."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, QUOTE_COLUMNS
from refresh_pipeline.market.export_spec import Window
from refresh_pipeline.market.series import Series
from refresh_pipeline.warehouse import manifests
from refresh_pipeline.warehouse.manifests import Exported, Published, Selection
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.lake_server import copied
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    ETH,
    FULL,
    NOW,
    SHIPPED_TABLES,
    at,
    candles,
    every_column,
    flat,
    market_of,
    opens,
    prepared,
    query,
)

MARKET = market_of()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Two series with everything computed; to be copied."""
    warehouse = prepared(tmp_path_factory.mktemp("made"), MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(60), ETH: candles(40, seed=1)}, "test", NOW)
    computed(warehouse)
    return warehouse


@pytest.fixture
def warehouse(made: Warehouse, tmp_path: Path) -> Warehouse:
    """A copy of it."""
    return Warehouse(database=copied(made.database, tmp_path))


def computed(warehouse: Warehouse) -> None:
    for table in SHIPPED_TABLES:
        warehouse.refresh_tail(MARKET, table, MARKET.series)


def rows_of(
    warehouse: Warehouse, batch: Sequence[Series], window: Window = FULL, columns: Sequence[str] = ()
) -> Iterator[tuple[Series, Mapping[str, np.ndarray]]]:
    return warehouse.rows_to_export(MARKET, batch, columns or every_column(MARKET), window)


def file_of(series: Series, kind: str = "csv", sha256: str = "a1") -> Exported:
    path = f"fair/{series.file_stem}.{kind}"
    shown = ("default", "joined", kind, path, "plain none full")
    return Exported(series, *shown, 60, 1234, sha256, at(0).replace(tzinfo=None), at(60).replace(tzinfo=None))


def upload_of(series: Series, kind: str = "csv", content_hash: str = "c1") -> Published:
    path = f"fair/{series.file_stem}.{kind}"
    return Published(series, "uploads", kind, path, f"file:///there/{path}", 1234, "a1", content_hash, "sha256")


def unpublished(warehouse: Warehouse) -> list[Series]:
    return list(warehouse.pending_recompute(MARKET, Table.exports, MARKET.series).series)


# ---- rows


def test_a_series_leaves_with_its_candles_and_everything_computed_oldest_first(warehouse: Warehouse):
    rows = dict(rows_of(warehouse, [ETH, BTC]))
    assert [*rows] == [ETH, BTC]
    own = manifests.joined_columns(SHIPPED_TABLES.values())
    assert [*rows[BTC]] == ["open_time", *CANDLE_COLUMNS, *own]
    assert {name for name, (_, column) in own.items() if name != column} == {*("indicators_ao", "indicators_ac")}
    np.testing.assert_array_equal(rows[BTC]["open_time"], opens(60))
    for name, values in candles(60).columns.items():
        np.testing.assert_array_equal(rows[BTC][name], values)
    for computation in SHIPPED_TABLES.values():
        names = [column.name for column in computation.columns]
        stored = query(
            warehouse,
            f"select {', '.join(names)} from fair.{computation.name} where instrument = 'ETH/USD' order by open_time",
        )
        exported = {of: name for name, of in own.items()}
        columns = [rows[ETH][exported[computation.name, name]].tolist() for name in names]
        given = [tuple(None if value != value else value for value in row) for row in zip(*columns, strict=True)]
        assert given == stored


@pytest.mark.parametrize(
    ("window", "first_bar"),
    [
        (Window(last=10), {BTC: 50, ETH: 30}),
        (Window(last=50), {BTC: 10, ETH: 0}),
        (Window(days=1), {BTC: 0, ETH: 0}),
    ],
)
def test_a_window_leaves_the_same_rows_as_the_whole_has_there(
    warehouse: Warehouse, window: Window, first_bar: dict[Series, int]
):
    whole = dict(rows_of(warehouse, [BTC, ETH]))
    for series, rows in rows_of(warehouse, [BTC, ETH], window):
        for name, values in rows.items():
            np.testing.assert_array_equal(values, whole[series][name][first_bar[series] :])


def test_a_window_of_days_ends_that_long_before_the_newest_candle(tmp_path: Path):
    warehouse = prepared(tmp_path, MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(700)}, "test", NOW)
    warehouse.refresh_tail(MARKET, Table.enhanced_candles, [BTC])
    [(_, rows)] = rows_of(warehouse, [BTC], Window(days=2), ["open_time"])
    np.testing.assert_array_equal(rows["open_time"], opens(700)[-576:])


def test_only_the_columns_that_are_wanted_leave(warehouse: Warehouse):
    [(_, rows)] = rows_of(warehouse, [BTC], columns=["open_time", "sma_10", "close"])
    assert [*rows] == ["open_time", "sma_10", "close"]
    np.testing.assert_array_equal(rows["close"], candles(60).columns["close"])


def test_in_chunks_or_at_once_the_rows_are_the_same(warehouse: Warehouse):
    selection = Selection(SHIPPED_TABLES.values(), every_column(MARKET), FULL)
    wanted = partial(manifests.rows_to_export, warehouse.get_connection, MARKET, selection, [BTC, ETH])
    at_once, in_chunks = dict(wanted()), dict(wanted(cells_at_once=100))
    assert [*at_once] == [*in_chunks]
    for series, rows in at_once.items():
        for name, values in rows.items():
            np.testing.assert_array_equal(in_chunks[series][name], values)


def test_the_file_is_closed_while_rows_are_written_elsewhere(warehouse: Warehouse):
    for series, _ in rows_of(warehouse, [BTC, ETH]):
        with warehouse.reader() as connection:
            assert connection.execute("select 1").fetchall() == [(1,)], series


def test_what_is_not_computed_yet_leaves_as_unknown(tmp_path: Path):
    warehouse = prepared(tmp_path, MARKET)
    warehouse.store_candles(MARKET, {BTC: candles(60)}, "test", NOW)
    warehouse.refresh_tail(MARKET, Table.enhanced_candles, [BTC])
    rows = dict(rows_of(warehouse, [BTC, ETH]))
    assert len(rows[BTC]["sma_10"]) == 60
    assert np.isnan(rows[BTC]["sma_10"]).all()
    assert len(rows[ETH]["open_time"]) == 0
    assert list(rows_of(warehouse, [])) == []


def test_quotes_leave_too(tmp_path: Path):
    market = market_of(two_sided=True)
    warehouse = prepared(tmp_path, market)
    warehouse.store_candles(market, {BTC: candles(3)}, "test", NOW)
    warehouse.refresh_tail(market, Table.enhanced_candles, [BTC])
    [(_, rows)] = warehouse.rows_to_export(market, [BTC], every_column(market), FULL)
    assert set(QUOTE_COLUMNS) <= set(rows)


# ---- manifests


def test_a_manifest_says_what_was_written_in_the_order_of_the_question(warehouse: Warehouse):
    files = [file_of(series, kind) for series in (BTC, ETH) for kind in ("csv", "parquet")]
    pending = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.record_exports(MARKET, files, pending, NOW)
    assert warehouse.exported(MARKET, [ETH, BTC]) == [*files[2:], *files[:2]]
    assert warehouse.exported(MARKET, [ETH]) == files[2:]
    assert warehouse.exported(MARKET, []) == []


def test_a_file_that_is_written_again_replaces_its_row_alone(warehouse: Warehouse):
    pending = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.record_exports(MARKET, [file_of(BTC), file_of(BTC, "parquet"), file_of(ETH)], pending, NOW)
    warehouse.record_exports(MARKET, [file_of(BTC, sha256="b2")], pending.take(np.array([False, False])), at(60))
    assert warehouse.exported(MARKET, [BTC, ETH]) == [
        file_of(BTC, sha256="b2"),
        file_of(BTC, "parquet"),
        file_of(ETH),
    ]
    times = query(warehouse, "select distinct exported_at from fair.exports order by 1")
    assert times == [(at(0).replace(tzinfo=None),), (at(60).replace(tzinfo=None),)]


def test_uploads_are_noted_likewise(warehouse: Warehouse):
    warehouse.record_uploads(MARKET, [upload_of(BTC), upload_of(ETH)], NOW)
    warehouse.record_uploads(MARKET, [upload_of(BTC, content_hash="d2")], at(60))
    warehouse.record_uploads(MARKET, [], at(90))
    assert warehouse.uploaded(MARKET, "uploads", [BTC, ETH]) == [upload_of(BTC, content_hash="d2"), upload_of(ETH)]


# ---- which series are published


def test_a_series_is_due_until_its_files_are_recorded(warehouse: Warehouse):
    assert unpublished(warehouse) == [BTC, ETH]
    pending = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.record_exports(MARKET, [file_of(BTC)], pending.take(np.array([True, False])), NOW)
    assert unpublished(warehouse) == [ETH]
    warehouse.record_exports(MARKET, [], pending.take(np.array([False, False])), NOW)
    assert unpublished(warehouse) == [ETH]


def test_a_change_after_the_rows_were_read_keeps_the_series_due(warehouse: Warehouse):
    pending = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.store_candles(MARKET, {BTC: flat(7.0, 3)}, "test", at(1))
    computed(warehouse)
    warehouse.record_exports(MARKET, [file_of(BTC), file_of(ETH)], pending, at(2))
    assert unpublished(warehouse) == [BTC]


def test_files_older_than_what_somebody_else_published_meanwhile_are_due_again(warehouse: Warehouse):
    ours = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.store_candles(MARKET, {BTC: flat(7.0, 3)}, "test", at(1))
    computed(warehouse)
    theirs = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.record_exports(MARKET, [file_of(BTC, sha256="new"), file_of(ETH)], theirs, at(2))
    assert unpublished(warehouse) == []
    # Ours overwrote theirs on disk, and holds less.
    warehouse.record_exports(MARKET, [file_of(BTC, sha256="old")], ours.take(np.array([True, False])), at(3))
    assert unpublished(warehouse) == [BTC]


def test_a_file_that_was_lost_and_written_again_stays_settled(warehouse: Warehouse):
    pending = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.record_exports(MARKET, [file_of(BTC), file_of(ETH)], pending, NOW)
    nothing = warehouse.pending_recompute(MARKET, Table.exports, MARKET.series)
    warehouse.record_exports(MARKET, [file_of(BTC)], nothing, at(1))
    assert unpublished(warehouse) == []


# ---- series that are too long for memory


def test_a_long_series_is_read_in_ranges_of_time(warehouse: Warehouse) -> None:
    columns = every_column(MARKET)
    whole = dict(rows_of(warehouse, [BTC, ETH]))
    pieces = warehouse.pieces_to_export(MARKET, [BTC, ETH], columns, FULL, cells_at_once=30 * len(columns))
    for series, ranges in pieces:
        read = list(ranges)
        assert [len(piece["open_time"]) for piece in read[:-1]] == [10] * (len(read) - 1)
        assert len(read) > 3
        for name in columns:
            both = np.concatenate([piece[name] for piece in read]), whole[series][name]
            np.testing.assert_array_equal(both[0].astype(str), both[1].astype(str))


def test_a_query_that_fails_for_several_series_fails_for_those_alone_that_it_fails_for(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = manifests._chunk_rows

    def out_of_memory(connect: object, market: object, selection: object, chunk: Sequence[Series], since: object):
        if ETH in chunk:
            raise duckdb.OutOfMemoryException("no room")
        return read(connect, market, selection, chunk, since)  # type: ignore[arg-type]

    monkeypatch.setattr(manifests, "_chunk_rows", out_of_memory)
    answers = iter(warehouse.pieces_to_export(MARKET, [BTC, ETH], ["open_time"], FULL))
    series, pieces = next(answers)
    assert (series, sum(len(piece["open_time"]) for piece in pieces)) == (BTC, 60)
    series, pieces = next(answers)
    assert series == ETH
    with pytest.raises(duckdb.OutOfMemoryException):
        next(pieces)
