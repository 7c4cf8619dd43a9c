"""A live market in Dagster: a run that streams, a sensor that keeps one going, refreshes that reconcile."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, this_process
from refresh_pipeline.instance.run_retention import TIMEFRAME_TAG, retention_of
from refresh_pipeline.market.model import MarketError, parse_market
from refresh_pipeline.market.timeframe import Timeframe
from refresh_pipeline.monitoring.problems import streamed_otherwise
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.orchestration.live_job import ASSETS, live_request
from refresh_pipeline.orchestration.schedules import left_to_live_run
from refresh_pipeline.pipeline.fetch import refresh_candles
from refresh_pipeline.pipeline.market_validation import require_usable
from refresh_pipeline.settings import load_settings
from refresh_pipeline.sources.registry import open_source
from refresh_pipeline_tests.fakes.binance_stream import StreamingBinance
from refresh_pipeline_tests.isolated_env import inside
from refresh_pipeline_tests.project_folder import QUIET, World

YAML = """
name: {name}
source: {{kind: {kind}}}
calendar: {name}
instruments: [BTC/USDT, ETH/USDT]
timeframes: [m1]
history: 2h
indicators: {{compute: [sma_10]}}
live: true
"""
CRYPTO = parse_market(YAML.format(name="crypto", kind="binance"), "crypto.yaml")
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)


def going_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    run = dg.DagsterRun(
        job_name="crypto_live", status=DagsterRunStatus.STARTED, tags={PROCESS_TAG: this_process(), TIMEFRAME_TAG: "m1"}
    )
    return instance.add_run(run)


def test_a_live_run_stores_candles_and_tells_dagster(tmp_path):
    with StreamingBinance(lambda: datetime.now(UTC), symbols=("BTCUSDT", "ETHUSDT")) as venue:
        yaml = YAML.format(name="crypto", kind=f"binance, base_url: {venue.base_url!r}")
        # The run ends with its first wave, which waits for both series however slow the machine is.
        yaml = yaml.replace("live: true", "live: {quiet: 5s, latest: 5s}")
        world = World.founded(tmp_path / "world", yaml, name="crypto")
        with inside(world.root), dg.DagsterInstance.ephemeral() as instance:
            job = build(world.settings, [world.market]).resolve_job_def("crypto_live")
            config = {"ops": {"crypto_stream": {"config": {"minutes": 0.001}}}, **QUIET}
            # Its first wave catches up with the venue.
            now, market, warehouse = datetime.now(UTC), world.market, world.warehouse
            warehouse.prepare(market)
            source = open_source(market, tmp_path / "limits")
            refresh_candles(warehouse, market, source, market.series, now, gaps={}, until=now - timedelta(minutes=3))
            job.execute_in_process(instance=instance, run_config=config)
            [(count, last)] = world.query("select min(candle_count), min(last_open_time) from crypto.series")
            told = [instance.get_materialized_partitions(dg.AssetKey(["crypto", asset.value])) for asset in ASSETS]
            [observation] = instance.fetch_observations(dg.AssetKey(["crypto", "raw_candles"]), limit=1).records
    assert count >= 118
    assert last >= now.replace(tzinfo=None) - timedelta(minutes=3)
    assert told == [{"BTC/USDT|m1", "ETH/USDT|m1"}] * 3
    assert observation.asset_observation
    assert observation.asset_observation.metadata["candles"].value == 2


def test_the_sensor_asks_for_a_run_while_the_market_is_open():
    request = live_request(CRYPTO, NOON)
    assert isinstance(request, dg.RunRequest)
    assert request.tags == {TIMEFRAME_TAG: "m1"}
    fx = parse_market(YAML.format(name="fx", kind="demo"), "fx.yaml")
    skipped = live_request(fx, NOON - timedelta(days=1))
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "fx is closed"


def test_refreshes_of_a_live_market_reconcile_once_an_hour():
    with dg.DagsterInstance.ephemeral() as instance:
        previous = NOON - timedelta(minutes=20)
        assert left_to_live_run(instance, CRYPTO, previous, NOON) is None
        run = going_run(instance)
        skipped = left_to_live_run(instance, CRYPTO, previous, NOON)
        assert skipped is not None
        assert skipped.skip_message == f"crypto is live in run {run.run_id}; the next reconciliation is at 12:40 UTC"
        assert left_to_live_run(instance, CRYPTO, NOON - timedelta(hours=1), NOON) is None
        assert left_to_live_run(instance, CRYPTO, None, NOON) is None
        assert retention_of(run) == timedelta(days=3)
    assert CRYPTO.reread_of(Timeframe.m1) == 65
    assert CRYPTO.reread_of(Timeframe.H1) == 10


def test_candles_that_a_reconciliation_corrected_are_a_problem(tmp_path):
    world = World.founded(
        tmp_path / "world", YAML.format(name="crypto", kind="demo").replace("true", "false"), "crypto"
    )
    live = CRYPTO.model_copy(update={"live": CRYPTO.live})
    with inside(world.root):
        world.warehouse.prepare(live)
        assert list(streamed_otherwise(live, world.warehouse, NOON)) == []
        world.change(
            "insert into crypto.raw_candle_revisions (instrument, timeframe, open_time, replaced_at) "
            "values ('BTC/USDT', 'm1', '2026-06-01T11:30', '2026-06-01T11:55')"
        )
        [problem] = streamed_otherwise(live, world.warehouse, NOON)
    assert problem.text == "1 candles of the last hour differ from what was streamed and were corrected by a refresh"


def test_live_mode_of_a_source_without_streams_is_refused(tmp_path):
    market = parse_market(YAML.format(name="crypto", kind="demo"), "crypto.yaml")
    with inside(tmp_path), pytest.raises(MarketError, match=r"live: found source.kind 'demo'; allowed: binance"):
        require_usable(load_settings(), market)


@pytest.mark.parametrize("live", ["5", "{quiet: 25}", "{streams: 0}", "[]"])
def test_wrong_live_settings_are_told(live):
    with pytest.raises(MarketError, match="live"):
        parse_market(YAML.format(name="crypto", kind="binance").replace("live: true", f"live: {live}"), "crypto.yaml")
