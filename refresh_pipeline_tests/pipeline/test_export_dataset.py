"""Files that hold all instruments of a timeframe and a stretch of time: only stretches that changed are written."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from refresh_pipeline.market.adjustments import Adjustment, AdjustmentKind
from refresh_pipeline.market.candles import Candles
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.pipeline import export
from refresh_pipeline.pipeline.export_verification import verify
from refresh_pipeline.pipeline.forgotten_files import delete_files
from refresh_pipeline.pipeline.quality import export_verdict
from refresh_pipeline.warehouse.outcomes import Outcome
from refresh_pipeline.warehouse.schema import Table
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, LATER, World
from refresh_pipeline_tests.step_helpers import BTC, ETH, computed, exported, fetched, outcomes, uploaded
from refresh_pipeline_tests.warehouse import warehouse_fixtures
from refresh_pipeline_tests.warehouse.warehouse_fixtures import NOW, opens, prices, query

FOLDER = "bazaar/dataset/timeframe=m15"
FILES = [f"{FOLDER}/2026-05-31.parquet", f"{FOLDER}/2026-06-01.parquet"]


@pytest.fixture(scope="module")
def once(founded: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose market says nothing of exports, with the files of three series; to be copied."""
    world = founded.copied(tmp_path_factory.mktemp("once") / "world")
    (world.root / "markets" / "bazaar.yaml").write_text(FEW_INDICATORS)
    with inside(world.root):
        fetched(world)
        computed(world)
        exported(world)
    return world


@pytest.fixture
def made(once: World, tmp_path: Path) -> Iterator[World]:
    """A copy of it, and this process inside."""
    world = once.copied(tmp_path / "world")
    with inside(world.root):
        yield world


def read(world: World, question: str) -> list[tuple]:
    files = world.settings.exports_dir / "bazaar/dataset/*/*.parquet"
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return connection.execute(f"{question} from read_parquet('{files}', hive_partitioning = true)").fetchall()


def test_candles_are_text_and_everything_is_one_dataset_by_default(made: World) -> None:
    candles = [f"bazaar/candles/{name}-USD_m15.csv" for name in ("BTC", "ETH", "SOL")]
    assert [name for name in made.files("exports") if name.startswith("bazaar")] == [*candles, *FILES]
    assert made.query("select instrument, layer, rows from bazaar.exports where instrument = '*' order by path") == [
        ("*", "joined", 144),
        ("*", "joined", 144),
    ]
    tables = made.query(
        "select e.instrument, e.open_time, close, ao, sma_10 from bazaar.enhanced_candles e "
        "join bazaar.indicators i using (instrument, timeframe, open_time) order by all"
    )
    assert len(tables) == 288
    held = read(made, "select instrument, open_time::timestamp, close, ao, sma_10")
    assert sorted(held, key=lambda row: row[:2]) == tables
    assert read(made, "select distinct timeframe") == [("m15",)]
    assert verify(made.warehouse, made.market, made.settings.exports_dir, made.market.series) == (5, [])


def test_a_new_candle_rewrites_the_stretches_that_it_changes_alone(made: World) -> None:
    before = made.files("exports")
    fetched(made, LATER, [BTC])
    computed(made, [BTC])
    done = exported(made, LATER)
    assert outcomes(done) == [Outcome.updated, Outcome.unchanged, Outcome.unchanged]
    after = made.files("exports")
    changed = {name for name in before if after[name] != before[name]}
    assert {"bazaar/candles/BTC-USD_m15.csv", FILES[1]} <= changed <= {"bazaar/candles/BTC-USD_m15.csv", *FILES}
    assert read(made, "select count(*), count(distinct (instrument, open_time))") == [(288 + 8, 288 + 8)]
    assert verify(made.warehouse, made.market, made.settings.exports_dir, made.market.series) == (5, [])
    assert outcomes(exported(made, LATER)) == [Outcome.unchanged] * 3
    assert made.files("exports") == after


def test_a_lost_file_is_written_again_and_a_spoiled_one_is_found(made: World) -> None:
    root = made.settings.exports_dir
    before = made.files("exports")
    (root / FILES[0]).unlink()
    assert verify(made.warehouse, made.market, root, [BTC])[1][0].what == f"{FILES[0]}: the file is gone"
    exported(made)
    assert made.files("exports")[FILES[0]][0] == before[FILES[0]][0]
    (root / FILES[1]).write_bytes((root / FILES[0]).read_bytes())
    words = [fault.what for fault in verify(made.warehouse, made.market, root, made.market.series)[1]]
    assert f"{FILES[1]}: the file is not the one that was written" in words
    assert [fault.what for fault in export_verdict(made.warehouse, made.market, root).faults] == words[:1]


def test_a_series_that_is_forgotten_leaves_no_row_and_files_of_another_shape_go(made: World) -> None:
    made.change("delete from bazaar.series where instrument = 'BTC/USD'")
    made.change("delete from bazaar.raw_candles where instrument = 'BTC/USD'")
    made.change("delete from bazaar.enhanced_candles where instrument = 'BTC/USD'")
    assert delete_files(made.warehouse, made.market, made.settings.exports_dir) == ["export files deleted: 3"]
    exported(made)
    assert sorted(read(made, "select distinct instrument")) == [("ETH/USD",), ("SOL/USD",)]
    (made.settings.exports_dir / FOLDER / "2020-01-01.parquet").touch()
    exports = "exports: {dataset: {layout: dataset, compression: snappy}}\n"
    (made.root / "markets" / "bazaar.yaml").write_text(FEW_INDICATORS + exports)
    assert outcomes(exported(made))[1] is Outcome.unchanged
    assert [name for name in made.files("exports") if "dataset" in name] == FILES
    assert made.query("select distinct shape from bazaar.exports where instrument = '*'") == [
        ("dataset snappy full typed",)
    ]
    assert [file.path for file in export.current_files(made.warehouse, made.market)] == FILES


def test_a_dataset_is_uploaded_and_a_failure_fails_each_of_its_series(made: World) -> None:
    in_the_way = made.root / "there" / FILES[1]
    in_the_way.mkdir(parents=True)
    done = uploaded(made)
    assert outcomes(done) == [Outcome.failed] * 3
    assert FILES[1] in str(done[ETH].reason)
    in_the_way.rmdir()
    assert outcomes(uploaded(made)) == [Outcome.updated] * 3
    assert (made.root / "there" / FILES[1]).read_bytes() == (made.settings.exports_dir / FILES[1]).read_bytes()
    assert outcomes(uploaded(made, batch=[BTC, Series("ETH/USD", Timeframe.m15)])) == [Outcome.unchanged] * 2


MINUTES = (Series("BTC/USD", Timeframe.m1), Series("ETH/USD", Timeframe.m1))


def of_minutes(keep: str) -> Market:
    text = (
        "{name: fair, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD, ETH/USD], timeframes: [m1], "
        f"history: 30d, indicators: {{compute: [sma_10, rsi, zigzag], keep: {keep}}}, "
        "exports: {dataset: {layout: dataset}}}"
    )
    return parse_market(text, file="fair.yaml")


def minutes(*numbers: int) -> Candles:
    """Candles of the minutes of these numbers."""
    every = opens(max(numbers) + 1, 0, Timeframe.m1)
    return Candles(every[[*numbers]], prices(len(numbers), seed=len(numbers)))


def stored_and_exported(warehouse: Warehouse, market: Market, root: Path, arrivals: dict[Series, Candles]) -> None:
    warehouse.store_candles(market, arrivals, "test", NOW)
    for table in (Table.enhanced_candles, Table.indicators):
        warehouse.refresh_tail(market, table, MINUTES)
    done = export.export(warehouse, market, root, MINUTES, NOW)
    assert Outcome.failed not in outcomes(done)


def files_below(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.rglob("*.parquet"))}


def test_a_stretch_whose_rows_have_expired_is_rewritten_with_every_row(tmp_path: Path) -> None:
    # Three hours, and an hour of the second day after. The second series begins within a stretch of the first.
    newest = range(2 * 1440, 2 * 1440 + 60)
    history = {MINUTES[0]: minutes(*range(180), *newest), MINUTES[1]: minutes(*range(90, 180), *newest)}
    held = []
    for keep, stored in (("{m1: 1d}", newest[0]), ("for ever", 0)):
        market, folder = of_minutes(keep), tmp_path / str(stored)
        folder.mkdir()
        warehouse = warehouse_fixtures.prepared(folder, market)
        stored_and_exported(warehouse, market, folder / "exports", history)
        before = files_below(folder / "exports")
        stored_and_exported(warehouse, market, folder / "exports", {MINUTES[0]: minutes(100)})
        [(oldest,)] = query(warehouse, "select min(open_time) from fair.indicators")
        assert oldest == opens(1, stored, Timeframe.m1)[0].item()
        after = files_below(folder / "exports")
        assert len(after) == len(before) == 4
        assert [*after.values()][1] != [*before.values()][1]
        assert verify(warehouse, market, folder / "exports", MINUTES) == (len(after), [])
        held.append(after)
    assert held[0] == held[1]


def of_shares(adjusted: str = "true") -> Market:
    text = (
        "{name: fair, source: {kind: demo}, calendar: crypto, instruments: [BTC/USD, ETH/USD], timeframes: [m1], "
        "history: 30d, indicators: {compute: [sma_10]}, exports: {default: {layers: candles, formats: csv}, "
        f"paper: {{layers: candles, adjusted: {adjusted}, formats: [csv, parquet]}}, "
        f"together: {{layers: candles, layout: dataset, adjusted: {adjusted}}}}}}}"
    )
    return parse_market(text, file="fair.yaml")


def closes(root: Path, name: str) -> list[float]:
    """The closes of one instrument in files of any layout."""
    files = str(root / "fair" / name)
    with duckdb.connect() as connection:
        found = connection.execute(f"select close from '{files}' order by open_time").fetchall()
    return [close for (close,) in found]


def told(warehouse: Warehouse, market: Market, minute: int, kind: AdjustmentKind, value: float) -> None:
    ex_time = opens(1, minute, Timeframe.m1)[0]
    warehouse.store_adjustments(market, [Adjustment("BTC/USD", ex_time, kind, value, False)], "test", NOW)


def agrees(warehouse: Warehouse, market: Market, root: Path) -> list[float]:
    """The adjusted closes: the same in the view and in every file; the raw file has those of the table."""
    question = "select close from fair.{} where instrument = 'BTC/USD' order by open_time"
    held = [close for (close,) in query(warehouse, question.format("adjusted_candles"))]
    for name in ("paper/candles/BTC-USD_m1.csv", "paper/candles/BTC-USD_m1.parquet"):
        assert closes(root, name) == held
    both = closes(root, "together/candles/timeframe=m1/*.parquet")
    other = [close for (close,) in query(warehouse, question.format("raw_candles").replace("BTC", "ETH"))]
    assert sorted(both) == sorted([*held, *other])
    raw = [close for (close,) in query(warehouse, question.format("raw_candles"))]
    assert closes(root, "candles/BTC-USD_m1.csv") == raw != held
    return held


def test_adjusted_files_follow_splits_dividends_and_corrections_and_raw_ones_stay(tmp_path: Path) -> None:
    market, root = of_shares(), tmp_path / "exports"
    warehouse = warehouse_fixtures.prepared(tmp_path, market)
    told(warehouse, market, 100, AdjustmentKind.split, 4.0)
    stored_and_exported(warehouse, market, root, dict.fromkeys(MINUTES, minutes(*range(180))))
    first = agrees(warehouse, market, root)
    raw = (root / "fair/candles/BTC-USD_m1.csv").read_bytes()
    assert first[99] == minutes(*range(180))["close"][99] / 4
    # The last candle before the dividend is of the second hour; its files of the first hour follow all the same.
    told(warehouse, market, 150, AdjustmentKind.dividend, 2.0)
    stored_and_exported(warehouse, market, root, {})
    second = agrees(warehouse, market, root)
    assert (second[0] < first[0], second[150:]) == (True, first[150:])
    assert (root / "fair/candles/BTC-USD_m1.csv").read_bytes() == raw
    stored_and_exported(warehouse, market, root, {MINUTES[0]: minutes(149)})
    third = agrees(warehouse, market, root)
    assert third[0] != second[0]
    # A new candle changes nothing before it; no file of another stretch is written.
    before = files_below(root)
    stored_and_exported(warehouse, market, root, {each: minutes(180) for each in MINUTES})
    assert agrees(warehouse, market, root)[:180] == third
    kept = {name for name, content in files_below(root).items() if before.get(name) == content}
    assert kept == {f"2024-01-01T0{hour}.parquet" for hour in range(3)}
    # What the YAML no longer asks for now stands in the manifest: a split of meanwhile is not missed.
    told(warehouse, of_shares("false"), 170, AdjustmentKind.split, 2.0)
    stored_and_exported(warehouse, market, root, {})
    assert agrees(warehouse, market, root)[0] == third[0] / 2
    assert verify(warehouse, market, root, MINUTES)[1] == []
