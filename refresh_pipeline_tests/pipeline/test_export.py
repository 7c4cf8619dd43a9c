"""Which files of a market are due, and what is in them: over real files and a real warehouse."""

import csv
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pytest
from arro3.io import read_ipc

from refresh_pipeline.analytics.enhanced_candles import ENHANCED_CANDLES
from refresh_pipeline.files import fx_refresh
from refresh_pipeline.files.reader import TableReader
from refresh_pipeline.market.candles import CANDLE_COLUMNS
from refresh_pipeline.market.export_spec import Layer
from refresh_pipeline.market.series import Series
from refresh_pipeline.pipeline import export
from refresh_pipeline.pipeline.export_verification import verify
from refresh_pipeline.pipeline.publish import publish_files
from refresh_pipeline.pipeline.status_report import write_status_report
from refresh_pipeline.warehouse.computations import computations
from refresh_pipeline.warehouse.manifests import joined_columns
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline_tests.project_folder import FEW_INDICATORS, LATER, NOW, World
from refresh_pipeline_tests.step_helpers import BTC, ETH, computed, exported, fetched, outcomes


def test_each_series_becomes_a_csv_and_a_parquet_file_with_every_column(wide_world: World) -> None:
    fetched(wide_world)
    computed(wide_world)
    done = exported(wide_world)
    assert outcomes(done) == [Outcome.updated] * 3
    assert [done[BTC].rows_added, done[BTC].metadata["files"]] == [96, 2]
    root = wide_world.settings.exports_dir / "bazaar"
    assert sorted(path.name for path in root.iterdir()) == sorted(
        f"{name}-USD_m15.{ending}" for name in ("BTC", "ETH", "SOL") for ending in ("csv", "parquet")
    )
    columns = [row[0] for row in wide_world.query(f"describe from '{root}/BTC-USD_m15.parquet'")]
    own = joined_columns(computations(wide_world.market).values())
    assert columns == ["open_time", *CANDLE_COLUMNS, *own]
    assert len(own) == len(wide_world.query("describe bazaar.enhanced_candles")) - 8 + (
        len(wide_world.query("describe bazaar.indicators")) - 3
    )
    assert (root / "BTC-USD_m15.csv").read_text().splitlines()[0].split(",") == columns
    assert wide_world.query(
        f"select (select count(*) from '{root}/BTC-USD_m15.parquet'), (select count(*) from '{root}/BTC-USD_m15.csv')"
    ) == [(96, 96)]


def test_an_unchanged_series_keeps_its_files_untouched(new_world: World) -> None:
    fetched(new_world)
    computed(new_world)
    exported(new_world)
    before, manifest = new_world.files("exports"), new_world.tables()["bazaar.exports"]
    assert outcomes(exported(new_world, LATER)) == [Outcome.unchanged] * 3
    assert new_world.files("exports") == before
    assert new_world.tables()["bazaar.exports"] == manifest


def test_a_lost_file_is_written_again(new_world: World) -> None:
    fetched(new_world)
    computed(new_world)
    exported(new_world)
    before = new_world.files("exports")
    lost = new_world.settings.exports_dir / "bazaar" / "ETH-USD_m15.csv"
    lost.unlink()
    assert outcomes(exported(new_world)) == [Outcome.unchanged, Outcome.updated, Outcome.unchanged]
    assert lost.read_bytes() == before["bazaar/ETH-USD_m15.csv"][0]


def test_a_file_that_cannot_be_written_fails_its_series_alone_and_is_written_later(new_world: World) -> None:
    fetched(new_world)
    computed(new_world)
    in_the_way = new_world.settings.exports_dir / "bazaar" / "ETH-USD_m15.parquet"
    in_the_way.mkdir(parents=True)
    done = exported(new_world)
    assert outcomes(done) == [Outcome.updated, Outcome.failed, Outcome.updated]
    assert "ETH-USD_m15.parquet" in str(done[ETH].reason)
    names = [row[0].removeprefix("bazaar/") for row in new_world.query("select path from bazaar.exports order by 1")]
    assert len(names) == 5
    assert "ETH-USD_m15.parquet" not in names
    in_the_way.rmdir()
    assert outcomes(exported(new_world)) == [Outcome.unchanged, Outcome.updated, Outcome.unchanged]


def test_nothing_computed_is_nothing_to_export(new_world: World) -> None:
    new_world.warehouse.prepare(new_world.market)
    assert outcomes(exported(new_world)) == [Outcome.no_data] * 3
    assert not new_world.settings.exports_dir.exists()


# ---- what a market's YAML asks for


def asks(world: World, exports: str) -> None:
    """Let the market's YAML say this of exports."""
    (world.root / "markets" / "bazaar.yaml").write_text(f"{FEW_INDICATORS}exports: {exports}\n")


def names(world: World) -> list[str]:
    return sorted(name for name in world.files("exports"))


def rows(world: World, path: str, *columns: str) -> list[tuple]:
    listed = ", ".join(columns) or "*"
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return connection.execute(f"select {listed} from '{world.settings.exports_dir / path}'").fetchall()


def made(world: World, exports: str, now: datetime = NOW) -> dict[Series, Attempt]:
    """The files of one series as this YAML asks for them."""
    asks(world, exports)
    fetched(world, now, [BTC])
    computed(world, [BTC])
    return exported(world, now, [BTC])


def test_layers_formats_and_compressions_are_files_of_their_own(new_world: World) -> None:
    made(new_world, "{all: {layers: [candles, enhanced, indicators, joined], formats: [csv, json], compression: gzip}}")
    assert names(new_world) == sorted(
        f"bazaar/all/{layer}BTC-USD_m15.{kind}.gz"
        for layer in ("", "candles/", "enhanced/", "indicators/")
        for kind in ("csv", "json")
    )
    widths = [
        len(rows(new_world, f"bazaar/all/{layer}BTC-USD_m15.csv.gz")[0])
        for layer in ("candles/", "enhanced/", "indicators/", "")
    ]
    assert widths[0] == 6
    assert widths[3] == widths[1] + widths[2] - 1
    # Two tables have a column of that name; side by side they are told apart.
    assert rows(new_world, "bazaar/all/indicators/BTC-USD_m15.csv.gz", "mfi") == rows(
        new_world, "bazaar/all/BTC-USD_m15.csv.gz", "indicators_mfi"
    )
    manifest = new_world.query("select export, layer, format, shape, rows from bazaar.exports order by path limit 1")
    assert manifest == [("all", "joined", "csv", "plain gzip full typed", 96)]


def test_feather_holds_the_same_rows(new_world: World) -> None:
    made(new_world, "{all: {layers: candles, formats: [feather, parquet], compression: zstd}}")
    root = new_world.settings.exports_dir / "bazaar" / "all" / "candles"
    kinds = {"open_time": "M", "close": "f", "volume": "f"}
    with TableReader() as reader:
        both = [reader.read(root / f"BTC-USD_m15.{kind}", kinds) for kind in ("feather", "parquet")]
    for name in kinds:
        np.testing.assert_array_equal(both[0][name], both[1][name])


def test_current_and_full_agree_on_every_common_row(new_world: World) -> None:
    made(new_world, "{full: {formats: parquet}, current: {formats: parquet, window: {last: 30}}}")
    full, current = (rows(new_world, f"bazaar/{name}/BTC-USD_m15.parquet") for name in ("full", "current"))
    assert (len(full), len(current)) == (96, 30)
    assert current == full[-30:]


def test_a_window_of_days_is_counted_from_the_newest_candle(new_world: World) -> None:
    made(new_world, "{two: {layers: candles, formats: parquet, window: {days: 2}}}", LATER)
    found = rows(new_world, "bazaar/two/candles/BTC-USD_m15.parquet", "min(open_time)", "max(open_time)", "count(*)")
    first, last, count = found[0]
    assert last - first <= timedelta(days=2)
    assert count == new_world.counts()["BTC/USD|m15"]


def test_a_candle_that_changes_outside_a_window_leaves_its_file_untouched(new_world: World) -> None:
    exports = "{current: {layers: candles, formats: csv, window: {last: 5}}, full: {layers: candles, formats: csv}}"
    made(new_world, exports)
    before = new_world.files("exports")
    new_world.change(
        "update bazaar.raw_candles set close = 1 where open_time = (select min(open_time) from bazaar.raw_candles)"
    )
    new_world.change(
        "insert into bazaar.recompute_queue values ('BTC/USD', 'm15', 'exports', timestamp '2026-01-01', 'somebody')"
    )
    [attempt] = exported(new_world, LATER, [BTC]).values()
    assert (attempt.outcome, attempt.metadata["files"]) == (Outcome.updated, 1)
    after = new_world.files("exports")
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["bazaar/full/candles/BTC-USD_m15.csv"]


def test_what_a_yaml_no_longer_asks_for_stays_and_what_it_asks_for_anew_is_written(new_world: World) -> None:
    made(new_world, "{full: {formats: csv, layers: candles}}")
    before = new_world.files("exports")
    asks(new_world, "{full: {formats: csv, layers: candles, window: {last: 3}}, more: {formats: csv, layers: candles}}")
    assert outcomes(exported(new_world, LATER, [BTC])) == [Outcome.updated]
    assert len(rows(new_world, "bazaar/full/candles/BTC-USD_m15.csv")) == 3
    more = new_world.files("exports")["bazaar/more/candles/BTC-USD_m15.csv"]
    assert more[0] == before["bazaar/full/candles/BTC-USD_m15.csv"][0]
    assert outcomes(exported(new_world, LATER, [BTC])) == [Outcome.unchanged]
    asks(new_world, "{more: {formats: csv, layers: candles}}")
    assert outcomes(exported(new_world, LATER, [BTC])) == [Outcome.unchanged]
    assert len(names(new_world)) == 2
    assert [each.path for each in export.current_files(new_world.warehouse, new_world.market)] == [
        "bazaar/more/candles/BTC-USD_m15.csv"
    ]


def test_any_engine_reads_a_hive_dataset_as_one_table(new_world: World) -> None:
    asks(new_world, "{lake: {layout: hive, layers: [candles, indicators]}}")
    fetched(new_world)
    computed(new_world)
    exported(new_world)
    with duckdb.connect() as connection:
        folder = new_world.settings.exports_dir / "bazaar" / "lake" / "candles"
        counted = connection.execute(
            "select instrument, timeframe, count(*) from read_parquet($1, hive_partitioning = true) "
            "group by all order by all",
            [f"{folder}/**/*.parquet"],
        ).fetchall()
    assert counted == [("BTC/USD", "m15", 96), ("ETH/USD", "m15", 96), ("SOL/USD", "m15", 96)]


# ---- types


FLAGS = ("zone_signal", "divergent", "fractal_up_2")


def test_whole_numbers_of_a_table_are_whole_in_every_format_and_nulls_are_null(new_world: World) -> None:
    """`zone_signal` is null in its first rows, so that an array holds it as float64."""
    made(new_world, "{typed: {formats: [csv, parquet, json, feather], layers: [joined]}, old: {layout: fx_refresh}}")
    stored = f"select {', '.join(FLAGS)} from bazaar.enhanced_candles where instrument = 'BTC/USD' order by open_time"
    expected = new_world.query(stored)
    assert {row[0] for row in expected} >= {None, -1, 0}
    folder = "bazaar/typed/BTC-USD_m15"
    for ending in ("parquet", "csv", "json"):
        assert rows(new_world, f"{folder}.{ending}", *FLAGS) == expected, ending
    assert {type(value) for row in rows(new_world, f"{folder}.json", *FLAGS) for value in row} == {int, type(None)}
    theirs = rows(new_world, "bazaar/old/cds/BTC-USD_m15.csv", "zone_sig", "fdb", "fh")
    assert theirs == expected
    for name in (f"{folder}.csv", "bazaar/old/cds/BTC-USD_m15.csv"):
        header, *lines = csv.reader(new_world.files("exports")[name][0].decode().splitlines())
        signal = header.index("zone_signal" if "zone_signal" in header else "zone_sig")
        assert {line[signal] for line in lines} <= {"", "-1", "0", "1"}, name


def test_the_types_of_parquet_and_feather_are_those_of_the_tables(new_world: World) -> None:
    made(new_world, "{typed: {formats: [parquet, feather], layers: [enhanced]}}")
    tables = {row[0]: row[1] for row in new_world.query("describe bazaar.enhanced_candles")}
    path = new_world.settings.exports_dir / "bazaar" / "typed" / "enhanced" / "BTC-USD_m15.parquet"
    with duckdb.connect() as connection:
        parquet = connection.sql(f"select * from '{path}'")
        feather = connection.from_arrow(read_ipc(path.with_suffix(".feather")))
        for relation in (parquet, feather):
            types = dict(zip(relation.columns, map(str, relation.types), strict=True))
            assert types.pop("open_time") == "TIMESTAMP WITH TIME ZONE"
            assert types == {name: tables[name] for name in types}
            assert types["zone_signal"] == "TINYINT"


# ---- the broker service's layout


def test_the_broker_services_readers_find_their_folders_names_and_columns(new_world: World) -> None:
    made(new_world, "{current: {layout: fx_refresh, window: {last: 30}}}")
    assert names(new_world) == ["bazaar/current/cds/BTC-USD_m15.csv", "bazaar/current/pds/BTC-USD_m15.csv"]
    lines = new_world.files("exports")["bazaar/current/pds/BTC-USD_m15.csv"][0].decode().splitlines()
    assert lines[0] == "Date,Volume,Open,High,Low,Close,Median"
    assert lines[-1].startswith("2026-06-01 11:45:00,")
    whole = rows(new_world, "bazaar/current/cds/BTC-USD_m15.csv")
    assert len(whole) == 30
    medians = rows(new_world, "bazaar/current/cds/BTC-USD_m15.csv", "abs(Median - (High + Low) / 2) < 1e-9")
    assert set(medians) == {(True,)}


# As its files begin, the colours and the gator's columns included.
HEADER = (
    "Date,BidOpen,BidHigh,BidLow,BidClose,AskOpen,AskHigh,AskLow,AskClose,Volume,Open,High,Low,Close,Median,ao,ac,"
    "jaw,teeth,lips,bjaw,bteeth,blips,tjaw,tteeth,tlips,fh,fl,fh3,fl3,fh5,fl5,fh8,fl8,fh13,fl13,fh21,fl21,fh34,fl34,"
    "fh55,fl55,fh89,fl89,gl,gh,mfi,fdbb,fdbs,fdb,aoaz,aobz,zlc,zlcb,zlcs,aocolor,accolor,zcol,zone_sig,sz,bz,acs,acb,"
    "ss,sb,price_peak_above,price_peak_bellow,ao_peak_above,ao_peak_bellow,mouth_direction,mouth_phase,bar_position,"
    "water_state,mouth_direction_confidence,mouth_phase_confidence,mfi_sq,mfi_green,mfi_fade,mfi_fake,mfi_sig,mfi_str"
)


def test_its_columns_have_its_names_in_its_order() -> None:
    assert [theirs for _, theirs in fx_refresh.columns(Layer.enhanced, two_sided=True)] == HEADER.split(",")
    ours = {name for name, _ in fx_refresh.columns(Layer.enhanced, two_sided=True)}
    assert ours >= {column.name for column in ENHANCED_CANDLES.columns}


# ---- the report beside the files


def report(world: World, done: Mapping[Series, Attempt]) -> dict:
    market, root = world.market, world.settings.exports_dir
    write_status_report(root, market, export.current_files(world.warehouse, market), done, NOW)
    return json.loads((root / "bazaar" / "status_report.json").read_text())


def test_a_report_says_how_the_files_stand(new_world: World) -> None:
    done = made(new_world, "{current: {formats: [csv, parquet], window: {last: 30}}}")
    said = report(new_world, done)
    assert [*said] == ["timestamp", "system_status", "configuration", "file_statistics"]
    assert (said["timestamp"], said["system_status"]) == ("2026-06-01T12:00:30Z", "healthy")
    assert said["configuration"]["exports"]["current"]["window"] == {"last": 30, "days": None}
    bytes_ = sum(len(content) for name, (content, _) in new_world.files("exports").items() if "status" not in name)
    assert said["file_statistics"]["by_export"]["current"] == {
        "total_files": 2,
        "total_bytes": bytes_,
        "total_rows": 60,
        "series": 1,
        "newest_candle": "2026-06-01T11:45:00Z",
    }


def test_a_report_names_what_failed(new_world: World) -> None:
    new_world.warehouse.prepare(new_world.market)
    said = report(new_world, {BTC: Attempt(Outcome.failed, "no room"), ETH: Attempt(Outcome.unchanged)})
    assert said["system_status"] == "degraded"
    assert said["file_statistics"]["failed_series"] == {"BTC/USD m15": "no room"}


def test_a_status_report_that_cannot_be_written_fails_no_series(
    new_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world
    fetched(world)
    computed(world)
    report = world.settings.exports_dir / "bazaar" / "status_report.json"
    report.mkdir(parents=True)
    attempts = publish_files(world.warehouse, world.market, world.settings.exports_dir, [BTC], NOW)
    assert attempts[BTC].outcome is Outcome.updated
    assert str(report) in str(attempts[BTC].metadata["warning"])
    assert str(report) in caplog.text


GROWING = "{grown: {layers: candles, formats: csv}}"
GROWN = "bazaar/grown/candles/BTC-USD_m15.csv"


def test_a_csv_file_of_candles_grows_in_place_by_its_new_rows_alone(new_world: World) -> None:
    made(new_world, GROWING)
    path = new_world.settings.exports_dir / GROWN
    before, inode = path.read_bytes(), path.stat().st_ino
    done = made(new_world, GROWING, LATER)
    grown = path.read_bytes()
    assert (path.stat().st_ino, grown[: len(before)]) == (inode, before)
    added = grown[len(before) :].count(b"\n")
    assert (done[BTC].rows_added, done[BTC].metadata) == (added, {"files": 1, "bytes": len(grown) - len(before)})
    assert new_world.query("select rows, bytes, sha256, block_hashes from bazaar.exports") == [
        (96 + added, len(grown), digest := hashlib.sha256(grown).hexdigest(), digest)
    ]
    # A file that is written whole is the same.
    path.unlink()
    exported(new_world, LATER, [BTC])
    assert path.read_bytes() == grown
    assert path.stat().st_ino != inode


def test_a_corrected_candle_and_a_killed_append_leave_each_row_once(new_world: World) -> None:
    made(new_world, GROWING)
    path = new_world.settings.exports_dir / GROWN
    with path.open("ab") as file:
        file.write(b"2026-06-01T12:00:00Z,1,1,1,1,1\n2026-06-0")
    [fault] = verify(new_world.warehouse, new_world.market, new_world.settings.exports_dir, [BTC])[1]
    assert "40 bytes behind the recorded ones; publish again to repair it" in fault.what
    made(new_world, GROWING, LATER)
    whole = path.read_bytes()
    new_world.change("update bazaar.raw_candles set volume = volume + 0.5 where open_time = '2026-06-01 03:00'")
    new_world.change(
        "insert into bazaar.recompute_queue (instrument, timeframe, asset, since, version) "
        "values ('BTC/USD', 'm15', 'exports', '2026-06-01 03:00', 'x')"
    )
    exported(new_world, LATER, [BTC])
    corrected = path.read_bytes()
    assert len(corrected.splitlines()) == len(whole.splitlines())
    assert sum(one != other for one, other in zip(corrected.splitlines(), whole.splitlines(), strict=True)) == 1
    assert verify(new_world.warehouse, new_world.market, new_world.settings.exports_dir, [BTC]) == (1, [])
