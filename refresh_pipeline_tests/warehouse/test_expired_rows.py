"""Rows that are no longer stored: every door serves them as if they were, to the bit; nothing is written for them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from refresh_pipeline.api import frames
from refresh_pipeline.api.frames import Names, columns_of
from refresh_pipeline.api.udf import Stretch, read_marks
from refresh_pipeline.client import ClientError
from refresh_pipeline.client.folder import FolderPlace
from refresh_pipeline.client.place import Question
from refresh_pipeline.market.export_spec import Layer, Window
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.notebook import candles as frame_of
from refresh_pipeline.warehouse.arrays import arrays_of
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.signals import newest_signals
from refresh_pipeline.warehouse.stored_values import rounded
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import command
from refresh_pipeline_tests.warehouse.warehouse_fixtures import (
    BTC,
    FIRST,
    FULL,
    NOW,
    candles,
    every_column,
    opens,
    query,
)

COUNT = 900
TABLES = (Table.enhanced_candles, Table.indicators)
YAML = (
    "{{name: fair, source: {{kind: demo}}, calendar: crypto, instruments: [BTC/USD], timeframes: [m5], history: 30d, "
    "indicators: {{compute: [ema_10, rsi, supertrend, vwap, zigzag], keep: {keep}}}}}"
)
EXPIRING, LASTING = (parse_market(YAML.format(keep=keep), file="fair.yaml") for keep in ("{m5: 1d}", "for ever"))


def made(folder: Path, market: Market) -> Warehouse:
    folder.mkdir(exist_ok=True)
    (folder / "fair.yaml").write_text(YAML.format(keep="{m5: 1d}" if market is EXPIRING else "for ever"))
    warehouse = Warehouse(database=str(folder / "refresh.duckdb"), patience=30)
    warehouse.prepare(market)
    warehouse.store_candles(market, {BTC: candles(COUNT)}, "test", NOW)
    for table in TABLES:
        warehouse.refresh_tail(market, table, [BTC])
    return warehouse


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return made(tmp_path_factory.mktemp("lasting"), LASTING)


@pytest.fixture(scope="module")
def expiring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    warehouse = made(tmp_path_factory.mktemp("expiring"), EXPIRING)
    stored = [query(warehouse, f"select count(*) from fair.{table}") for table in TABLES]
    # Whole days are dropped: of three days and three hours the last day and three hours are left.
    assert stored == [[(COUNT - 576,)]] * 2
    yield warehouse
    assert [query(warehouse, f"select count(*) from fair.{table}") for table in TABLES] == stored


def assert_same(found: dict[str, NDArray], wanted: dict[str, NDArray]) -> None:
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert len(found[name]) == len(values), name
        if values.dtype == object:
            assert found[name].tolist() == values.tolist(), name
        else:
            assert np.array_equal(found[name], values, equal_nan=values.dtype.kind in "fM"), name


WINDOWS = [
    frames.Window(2),
    frames.Window(COUNT),
    frames.Window(10, since=opens(1, 100)[0]),
    frames.Window(60, since=opens(1, 550)[0]),
    frames.Window(40, until=opens(1, 600)[0]),
    frames.Window(5, since=opens(1, 700)[0], until=opens(1, 703)[0]),
    frames.Window(5, until=opens(1, 0)[0]),
]


@pytest.mark.parametrize("layer", [Layer.enhanced, Layer.indicators, Layer.joined])
def test_the_api_serves_any_window(expiring: Warehouse, lasting: Warehouse, layer: Layer) -> None:
    columns = columns_of(EXPIRING, layer, Names.own)
    with expiring.reader() as some, lasting.reader() as every:
        for window in WINDOWS:
            for chosen in (columns, columns[:2]):
                found = frames.read_window(some, EXPIRING, chosen, BTC, window)
                assert_same(found, frames.read_window(every, LASTING, chosen, BTC, window))
            times = frames.read_times(some, EXPIRING, columns[0].table, BTC, window)
            assert times.tolist() == found["open_time"].tolist()


def test_marks_of_a_chart_reach_back(expiring: Warehouse, lasting: Warehouse) -> None:
    begin = int(FIRST.astype("datetime64[s]").astype(int))
    stretch = Stretch(begin, begin + 86400)
    with expiring.reader() as some, lasting.reader() as every:
        found = read_marks(some, EXPIRING, BTC, stretch)
        assert found == read_marks(every, LASTING, BTC, stretch)
    assert len(found) > 20


@pytest.mark.parametrize("window", [FULL, Window.model_validate({"last": 700}), Window.model_validate({"days": 2})])
@pytest.mark.parametrize("cells", [20_000, 12_000_000])
def test_exports_stay_complete(expiring: Warehouse, lasting: Warehouse, window: Window, cells: int) -> None:
    for columns in (every_column(EXPIRING), ["open_time", "close"]):
        [(_, pieces)] = expiring.pieces_to_export(EXPIRING, [BTC], columns, window, cells)
        found = list(pieces)
        [(_, [wanted])] = [(s, list(p)) for s, p in lasting.pieces_to_export(LASTING, [BTC], columns, window)]
        assert_same({name: np.concatenate([piece[name] for piece in found]) for name in found[0]}, dict(wanted))


def test_the_newest_rows_and_signals_reach_behind_the_stored_ones(expiring: Warehouse, lasting: Warehouse) -> None:
    for table, columns in ((Table.enhanced_candles, ["open_time", "close", "ao"]), (Table.indicators, ["rsi"])):
        found = expiring.newest_rows(EXPIRING, table, BTC, columns, 600)
        assert_same(found, lasting.newest_rows(LASTING, table, BTC, columns, 600))
    # As after a weekend: fewer bars are stored than signals are looked for in.
    later = made(Path(expiring.database).parent / "later", EXPIRING)
    with later.get_connection() as connection:
        connection.execute("delete from fair.enhanced_candles where open_time < ?", [opens(1, COUNT - 3)[0].item()])
        found = newest_signals(connection, EXPIRING, BTC.timeframe, [BTC.instrument])
    with lasting.reader() as connection:
        [wanted] = newest_signals(connection, LASTING, BTC.timeframe, [BTC.instrument])
    assert found[0].newest["fractal"] == wanted.newest["fractal"]
    assert found[0].newest.keys() == wanted.newest.keys()


def test_a_client_of_the_folder_gets_every_row(
    expiring: Warehouse, lasting: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    some, every = (FolderPlace(Path(each.database).parent) for each in (expiring, lasting))

    def asked(layer: str, since: int | None, until: int | None, limit: int | None) -> Question:
        first, end = (None if number is None else opens(1, number)[0].item() for number in (since, until))
        return Question(layer, "btcusd", "5m", None, first, end, limit, None)

    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(Path(lasting.database).parent))
    for layer in ("indicators", "enhanced"):
        for window in ((None, None, None), (120, None, 700), (120, 140, None), (None, None, 800), (None, 300, 10)):
            monkeypatch.setenv("REFRESH_MARKETS_DIR", str(Path(expiring.database).parent))
            question = asked(layer, *window)
            assert_same(dict(some.rows(question)), dict(every.rows(question)))
    # Without the YAML that says how, nothing is left out in silence; what is stored needs none.
    monkeypatch.setenv("REFRESH_MARKETS_DIR", "")
    with pytest.raises(ClientError, match=r"not stored, computing them takes the YAML of 'fair'.*REFRESH_MARKETS_DIR"):
        some.rows(asked("indicators", 120, 140, None))
    assert len(some.rows(asked("indicators", None, None, 5))["open_time"]) == 5
    (tmp_path / "fair.yaml").write_text(YAML.format(keep="{m5: 1d}").replace("calendar: crypto", "calendar: fx"))
    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(tmp_path))
    with pytest.raises(ClientError, match="found another one"):
        some.rows(asked("indicators", 120, 140, None))


def test_a_notebook_and_a_query_get_every_row(
    expiring: Warehouse, lasting: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(expiring.database).parent
    monkeypatch.setenv("REFRESH_MARKETS_DIR", str(folder))
    frame = frame_of("fair", "BTC/USD", "m5", layer="indicators", data_dir=str(folder))
    with lasting.reader() as connection:
        wanted = arrays_of(connection, "select * from fair.indicators order by open_time")
    assert np.array_equal(frame["rsi"].to_numpy(), wanted["rsi"], equal_nan=True)
    call = "computed('fair.indicators', 'btcusd', 'm5', '2024-01-01', '2024-01-02')"
    sql = f"select count(*) as n, sum(rsi) as s from {call}"
    answer = command("query", sql, "--csv", "--data-dir", str(folder))
    assert answer.exit_code == 0, answer.output
    count, total = answer.output.splitlines()[1].split(",")
    assert (int(count), float(total)) == (288, pytest.approx(np.nansum(wanted["rsi"][:288]), rel=1e-12))
    answer = command("query", "select count(*) from fair.indicators", "--data-dir", str(folder))
    assert "fair.indicators holds rows of m5 of the last 1 day; older ones: from computed(" in answer.output


def test_indicators_are_stored_with_ten_digits_behind_the_first() -> None:
    values = np.random.default_rng(3).standard_normal(10_000) * 10.0 ** np.arange(-5, 5).repeat(1000)
    found = rounded(values)
    assert np.abs(found / values - 1).max() <= 5e-11
    assert np.array_equal(rounded(found), found)
    assert [float(f"{value:.11e}") for value in found] == found.tolist()
