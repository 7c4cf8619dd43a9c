"""The `refresh` command as people and programs use it: what it says, what it does, how it ends."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from refresh_pipeline.market_files import load_markets
from refresh_pipeline.pipeline.quality import candle_verdicts
from refresh_pipeline.settings import load_settings
from refresh_pipeline.warehouse.warehouse import Warehouse
from refresh_pipeline_tests.project_folder import LATER, NOW, World, command

AT_LATER = ("--now", LATER.isoformat())


def words(text: str) -> str:
    """What is said, however it is broken into lines."""
    return " ".join(text.split())


def status(*arguments: str) -> list[dict[str, Any]]:
    result = command("status", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# ---- publish


def test_publish_writes_and_sends_files_and_asks_no_source(world: World) -> None:
    before = world.counts()
    lost = world.settings.exports_dir / "bazaar" / "BTC-USD_m15.csv"
    content = lost.read_bytes()
    lost.unlink()
    result = command("publish", "-i", "btcusd", *AT_LATER)
    assert result.exit_code == 0
    assert "bazaar: publish" in result.stdout
    assert lost.read_bytes() == content
    assert world.counts() == before


def test_publish_ends_with_one_where_a_file_failed(world: World) -> None:
    lost = world.settings.exports_dir / "bazaar" / "BTC-USD_m15.csv"
    lost.unlink()
    lost.mkdir()
    result = command("publish", *AT_LATER)
    assert result.exit_code == 1
    assert "bazaar: publish" in [words(line) for line in result.stdout.splitlines()]
    assert "failed: exports of BTC/USD m15" in result.stdout


@pytest.mark.parametrize("wrong", [("-i", "nothing"), ("-t", "M1"), ("--market", "nowhere"), ("--now", "soon")])
def test_publish_answers_a_wrong_request_at_once(world: World, wrong: tuple[str, ...]) -> None:
    assert command("publish", *wrong).exit_code == 2


# ---- once


def test_once_refreshes_publishes_and_says_so(world: World) -> None:
    result = command("once", *AT_LATER)
    assert result.exit_code == 0
    lines = [words(line) for line in result.stdout.splitlines()]
    assert "bazaar: refresh" in lines
    assert "m15 4 32 0 32 4 4 4 updated" in lines
    assert "H1 4 8 0 8 4 4 4 updated" in lines
    assert f"warehouse {world.root}/data/refresh.duckdb" in lines
    assert f"uploads file://{world.root}/data/uploads" in lines
    assert "uploads" not in command("status", *AT_LATER).stdout
    assert result.stderr == ""
    assert {row["bars_behind"] for row in status(*AT_LATER)} == {0}


@pytest.mark.parametrize(
    ("arguments", "touched"),
    [
        (("-i", "btcusd, ETH-USD", "-t", "15min"), {"BTC/USD|m15", "ETH/USD|m15"}),
        (("--market", "bazaar", "--instrument", "sol_usd", "--timeframe", "60,15"), {"SOL/USD|m15", "SOL/USD|H1"}),
    ],
)
def test_once_is_narrowed_by_whatever_names_are_usual(
    world: World, arguments: tuple[str, ...], touched: set[str]
) -> None:
    before = world.counts()
    result = command("once", *arguments, *AT_LATER, "-v")
    assert result.exit_code == 0
    assert {key for key, count in world.counts().items() if count != before[key]} == touched
    shown = [words(line).split(" ")[:2] for line in result.stdout.splitlines() if "updated" in line]
    assert {f"{instrument}|{timeframe}" for instrument, timeframe in shown} == touched


def test_once_fills_a_stretch_that_it_is_asked_for(world: World) -> None:
    world.lose_candles("open_time between '2026-05-31 14:00' and '2026-05-31 18:00'")
    stretch = ("--since", "2026-05-31T15:00Z", "--until", "2026-05-31T17:00+01:00")
    assert command("once", "-i", "BTC/USD", "-t", "m15", *stretch, "--now", NOW.isoformat()).exit_code == 0
    assert world.query("select count(*) from bazaar.raw_candles where open_time between '2026-05-31 14:00' and "
                       "'2026-05-31 18:00'") == [(4,)]  # fmt: skip


def test_once_ends_with_1_where_series_failed_and_says_which_and_why(world: World) -> None:
    world.candle_file("ETH/USD|H1").write_text("no\ncandles\n")
    result = command("once", *AT_LATER, "--all")
    assert result.exit_code == 1
    said = words(result.stdout)
    assert "failed: raw_candles of ETH/USD H1: " in said
    assert "expected a first row that names the columns" in said
    assert "3 updated, 1 failed" in said
    assert "check not passed: every_series_was_fetched (1)" in said


def test_once_refreshes_several_markets_passing_over_names_that_only_one_of_them_knows(world: World) -> None:
    other = (world.root / "markets" / "bazaar.yaml").read_text().replace("bazaar", "other").replace("BTC/USD, ", "")
    (world.root / "markets" / "other.yaml").write_text(other)
    result = command("once", "-m", "other,bazaar", "-i", "BTC/USD", "-t", "m15", *AT_LATER)
    assert result.exit_code == 0
    assert "bazaar: refresh" in result.stdout
    assert "other: refresh" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", "bazar"), "--market: found 'bazar', allowed: bazaar, crypto, demo"),
        (("-m", ""), "--market: found '', allowed: bazaar"),
        (("-i", "BTCUSDT"), "--instrument: market 'bazaar' has no instrument 'BTCUSDT'; did you mean 'BTC/USD'?"),
        (("-i", "BTC/USD,nonsense"), "has no instrument 'nonsense'"),
        (("-t", "M1"), "--timeframe: timeframe 'M1' is ambiguous: write 'm1'"),
        (("-t", "15x"), "--timeframe: unknown timeframe '15x'; did you mean m15?"),
        (("-t", "W1"), "market 'bazaar' has no timeframe W1 (it has m15, H1)"),
        (("--since", "yesterday"), "--since: found 'yesterday', allowed: ISO 8601, for instance 2026-01-31T12:00Z"),
        (("--until", "2026-13-01"), "--until: found '2026-13-01', allowed: ISO 8601"),
        (("--now", "12:00"), "--now: found '12:00', allowed: ISO 8601"),
        (("--since", "2026-06-01", "--until", "2026-06-01T00:00Z"), "--since 2026-06-01 is not before --until"),
        (("--all", "-t", "m15"), "--all refreshes every series of every loaded market; leave out"),
        (("--data-dir", "candles/BTC-USD_H1.csv"), "BTC-USD_H1.csv"),
        (("--nonsense",), "No such option"),
    ],
)
def test_a_wrong_request_ends_with_2_and_words_and_nothing_done(
    new_world: World, arguments: tuple[str, ...], said: str
) -> None:
    result = command("once", *arguments)
    assert result.exit_code == 2
    assert said in words(result.stderr)
    assert "Traceback" not in result.output
    assert not (new_world.root / "data").exists()


def test_names_that_leave_no_series_are_a_wrong_request(new_world: World) -> None:
    market = (new_world.root / "markets" / "bazaar.yaml").read_text()
    other = market.replace("bazaar", "other").replace("BTC/USD, ", "").replace("[m15, H1]", "[D1]")
    (new_world.root / "markets" / "other.yaml").write_text(other)
    result = command("once", "-m", "bazaar,other", "-i", "BTC/USD", "-t", "D1")
    assert result.exit_code == 2
    assert "no market has a series of BTC/USD on D1" in words(result.stderr)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{kind: nowhere}", "market 'bazaar': source.kind: found 'nowhere'; allowed: demo, binance, "),
        ("{kind: binance, base_ulr: x}", "market 'bazaar': source: base_ulr: found 'x'; unknown key; did you mean"),
        ("{kind: files}", "market 'bazaar': source: directory: missing"),
    ],
)
@pytest.mark.parametrize("name", ["once", "up"])
def test_a_market_whose_source_cannot_be_is_a_wrong_request(
    new_world: World, name: str, source: str, said: str
) -> None:
    file = new_world.root / "markets" / "bazaar.yaml"
    file.write_text(file.read_text().replace("{kind: files, directory: candles}", source))
    result = command(name)
    assert result.exit_code == 2
    assert said in words(result.stderr)


def test_a_directory_that_is_missing_is_told_before_anything_starts(new_world: World) -> None:
    file = new_world.root / "markets" / "bazaar.yaml"
    file.write_text(file.read_text().replace("directory: candles", "directory: nowhere"))
    result = command("once")
    assert result.exit_code == 2
    assert "market 'bazaar': source: directory: " in words(result.stderr)
    assert "nowhere is no directory; create it" in words(result.stderr)
    assert not (new_world.root / "data" / "dagster").exists()


def test_without_a_command_it_explains_itself() -> None:
    said = words(command().output)
    assert all(name in said for name in ("once", "status", "up"))


# ---- status


def test_status_is_a_table_of_every_series(world: World) -> None:
    result = command("status", "--all", "--now", NOW.isoformat())
    assert result.exit_code == 0
    lines = [words(line) for line in result.stdout.splitlines()]
    assert "instrument timeframe newest candle age behind candles complete outcome" in lines
    assert "SOL/USD m15 2026-06-01 11:45 30s 0 96 100 % updated" in lines
    assert len([line for line in lines if "/USD " in line]) == 8


def test_status_sums_up_by_timeframe_and_is_narrowed(world: World) -> None:
    lines = [words(line) for line in command("status", "--now", NOW.isoformat()).stdout.splitlines()]
    assert "m15 4 2026-06-01 11:45 0 384 100 % 0" in lines
    assert "H1 4 2026-06-01 11:00 0 96 100 % 0" in lines
    assert [row["instrument"] for row in status("-i", "btcusd", "-t", "1h", "--now", NOW.isoformat())] == ["BTC/USD"]
    world.candle_file("ETH/USD|H1").write_text("no\ncandles\n")
    assert command("once", "-t", "H1", *AT_LATER).exit_code == 1
    failed = {f"{row['instrument']} {row['timeframe']}" for row in status("--failed", *AT_LATER)}
    # Nobody asked for the quarters of an hour since.
    assert failed == {"ETH/USD H1", "BTC/USD m15", "ETH/USD m15", "SOL/USD m15", "XRP/USD m15"}
    assert status("--failed", "-i", "BTC/USD", "-t", "H1", *AT_LATER) == []


def test_status_and_gaps_agree(world: World) -> None:
    world.lose_candles("timeframe = 'm15' and open_time < '2026-05-31 20:00'")
    market = world.root / "markets" / "bazaar.yaml"
    market.write_text(market.read_text().replace("history: 1d", "history: 2d"))
    shares = [row["completeness"] for row in status("--now", NOW.isoformat())]
    gaps = json.loads(command("gaps", "--json", "--now", NOW.isoformat()).stdout)
    assert shares == [row["completeness"] for row in gaps]
    assert shares[0] < 0.5


def test_a_candle_that_has_just_closed_counts_alike_for_status_and_gaps(world: World) -> None:
    # Stored before it is due, and not stored a minute after its close.
    for moment, is_behind in ((NOW, False), (NOW + timedelta(minutes=15), True)):
        at = ("--now", moment.isoformat())
        rows, gaps = status(*at), json.loads(command("gaps", "--json", *at).stdout)
        assert [row["candle_count"] for row in rows] == [row["stored_count"] for row in gaps]
        assert {row["expected_count"] - row["stored_count"] for row in gaps} == {0}
        assert bool(rows[0]["bars_behind"]) is is_behind
        assert status("--failed", *at) == []
        assert "series at fault" not in command("status", *at).stdout


def test_status_as_json_is_for_programs(world: World) -> None:
    rows = status("--now", NOW.isoformat())
    assert len(rows) == 8
    assert rows[0]["instrument"] == "BTC/USD"
    assert (rows[0]["candle_count"], rows[0]["completeness"], rows[0]["bars_behind"]) == (96, 1.0, 0)


def test_status_works_before_any_refresh_and_leaves_nothing_behind(new_world: World) -> None:
    assert {row["candle_count"] for row in status()} == {0}
    assert command("status").exit_code == 0
    assert not (new_world.root / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("-m", "nowhere"), "--market: found 'nowhere', allowed: bazaar"), (("--now", "noon"), "--now: found 'noon'")],
)
def test_status_of_what_there_is_not(world: World, arguments: tuple[str, ...], said: str) -> None:
    result = command("status", *arguments)
    assert result.exit_code == 2
    assert said in words(result.stderr)


def test_status_of_a_file_that_is_no_database_ends_with_1_and_words(world: World) -> None:
    (world.root / "data" / "refresh.duckdb").write_bytes(b"no database" * 500)
    result = command("status")
    assert result.exit_code == 1
    assert "restore a backup" in words(result.stderr)
    assert "Traceback" not in result.output


# ---- where settings come from


def test_the_command_line_wins_over_every_setting(world: World, tmp_path: Path) -> None:
    os.environ["REFRESH_MARKETS"] = "crypto"
    os.environ["REFRESH_DATA_DIR"] = str(tmp_path / "elsewhere")
    rows = status("-m", "bazaar", "--data-dir", "data", "--now", NOW.isoformat())
    assert {(row["market"], row["bars_behind"]) for row in rows} == {("bazaar", 0)}
    assert {row["market"] for row in status()} == {"crypto"}


def test_a_home_that_the_user_chose_for_dagster_is_used(world: World, tmp_path: Path) -> None:
    os.environ["DAGSTER_HOME"] = str(tmp_path / "dagster")
    assert command("once", "-i", "BTC/USD", "-t", "H1", *AT_LATER).exit_code == 0
    assert (tmp_path / "dagster" / "history" / "runs.db").exists()


def test_status_warns_of_a_calendar_that_ends_and_goes_on_when_it_has(new_world: World) -> None:
    (new_world.root / "markets" / "shares.yaml").write_text(
        "{name: shares, source: {kind: demo}, calendar: nse, instruments: [TCS], timeframes: [D1], history: 30d}"
    )
    early = command("status", "-m", "shares,bazaar", "--now", "2026-10-31")
    assert (early.exit_code, early.stderr) == (0, "")
    late = command("status", "-m", "shares,bazaar", "--now", "2026-11-27")
    assert words(late.stderr).startswith("shares: the calendar nse ends in 34 days: no sessions are known after")
    over = command("status", "-m", "shares,bazaar", "--json", "--now", "2027-01-02")
    assert "shares: the calendar nse has ended" in words(over.stderr)
    rows = json.loads(over.stdout)
    assert {row["market"] for row in rows if row["expected_candle"]} == {"bazaar"}


def test_a_market_goes_on_past_the_end_of_its_calendar(new_world: World) -> None:
    (new_world.root / "markets" / "shares.yaml").write_text(
        "{name: shares, source: {kind: demo}, calendar: nse, instruments: [TCS], timeframes: [H1, D1], history: 10d,"
        " indicators: {compute: [sma]}}"
    )
    result = command("once", "-m", "shares", "--now", "2027-01-06T12:00")
    assert result.exit_code == 0, result.output
    assert "shares: the calendar nse has ended" in words(result.stderr)
    [hours, days] = status("-m", "shares", "--now", "2027-01-08T12:00")
    assert days["newest_candle"] == "2027-01-05T18:30:00Z"
    assert hours["newest_candle"] == "2027-01-06T09:45:00Z"
    assert (days["bars_behind"], days["expected_candle"], days["completeness"]) == (None, None, 1.0)
    gaps = command("gaps", "-m", "shares", "--json", "--now", "2027-01-08T12:00")
    assert [row["gaps"] for row in json.loads(gaps.stdout)] == [[], []]
    settings = load_settings()
    market = load_markets(load_settings(enabled_markets="shares"))[0]
    late = datetime(2027, 1, 8, 12, tzinfo=UTC)
    verdicts = candle_verdicts(Warehouse(database=str(settings.database)), market, late)
    assert [name for name, verdict in verdicts.items() if verdict.faults] == ["calendar_is_known"]
    with duckdb.connect(settings.database, read_only=True) as connection:
        newest = connection.execute("select max(open_time) from shares.indicators where timeframe = 'H1'").fetchall()
    assert f"{newest[0][0]}" == "2027-01-06 09:45:00"


def test_once_names_the_command_that_fills_the_holes_it_leaves(world: World) -> None:
    # One of the newest ten candles, which are read again, and five that lie deeper.
    btc = "instrument = 'BTC/USD' and timeframe = 'm15' and open_time"
    world.lose_candles(f"{btc} = '2026-06-01 11:00'")
    world.lose_candles(f"{btc} between '2026-05-31 14:00' and '2026-05-31 15:00'")
    result = command("once", *AT_LATER)
    assert result.exit_code == 0
    assert (
        "5 candles of BTC/USD m15 are missing; to ask the source for them, run: "
        "refresh backfill --market bazaar --since 2026-05-31T14:00:00Z --instrument BTC/USD --timeframe m15"
    ) in words(result.stdout)
    said = words(result.stdout).partition("run: refresh ")[2].partition(" warehouse")[0]
    assert command(*said.split(), *AT_LATER).exit_code == 0
    assert "are missing" not in words(command("once", "-i", "BTC/USD", "-t", "m15", *AT_LATER).stdout)
    [(count,)] = world.query("select count(*) from bazaar.gaps")
    assert count == 0
