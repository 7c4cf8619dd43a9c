"""Arrays on their way into DuckDB and out of it: what becomes of NULL, NaN, masks and text, in every release."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from refresh_pipeline.warehouse.arrays import arrays_of, numbered, plain, registered, texts
from refresh_pipeline.warehouse.connection import connect
from refresh_pipeline_tests.warehouse.warehouse_fixtures import BTC, ETH


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(str(tmp_path / "warehouse.duckdb")) as opened:
        yield opened


def test_what_is_unknown_is_null_inside_and_nan_nat_or_none_outside(connection: duckdb.DuckDBPyConnection):
    arrays = {
        "price": np.array([1.5, np.nan, np.inf]),
        "time": np.array(["2024-01-01", "NaT", "2024-01-02"], dtype="datetime64[us]"),
        "text": np.array(["a", None, "b"], dtype=object),
    }
    with registered(connection, "given", arrays):
        counts = connection.execute("select count(price), count(time), count(text) from given").fetchall()
        back = arrays_of(connection, "select * from given")
    assert counts == [(2, 2, 2)]
    np.testing.assert_array_equal(back["price"], arrays["price"])
    np.testing.assert_array_equal(back["time"], arrays["time"])
    assert back["time"].dtype == "datetime64[us]"
    assert back["text"].tolist() == ["a", None, "b"]
    assert not any(isinstance(values, np.ma.MaskedArray) for values in back.values())


def test_numbers_under_a_mask_do_not_get_in(connection: duckdb.DuckDBPyConnection):
    masked = np.ma.MaskedArray([1.0, 2.0], mask=[False, True])
    with registered(connection, "given", {"price": masked}):
        assert connection.execute("select * from given").fetchall() == [(1.0,), (None,)]


def test_whole_numbers_and_truths_with_nulls_come_out_as_floats(connection: duckdb.DuckDBPyConnection):
    back = arrays_of(connection, "select * from (values (1, true), (null, null)) t(number, truth)")
    np.testing.assert_array_equal(back["number"], [1.0, np.nan])
    np.testing.assert_array_equal(back["truth"], [1.0, np.nan])
    assert plain(np.array([1, 2])).dtype == np.int64


@pytest.mark.parametrize("rows", [0, 1, 999, 1001, 50_000])
def test_a_text_is_found_wherever_it_lies_among_nulls(connection: duckdb.DuckDBPyConnection, rows: int):
    for place in {0, rows // 2 + 7, rows - 1} & set(range(rows)):
        column = np.full(rows, None, dtype=object)
        column[place] = "here"
        with registered(connection, "given", {"text": column}):
            assert connection.execute("select text from given where text is not null").fetchall() == [("here",)]
    with registered(connection, "given", {"text": np.full(rows, None, dtype=object)}):
        assert connection.execute("select typeof(text) from given limit 1").fetchall() in ([], [("VARCHAR",)])


def test_text_that_is_no_unicode_gets_in_all_the_same(connection: duckdb.DuckDBPyConnection):
    with registered(connection, "given", {"text": texts(["half \ud83d of a smile", "whole 😀", "nul \0", None])}):
        found = connection.execute("select text from given").fetchall()
    assert found == [("half ? of a smile",), ("whole 😀",), ("nul \0",), (None,)]


def test_a_batch_of_no_series_joins_with_nothing(connection: duckdb.DuckDBPyConnection):
    with registered(connection, "wanted", numbered([])), registered(connection, "known", numbered([BTC, ETH])):
        assert connection.execute("select * from wanted join known using (instrument)").fetchall() == []


def test_a_view_is_gone_after_its_block_also_after_a_failure(connection: duckdb.DuckDBPyConnection):
    with pytest.raises(KeyError), registered(connection, "wanted", numbered([BTC])):
        raise KeyError
    with pytest.raises(duckdb.CatalogException):
        connection.execute("select * from wanted")
