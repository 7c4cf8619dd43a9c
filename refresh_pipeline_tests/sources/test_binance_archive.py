"""Long histories come from bulk archives, the rest from the API, and together they are what the API alone gives."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from refresh_pipeline.market.candles import CANDLE_COLUMNS, BulkFile, Candles, instant
from refresh_pipeline.market.model import Market, parse_market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.sources import Fetched, Request, TransientError
from refresh_pipeline.sources.binance import BinanceOptions, BinanceSource
from refresh_pipeline.sources.binance_archive import archive_at, is_worth_it, next_archive
from refresh_pipeline.sources.http_client import RetryPolicy
from refresh_pipeline_tests.fakes.binance import FakeBinance
from refresh_pipeline_tests.fakes.binance_archive import FakeArchive
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import World, command

# January's month is out, February's is not; a part of today is.
NOW = datetime(2025, 2, 20, 12, 0, 30, tzinfo=UTC)
QUICK = RetryPolicy(attempts=2, first_wait=0.01, answer=5.0, limits=2.0)
BTC = Series("BTC/USDT", Timeframe.m15)


@pytest.fixture
def venue() -> Iterator[FakeBinance]:
    with FakeBinance(["BTCUSDT"], now=NOW) as server:
        yield server


@pytest.fixture
def archive(venue: FakeBinance) -> Iterator[FakeArchive]:
    with FakeArchive(venue) as server:
        yield server


def market(venue: FakeBinance, archive: FakeArchive | None, timeframes: str = "m1, m15, H1") -> Market:
    more = f', archive_url: "{archive.base_url}"' if archive else ""
    return parse_market(
        f'{{name: crypto, source: {{kind: binance, base_url: "{venue.base_url}"{more}}}, calendar: crypto, '
        f"instruments: [BTC/USDT], timeframes: [{timeframes}], history: 1d}}",
        "crypto.yaml",
    )


def fetched(
    venue: FakeBinance, archive: FakeArchive | None, folder: Path, since: str, timeframe: Timeframe = Timeframe.m15
) -> list[Fetched]:
    request = Request(Series("BTC/USDT", timeframe), instant(since), instant(NOW))
    got = list(BinanceSource(market(venue, archive), folder, retry_policy=QUICK).fetch([request], NOW))
    assert [each.last for each in got] == [False] * (len(got) - 1) + [True]
    return got


def whole(chunks: list[Fetched]) -> Candles:
    assert [str(each.error) for each in chunks if each.error] == []
    return Candles.concatenated([each.candles for each in chunks])


def test_archives_and_the_rest_are_what_the_api_alone_gives(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    # Milliseconds until December, microseconds from January.
    got = whole(fetched(venue, archive, tmp_path, "2024-10-15T06:30"))
    assert archive.files == ["2024-11", "2024-12", "2025-01"]
    pages = len(venue.pages)
    alone = whole(fetched(venue, None, tmp_path, "2024-10-15T06:30"))
    assert list(got.open_time) == list(alone.open_time)
    for name in CANDLE_COLUMNS:
        assert np.array_equal(got[name], alone[name])
    assert pages < (len(venue.pages) - pages) / 2


def test_minutes_of_a_month_that_is_not_out_come_by_the_day(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    got = whole(fetched(venue, archive, tmp_path, "2025-02-12T18:00", Timeframe.m1))
    assert archive.files == [f"2025-02-{day}" for day in range(13, 19)]
    assert set(np.diff(got.open_time).astype("timedelta64[m]").astype(int)) == {1}
    assert (str(got.open_time[0])[:16], str(got.open_time[-1])[:16]) == ("2025-02-12T18:00", "2025-02-20T11:59")
    # A bit of the 12th, and what is not a whole day that is out.
    assert len(venue.pages) == 1 + 3


@pytest.mark.parametrize(("since", "timeframe"), [("2025-01-01", Timeframe.m15), ("2017-09-01", Timeframe.H1)])
def test_what_a_few_pages_hold_is_not_asked_of_the_archives(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path, since: str, timeframe: Timeframe
) -> None:
    whole(fetched(venue, archive, tmp_path, since, timeframe))
    assert archive.asked == []


def test_years_before_the_listing_cost_one_question(venue: FakeBinance, archive: FakeArchive, tmp_path: Path) -> None:
    venue.listed = datetime(2024, 11, 10, 7, tzinfo=UTC)
    got = whole(fetched(venue, archive, tmp_path, "2017-08-01"))
    assert str(got.open_time[0])[:16] == "2024-11-10T07:00"
    assert archive.files == ["2024-11", "2024-12", "2025-01"]
    assert archive.looks == 4


def test_a_month_that_the_archive_does_not_have_comes_from_the_api(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    archive.missing.add("2024-12")
    got = whole(fetched(venue, archive, tmp_path, "2024-10-01"))
    assert archive.files == ["2024-10", "2024-11", "2025-01"]
    assert set(np.diff(got.open_time).astype("timedelta64[m]").astype(int)) == {15}


def test_an_archive_that_is_damaged_is_worth_asking_for_again(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    archive.garbled.add("2024-11")
    got = fetched(venue, archive, tmp_path, "2024-10-01")
    assert isinstance(got[-1].error, TransientError)
    assert "the archive cannot be read" in str(got[-1].error)
    assert archive.files == ["2024-10", "2024-11", "2024-11"]
    assert sum(len(each.candles) for each in got) == 31 * 96


def test_an_archive_that_is_not_what_its_checksum_says_is_not_believed(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    archive.fail(Fault(200, "0" * 64 + "  BTCUSDT-15m-2024-10.zip"), path="2024-10.zip.CHECKSUM")
    error = fetched(venue, archive, tmp_path, "2024-10-01")[-1].error
    assert isinstance(error, TransientError)
    assert "not what its CHECKSUM says" in str(error)


def test_a_download_that_breaks_off_is_begun_again(venue: FakeBinance, archive: FakeArchive, tmp_path: Path) -> None:
    archive.fail(Fault(drops=True), path="2024-10.zip")
    assert len(whole(fetched(venue, archive, tmp_path, "2024-10-01"))) > 13_000


def test_only_binances_own_host_has_binances_own_archive() -> None:
    assert BinanceOptions().archive == "https://data.binance.vision"
    assert BinanceOptions(base_url="http://127.0.0.1:1").archive is None
    assert (
        BinanceOptions(base_url="http://127.0.0.1:1", archive_url="http://127.0.0.1:2").archive == "http://127.0.0.1:2"
    )


def test_files_that_were_issued_again_are_known_by_their_checksum(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    files = [each.file for each in fetched(venue, archive, tmp_path, "2024-10-01") if each.file]
    source = BinanceSource(market(venue, archive), tmp_path, retry_policy=QUICK)
    assert source.reissued({BTC: files}) == {}
    venue.correct("BTCUSDT", "15m", "2024-11-07T12:00", close="1.00000000", low="1.00000000")
    assert source.reissued({BTC: files}) == {BTC: [files[1]]}
    # What cannot be had now is no news.
    archive.fail(Fault(500), times=99)
    assert source.reissued({BTC: files}) == {}
    unknown = BulkFile("/data/nowhere.zip", "0" * 64, files[0].since, files[0].until)
    archive.heal()
    assert source.reissued({BTC: [unknown]}) == {}


def test_a_backfill_reads_an_archive_again_that_was_issued_again_and_keeps_what_was_corrected(
    venue: FakeBinance, archive: FakeArchive, tmp_path: Path
) -> None:
    yaml = (
        f'{{name: bazaar, source: {{kind: binance, base_url: "{venue.base_url}", archive_url: "{archive.base_url}"}}, '
        "calendar: crypto, instruments: [BTC/USDT], timeframes: [m15], history: 1d, indicators: {compute: [sma_10]}}"
    )
    world = World.founded(tmp_path / "world", yaml)
    arguments = ("backfill", "--since", "2024-10-01", "--now", NOW.isoformat())
    with inside(world.root):
        assert command(*arguments).exit_code == 0
        assert archive.files == ["2024-10", "2024-11", "2024-12", "2025-01"]
        was = float(venue.candle("BTCUSDT", "15m", "2024-11-07T12:00")[4])
        venue.correct("BTCUSDT", "15m", "2024-11-07T12:00", close="1.00000000", low="1.00000000")
        pages = len(venue.pages)
        assert command(*arguments).exit_code == 0
        assert archive.files[4:] == ["2024-11"]
        assert len(venue.pages) == pages
        assert world.query("select close from bazaar.raw_candle_revisions") == [(was,)]
        assert world.query("select close from bazaar.raw_candles where open_time = '2024-11-07 12:00'") == [(1.0,)]
        assert command(*arguments).exit_code == 0
        assert len(archive.files) == 5
        assert world.query("select count(*) from bazaar.archive_files") == [(4,)]


def test_which_archive_begins_where() -> None:
    def at(text: str) -> np.datetime64:
        return np.datetime64(text, "us")

    now, end = at("2025-02-20T12"), at("2025-02-20")
    assert archive_at(Timeframe.m15, at("2025-01-01"), end, now) is not None
    # Not out yet, not whole, not at its beginning.
    assert archive_at(Timeframe.m15, at("2025-02-01"), end, now) is None
    assert archive_at(Timeframe.m15, at("2025-01-01"), at("2025-01-31"), now) is None
    assert archive_at(Timeframe.m15, at("2025-01-01T00:15"), end, now) is None
    assert archive_at(Timeframe.m1, at("2025-02-19"), end, now) is None
    assert next_archive(Timeframe.m15, at("2024-12-03"), end, now) == at("2025-01-01")
    assert next_archive(Timeframe.m1, at("2024-12-03T05"), end, now) == at("2024-12-04")
    assert next_archive(Timeframe.m15, at("2025-02-03"), end, now) == end
    assert is_worth_it(Timeframe.m15, at("2025-01-01"), at("2025-02-01"), now)
    assert not is_worth_it(Timeframe.m15, at("2025-01-01"), at("2025-02-02"), now)
    assert not is_worth_it(Timeframe.H1, at("2010-01-01"), end, now)
