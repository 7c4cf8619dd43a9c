"""`refresh once` against OANDA, FXCM's archive and Dhan in miniature, over real HTTP on the loopback."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from refresh_pipeline.sources import fxcm as archive_of
from refresh_pipeline_tests.fakes import dhan, oanda
from refresh_pipeline_tests.fakes.dhan import FakeDhan
from refresh_pipeline_tests.fakes.fxcm import FakeFxcm
from refresh_pipeline_tests.fakes.oanda import FakeOanda
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World, command

NOON = datetime(2024, 6, 7, 12, 30, 30, tzinfo=UTC)
# Friday 22:00 in London: the week is over, and Friday 15:50:30 in India: the session is.
WEEKEND = datetime(2024, 6, 14, 22, 0, tzinfo=UTC)
AFTERNOON = datetime(2024, 6, 14, 10, 20, 30, tzinfo=UTC)

OANDA = """
name: fx
source: {{kind: oanda, base_url: "{url}"}}
calendar: fx
two_sided: true
instruments: {{EUR/USD: {{}}, XAU/USD: {{}}, SPX500: {{symbol: SPX500_USD}}, USD/JPY: {{}}}}
timeframes: [m5, H4, MN1]
history: {{m5: 3d, H4: 30d, MN1: 1y}}
indicators: {{compute: [sma_10, mfi]}}
exports: {{default: {{layers: candles, formats: csv}}}}
"""
FXCM = """
name: fxhistory
source: {{kind: fxcm, base_url: "{url}"}}
calendar: fx
two_sided: true
instruments: [EUR/USD, USD/JPY]
timeframes: [H1, H4, D1]
history: {{H1: 20d, H4: 20d, D1: 20d}}
indicators: {{compute: [sma_10, mfi]}}
exports: {{default: {{layers: candles, formats: csv}}}}
"""
DHAN = """
name: nse
source: {{kind: dhan, base_url: "{url}"}}
calendar: nse
universe: shares.csv
timeframes: [m5, H2, D1, W1]
history: {{m5: 3d, H2: 3d, D1: 30d, W1: 30d}}
indicators: {{compute: [sma_10, mfi]}}
exports: {{default: {{layers: candles, formats: csv}}}}
"""
SHARES = "symbol,security_id,class\nRELIANCE,2885,\nTCS,11536,\nGONE,999,\nNIFTY,13,index\n"


def world_of(root: Path, yaml: str, name: str, settings: str = "") -> World:
    world = World.founded(root, yaml, name)
    with (root / ".env").open("a") as file:
        file.write(settings)
    (root / "markets" / "shares.csv").write_text(SHARES)
    return world


def once(market: str, now: datetime) -> Any:
    return command("once", "--market", market, "--now", now.isoformat())


def counts(world: World, market: str) -> dict[str, int]:
    rows = world.query(f"select instrument || '|' || timeframe, count(*) from {market}.raw_candles group by 1")
    return dict(rows)


def failures(world: World, market: str) -> dict[str, str]:
    rows = world.query(
        f"select instrument || '|' || timeframe, reason from {market}.outcomes "
        "where asset = 'raw_candles' and outcome = 'failed'"
    )
    return dict(rows)


def test_oanda_with_its_faults_is_refreshed_but_for_what_the_account_does_not_see(tmp_path: Path) -> None:
    with FakeOanda(NOON) as broker:
        world = world_of(tmp_path / "w", OANDA.format(url=broker.base_url), "fx", f"OANDA_TOKEN={broker.token}\n")
        broker.instruments.remove("SPX500_USD")
        broker.fail(oanda.DROPPED, path="EUR_USD")
        broker.fail(oanda.BUSY, path="USD_JPY")
        broker.correct("EUR_USD", "M5", "2024-06-07T12:00", h="0.1")
        with inside(world.root):
            result = once("fx", NOON)
    assert result.exit_code == 1
    assert set(failures(world, "fx")) == {"SPX500|m5", "SPX500|H4", "SPX500|MN1"}
    stored = counts(world, "fx")
    # A Tuesday noon to a Friday noon; the one whose high is below its low is set aside.
    assert (stored["EUR/USD|m5"], stored["USD/JPY|m5"]) == (3 * 288 - 1, 3 * 288)
    assert stored["XAU/USD|MN1"] == 12
    rows = world.query("select bool_and(bid_close < close and close < ask_close), max(source) from fx.raw_candles")
    assert rows == [(True, "oanda")]
    assert world.query("select reason from fx.rejected_candles") == [("high is below low",)]


def test_fxcms_archive_gives_history_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_of, "SECONDS_PER_REQUEST", 0.001)
    with FakeFxcm(WEEKEND, shifts={2024: -1}) as archive:
        world = world_of(tmp_path / "w", FXCM.format(url=archive.base_url), "fxhistory")
        with inside(world.root):
            result = once("fxhistory", WEEKEND)
    assert result.exit_code == 0
    stored = counts(world, "fxhistory")
    # From Saturday 25 May on: two weeks, as the third is not there yet.
    assert stored == {f"{pair}|{timeframe}": count for pair in ("EUR/USD", "USD/JPY")
                      for timeframe, count in (("H1", 240), ("H4", 60), ("D1", 10))}  # fmt: skip
    assert world.query("select count(volume), count(bid_low) from fxhistory.raw_candles") == [(0, 620)]


def test_dhan_with_its_faults_is_refreshed_but_for_what_it_does_not_know(tmp_path: Path) -> None:
    with FakeDhan(AFTERNOON, per_second=dhan.PER_SECOND) as venue:
        settings = f"DHAN_CLIENT_ID={venue.client_id}\nDHAN_ACCESS_TOKEN={venue.token}\n"
        world = world_of(tmp_path / "w", DHAN.format(url=venue.base_url), "nse", settings)
        venue.holidays = set()
        venue.fail(dhan.RATE_LIMIT_IN_200, securityId="2885")
        venue.fail(dhan.EMPTY, securityId="11536", interval="5")
        with inside(world.root):
            result = once("nse", AFTERNOON)
    assert result.exit_code == 1
    assert set(failures(world, "nse")) == {f"GONE|{timeframe}" for timeframe in ("m5", "H2", "D1", "W1")}
    assert all("security id that is not known (999" in reason for reason in failures(world, "nse").values())
    stored = counts(world, "nse")
    assert {stored[f"{share}|m5"] for share in ("RELIANCE", "TCS", "NIFTY")} == {3 * 75}
    # With the short bar of 15:15 that three days before lies in.
    assert stored["RELIANCE|H2"] == 1 + 3 * 4
    # Today's day comes in the evening; the week ends with it.
    newest = world.query("select timeframe, max(open_time)::varchar from nse.raw_candles group by 1 order by 1")
    assert newest == [
        ("D1", "2024-06-12 18:30:00"), ("H2", "2024-06-14 09:45:00"),
        ("W1", "2024-06-02 18:30:00"), ("m5", "2024-06-14 09:55:00"),
    ]  # fmt: skip
