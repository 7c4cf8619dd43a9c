"""Each check passing and failing: what it examines is broken on purpose, in a table, in a file, at the destination."""

import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta

import dagster as dg
import pytest

from refresh_pipeline.files import growing
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.orchestration.checks import FAULTS_SHOWN, market_checks, result
from refresh_pipeline.orchestration.resources import uploads_of
from refresh_pipeline.pipeline.quality import Verdict, candle_verdicts, export_verdict, upload_verdict
from refresh_pipeline.warehouse.acknowledgements import identity
from refresh_pipeline.warehouse.check_results import recorded_checks
from refresh_pipeline.warehouse.queries import Fault
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import (
    BAZAAR,
    EXPORTS,
    FEW_INDICATORS,
    LATER,
    NOW,
    UPLOADS,
    World,
    command,
    verdicts_of,
)

BTC = Series("BTC/USD", Timeframe.m15)
BTC_ROWS = "instrument = 'BTC/USD' and timeframe = 'm15'"


def verdict(world: World, name: str, now: datetime = NOW, market: Market | None = None) -> Verdict:
    """What a check finds of a world's market."""
    market = market or world.market
    if name == "exports_match_the_table":
        return export_verdict(world.warehouse, market, world.settings.exports_dir)
    if name == "uploads_match_the_exports":
        spec = market.uploads
        return upload_verdict(world.warehouse, market, spec, lambda: uploads_of(world.settings).open(spec))
    return candle_verdicts(world.warehouse, market, now)[name]


def found(world: World, name: str, now: datetime = NOW) -> dict[str, str]:
    """The faults of a check: by series, and where it has one by opening time, what is wrong."""
    return {
        f"{fault.series}"
        + ("" if fault.open_time is None else f" {fault.open_time.astype('datetime64[m]')}"): fault.what
        for fault in verdict(world, name, now).faults
    }


CHECKS = {
    "every_series_was_fetched": 8,
    "nothing_was_rejected": 8,
    "prices_are_coherent": 480,
    "open_times_are_unique_and_on_the_grid": 480,
    "no_candle_is_from_the_future": 8,
    "every_series_is_fresh": 8,
    "no_candles_are_missing": 8,
    "prices_are_plausible": 8,
    "exports_match_the_table": 16,
    "uploads_match_the_exports": 16,
}


def all_verdicts(world: World) -> dict[str, Verdict]:
    """What every check finds of a world's market."""
    files = ("exports_match_the_table", "uploads_match_the_exports")
    with inside(world.root):
        return candle_verdicts(world.warehouse, world.market, NOW) | {name: verdict(world, name) for name in files}


@pytest.fixture(scope="module")
def after_a_refresh(refreshed: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    return all_verdicts(refreshed.copied(tmp_path_factory.mktemp("after") / "world"))


@pytest.fixture(scope="module")
def before_any_refresh(founded: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    return all_verdicts(founded.copied(tmp_path_factory.mktemp("before") / "world"))


@pytest.mark.parametrize(("name", "examined"), CHECKS.items())
def test_after_a_good_refresh_every_check_passes_having_examined_everything(
    after_a_refresh: dict[str, Verdict], name: str, examined: int
) -> None:
    good = after_a_refresh[name]
    assert (list(good.faults), good.examined) == ([], examined)


@pytest.mark.parametrize("name", CHECKS)
def test_before_any_refresh_everything_is_stale_and_missing_and_nothing_else_is_wrong(
    before_any_refresh: dict[str, Verdict], name: str
) -> None:
    assert bool(before_any_refresh[name].faults) is (name in ("every_series_is_fresh", "no_candles_are_missing"))


def test_there_are_no_other_checks(world: World) -> None:
    names = {key.name for check in market_checks(world.market) for key in check.check_keys}
    assert names == {*CHECKS, "timeframes_agree"}


# ---- every_series_was_fetched


def test_a_series_that_failed_is_listed_until_it_is_fetched(world: World) -> None:
    good = world.candle_file("SOL/USD|H1").read_text()
    world.candle_file("SOL/USD|H1").write_text("broken\n1\n")
    world.run(now=LATER)
    faults = found(world, "every_series_was_fetched", LATER)
    assert list(faults) == ["SOL/USD H1 2026-06-01T11:00"]
    assert "expected a first row that names the columns" in faults["SOL/USD H1 2026-06-01T11:00"]
    world.candle_file("SOL/USD|H1").write_text(good)
    world.run(now=LATER, keys=["SOL/USD|H1"])
    assert found(world, "every_series_was_fetched", LATER) == {}


# ---- prices_are_coherent


@pytest.mark.parametrize(
    "damage",
    [
        "high = low - 1",
        "high = close - 0.0001",
        "low = open + 0.0001",
        "open = 'nan'::double",
        "high = 'infinity'::double",
        "close = null",
        "low = 0",
        "low = -1",
    ],
)
def test_a_stored_candle_that_contradicts_itself_is_found(world: World, damage: str) -> None:
    if damage.startswith("high = close"):
        damage = "close = high + 0.0001"
    world.change(f"update bazaar.raw_candles set {damage} where {BTC_ROWS} and open_time = '2026-06-01 03:15'")
    faults = found(world, "prices_are_coherent")
    assert list(faults) == ["BTC/USD m15 2026-06-01T03:15"]
    assert faults["BTC/USD m15 2026-06-01T03:15"].startswith("open ")


def test_of_very_many_faults_some_are_shown_and_the_count_says_at_least(world: World) -> None:
    world.change("update bazaar.raw_candles set low = high + 1")
    bad = verdict(world, "prices_are_coherent")
    assert bad.summary == f"at least {len(bad.faults)} of 480 candles failed"
    assert len(bad.faults) < 480


# ---- open_times_are_unique_and_on_the_grid


def test_a_candle_that_is_there_twice_is_found(world: World) -> None:
    row = f"{BTC_ROWS} and open_time = '2026-06-01 03:15'"
    world.change(f"insert into bazaar.raw_candles select * from bazaar.raw_candles where {row}")
    assert found(world, "open_times_are_unique_and_on_the_grid") == {"BTC/USD m15 2026-06-01T03:15": "stored 2 times"}


def test_a_candle_off_the_grid_is_found(world: World) -> None:
    world.change(
        "update bazaar.raw_candles set open_time = open_time + interval 1 minute "
        f"where {BTC_ROWS} and open_time = '2026-06-01 03:15'"
    )
    name = "open_times_are_unique_and_on_the_grid"
    assert found(world, name) == {"BTC/USD m15 2026-06-01T03:16": "not on the calendar's grid"}


def test_a_candle_while_the_market_is_closed_is_found(world: World) -> None:
    # Every stored candle lies on a Sunday or a Monday; New York's week begins on Sunday at 21:00 UTC.
    closed = parse_market(BAZAAR.replace("calendar: crypto", "calendar: fx"), "bazaar.yaml")
    bad = verdict(world, "open_times_are_unique_and_on_the_grid", market=closed)
    assert bad.faults
    assert all(str(fault.open_time) < "2026-05-31T21:00" for fault in bad.faults)


# ---- every_series_is_fresh


def test_a_series_without_its_newest_candle_is_late(world: World) -> None:
    world.write_candles("ETH/USD|H1", last=NOW - timedelta(hours=1))
    world.run(now=LATER)
    assert found(world, "every_series_is_fresh", LATER) == {
        "ETH/USD H1 2026-06-01T11:00": "newest candle expected: 2026-06-01T12:00:00"
    }


def test_a_tick_or_two_of_delay_is_not_late_yet(world: World) -> None:
    # The next m15 candle closes at 12:15, the next H1 at 13:00; two ticks of m15 are forgiven.
    noon = NOW.replace(second=0)
    late = {
        minutes: len(found(world, "every_series_is_fresh", noon + timedelta(minutes=minutes)))
        for minutes in (29, 44, 45, 90)
    }
    assert late == {29: 0, 44: 0, 45: 4, 90: 8}


def test_a_series_that_never_had_a_candle_is_late(new_world: World) -> None:
    new_world.candle_file("ETH/USD|H1").unlink()
    new_world.run()
    assert found(new_world, "every_series_is_fresh") == {"ETH/USD H1": "no candles at all (no data)"}


def test_at_a_weekend_nothing_becomes_late(world: World) -> None:
    market = parse_market(BAZAAR.replace("calendar: crypto", "calendar: fx"), "bazaar.yaml")
    saturday = datetime(2026, 6, 6, 10, tzinfo=NOW.tzinfo)
    world.change(
        "update bazaar.series set last_open_time = case timeframe when 'H1' then timestamp '2026-06-05 20:00' "
        "else timestamp '2026-06-05 20:45' end"
    )
    assert verdict(world, "every_series_is_fresh", saturday, market).faults == []
    assert len(verdict(world, "every_series_is_fresh", saturday + timedelta(days=2), market).faults) == 8


# ---- exports_match_the_table


def export_file(world: World, name: str) -> str:
    return str(world.settings.exports_dir / "bazaar" / name)


def lose_export(world: World) -> None:
    os.remove(export_file(world, "BTC-USD_m15.csv"))


def append_to_export(world: World) -> None:
    with open(export_file(world, "BTC-USD_m15.csv"), "a") as file:
        file.write("2026-06-01T11:45:00Z,1,1,1,1,1\n")


def exchange_export(world: World) -> None:
    shutil.copy(export_file(world, "ETH-USD_m15.parquet"), export_file(world, "BTC-USD_m15.parquet"))


def spoil_export(world: World) -> None:
    with open(export_file(world, "BTC-USD_m15.parquet"), "wb") as file:
        file.write(b"no parquet")


def forget_export(world: World) -> None:
    world.change(f"delete from bazaar.exports where {BTC_ROWS}")


def change_table_behind_our_back(world: World) -> None:
    world.change(f"update bazaar.raw_candles set close = close + 1 where {BTC_ROWS}")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lose_export, "BTC-USD_m15.csv: the file is gone"),
        (append_to_export, "BTC-USD_m15.csv: the file is not the one that was written"),
        (exchange_export, "BTC-USD_m15.parquet: the file is not the one that was written"),
        (spoil_export, "BTC-USD_m15.parquet: the file is not the one that was written"),
        (forget_export, "was never exported"),
        (change_table_behind_our_back, "BTC-USD_m15.parquet: other candles than in the table"),
    ],
)
def test_an_export_that_is_not_as_it_was_written_is_found(
    world: World, damage: Callable[[World], None], what: str
) -> None:
    damage(world)
    faults = verdict(world, "exports_match_the_table").faults
    assert {fault.series for fault in faults} == {BTC}
    assert any(what in fault.what for fault in faults)


def test_candles_that_came_since_are_no_fault_of_the_exports(world: World) -> None:
    world.run(now=LATER)
    assert found(world, "exports_match_the_table") == {}


# ---- uploads_match_the_exports


def uploaded_file(world: World, name: str) -> str:
    return str(world.root / "data" / "uploads" / "bazaar" / name)


def lose_upload(world: World) -> None:
    os.remove(uploaded_file(world, "BTC-USD_m15.csv"))


def change_upload(world: World) -> None:
    with open(uploaded_file(world, "BTC-USD_m15.csv"), "a") as file:
        file.write("more\n")


def forget_upload(world: World) -> None:
    world.change(f"delete from bazaar.uploads where {BTC_ROWS} and format = 'csv'")


def export_anew(world: World) -> None:
    world.change(f"update bazaar.exports set sha256 = 'another' where {BTC_ROWS} and format = 'csv'")


def test_an_upload_of_a_csv_file_of_several_blocks_is_the_export(
    new_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "BLOCK", 1000)
    exports = "exports: {grown: {layers: candles, formats: csv}}"
    (new_world.root / "markets" / "bazaar.yaml").write_text(f"{FEW_INDICATORS}{UPLOADS}{exports}\n")
    new_world.run("refresh", now=NOW)
    new_world.run("publish", now=NOW)
    ((hashes,),) = new_world.query(f"select block_hashes from bazaar.exports where {BTC_ROWS} and format = 'csv'")
    assert len(hashes.split()) > 2
    assert found(new_world, "uploads_match_the_exports") == {}


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lose_upload, "is gone from the destination"),
        (change_upload, "the destination holds another content than was uploaded"),
        (forget_upload, "was never uploaded"),
        (export_anew, "exported anew since it was uploaded"),
    ],
)
def test_an_upload_that_is_not_the_export_is_found(world: World, damage: Callable[[World], None], what: str) -> None:
    damage(world)
    assert found(world, "uploads_match_the_exports") == {"BTC/USD m15": f"bazaar/BTC-USD_m15.csv: {what}"}


def test_a_destination_that_cannot_be_asked_is_told(world: World) -> None:
    shutil.rmtree(world.root / "data" / "uploads")
    (world.root / "data" / "uploads").write_text("a file where the folder was")
    faults = found(world, "uploads_match_the_exports")
    assert faults
    assert any("gone" in what or "uploads" in what for what in faults.values())


def test_uploads_that_are_off_have_no_fault_and_the_check_says_why(world: World) -> None:
    (world.root / "markets" / "bazaar.yaml").write_text(FEW_INDICATORS + EXPORTS)
    judged = verdict(world, "uploads_match_the_exports")
    assert (judged.faults, judged.examined) == ([], 0)
    assert str(judged.summary).startswith("off, no destination is named: set REFRESH_UPLOAD_URL=")


# ---- as Dagster shows it


def test_a_failed_check_shows_a_table_and_a_count() -> None:
    faults = [Fault(BTC, None, f"fault {number}") for number in range(FAULTS_SHOWN + 10)]
    shown = result(Verdict(faults, 1000, "candles"), dg.AssetKey(["bazaar", "raw_candles"]), "prices_are_coherent")
    assert not shown.passed
    assert shown.description == f"{len(faults)} of 1000 candles failed"
    assert shown.metadata["faults"].value == len(faults)
    table = shown.metadata["first_faults"]
    assert isinstance(table, dg.TableMetadataValue)
    assert len(table.records) == FAULTS_SHOWN
    assert table.records[0].data == {"instrument": "BTC/USD", "timeframe": "m15", "open_time": "", "fault": "fault 0"}


def test_a_passed_check_says_how_much_it_examined() -> None:
    shown = result(Verdict([], 1000, "candles"))
    assert (shown.passed, shown.description) == (True, None)
    assert (shown.metadata["examined"].value, shown.metadata["faults"].value) == (1000, 0)


def test_the_jobs_run_the_checks_of_their_assets(world: World) -> None:
    world.change(f"update bazaar.raw_candles set low = high + 1 where {BTC_ROWS} and open_time = '2026-06-01 03:15'")
    append_to_export(world)
    refreshed, published = verdicts_of(world.run()), verdicts_of(world.run("publish"))
    assert set(refreshed) | set(published) == {*CHECKS, "timeframes_agree"}
    assert {name for name, passed in (refreshed | published).items() if not passed} == {
        "prices_are_coherent",
        "exports_match_the_table",
        "uploads_match_the_exports",
    }
    with world.warehouse.reader() as connection:
        stored = {one.check: one for one in recorded_checks(connection, "bazaar")}
    assert {name: one.passed for name, one in stored.items()} == refreshed | published
    assert stored["prices_are_coherent"].detail == "1 of 480 candles failed"


# ---- prices_are_plausible


def test_an_implausible_price_is_flagged_and_not_altered(world: World) -> None:
    world.change(
        f"update bazaar.raw_candles set open = open * 100, high = high * 100, low = low * 100, close = close * 100 "
        f"where {BTC_ROWS} and open_time = '2026-06-01 03:00'"
    )
    before = world.query("select * from bazaar.raw_candles order by all")
    (fault,) = found(world, "prices_are_plausible").items()
    assert fault[0] == "BTC/USD m15 2026-06-01T03:00"
    assert fault[1].startswith("a factor of 100: 1")
    assert world.query("select * from bazaar.raw_candles order by all") == before


# ---- acknowledged faults


def test_an_acknowledged_fault_fails_its_check_no_more_and_another_one_does(world: World) -> None:
    def jump(at: str, factor: int = 3) -> None:
        world.change(
            f"update bazaar.raw_candles set open = open * {factor}, high = high * {factor}, low = low * {factor}, "
            f"close = close * {factor} where {BTC_ROWS} and open_time = '{at}'"
        )

    name = "prices_are_plausible"
    jump("2026-06-01 03:00")
    words = ["acknowledge", "--market", "bazaar", "--now", NOW.isoformat(), "--check", name]
    refused = command(*words)
    assert (refused.exit_code, len(found(world, name))) == (2, 1)
    assert "BTC/USD m15 2026-06-01T03:00:00: a jump that the next candle takes back" in refused.output
    assert command(*words, "--note", "seen elsewhere", "--yes").exit_code == 0
    assert (verdict(world, name).faults, verdict(world, name).summary) == ([], "1 acknowledged")
    shown = result(verdict(world, name))
    assert (shown.passed, shown.metadata["acknowledged"].value) == (True, 1)
    listed = command("acknowledge", "--market", "bazaar", "--list").output
    assert "seen elsewhere" in listed
    assert "bazaar: 1 fault acknowledged" in command("status", "--now", NOW.isoformat()).output
    jump("2026-06-01 06:00")
    assert list(found(world, name)) == ["BTC/USD m15 2026-06-01T06:00"]
    assert verdict(world, name).summary == "1 of 8 series failed, 1 acknowledged"
    assert command(*words, "--undo", "--yes").exit_code == 0
    assert len(found(world, name)) == 2


def test_a_verdict_that_does_not_list_every_fault_is_not_shortened() -> None:
    fault = Fault(Series("BTC/USD", Timeframe.m15), None, "odd")
    cut = Verdict([fault], 8, "candles", is_cut_short=True)
    assert cut.without({identity(fault)}) is cut
