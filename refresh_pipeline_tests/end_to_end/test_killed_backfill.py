"""A backfill that is killed at work keeps what it had committed and does not download it again."""

import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from refresh_pipeline_tests.end_to_end.programs import PATIENCE, end_session, finished, running
from refresh_pipeline_tests.fakes.binance import FakeBinance, slow
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World

NOW = datetime(2024, 6, 1, 12, 0, 30, tzinfo=UTC)
YAML = """
name: crypto
source: {{kind: binance, base_url: "{base_url}"}}
calendar: crypto
instruments: [BTC/USDT]
timeframes: [m1]
history: 1h
indicators: {{compute: [sma_10, obv], keep: {{m1: 60d}}}}
"""
DAYS = 40
BACKFILL = ("backfill", "--since", "2024-04-22T12:00", "--now", NOW.isoformat())


def killed_after(venue: FakeBinance, pages: int) -> None:
    """Start the backfill and kill it once it has asked for so many pages."""
    with running("refresh", *BACKFILL) as process:
        deadline = time.monotonic() + PATIENCE
        while len(venue.pages) < pages:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        end_session(process)


def stored_minutes(world: World) -> np.ndarray:
    if not (world.root / "data" / "refresh.duckdb").exists():
        return np.array([], dtype=np.int64)
    rows = world.query("select epoch_ms(open_time) from crypto.raw_candles order by open_time")
    return np.array([row[0] for row in rows], dtype=np.int64)


def test_what_was_committed_before_a_kill_is_not_downloaded_again(tmp_path: Path) -> None:
    with FakeBinance(now=NOW) as venue:
        venue.fail(slow(0.06), times=10_000, path="klines")
        world = World.founded(tmp_path / "world", YAML.format(base_url=venue.base_url), "crypto")
        with inside(world.root):
            # A stretch in the middle is there before.
            once = finished("refresh", "backfill", "--since", "2024-05-10", "--until", "2024-05-11", *BACKFILL[3:])
            assert once.returncode == 0, once.stderr
            before, asked = stored_minutes(world), len(venue.pages)
            killed_after(venue, asked + 45)
            assert_none_again(venue, before, asked)
            assert len(stored_minutes(world)) > len(before)
            before, asked = stored_minutes(world), len(venue.pages)
            venue.heal()
            again = finished("refresh", *BACKFILL)
            assert again.returncode == 0, again.stdout + again.stderr
            assert_none_again(venue, before, asked)
            assert len(venue.pages) - asked <= (DAYS * 1440 - len(before)) // 1000 + 2
            minutes = stored_minutes(world)
            assert len(minutes) == DAYS * 1440
            assert set(np.diff(minutes)) == {60_000}
            assert world.counts("indicators") == world.counts()


def assert_none_again(venue: FakeBinance, stored: np.ndarray, asked: int) -> None:
    """No page that was asked for since then begins with a candle that was stored."""
    starts = [start for _, start in venue.pages[asked:]]
    assert starts
    assert not set(starts) & set(stored.tolist())
