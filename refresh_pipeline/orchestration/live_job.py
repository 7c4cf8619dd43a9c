"""A market's live run as Dagster sees it: a job whose runs last an hour, and the sensor that asks for the next one.

Every event costs space for as long as the run is kept. So the run tells Dagster of a tenth of its partitions each
minute, and of every series that was late, filled or read anew. Before it ends it tells of all.
"""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import numpy as np
from dagster import DagsterEvent, DagsterEventType
from dagster._core.events import DagsterEventBatchMetadata, StepMaterializationData

from refresh_pipeline.instance.orphaned_runs import claim
from refresh_pipeline.instance.run_retention import TIMEFRAME_TAG
from refresh_pipeline.market.candles import instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series, listing
from refresh_pipeline.orchestration.resources import Venues, VenuesParam, WarehouseParam
from refresh_pipeline.orchestration.skips import Answer, still_running
from refresh_pipeline.pipeline.job_names import live_job_name
from refresh_pipeline.settings import secret
from refresh_pipeline.sources.registry import open_stream
from refresh_pipeline.streaming.live_run import Clock, LiveRun, Parts, Report
from refresh_pipeline.streaming.push import PushDoor
from refresh_pipeline.warehouse.schema import Table

SECONDS_BETWEEN_LOOKS = 5
# Each minute tells of one in so many partitions.
SHARES = 10
ASSETS = (Table.raw_candles, Table.enhanced_candles, Table.indicators)
# Seconds between two looks whether somebody has ended the run.
LOOK = 0.2
SHARE_SOON = 0.95


class LiveConfig(dg.Config):
    """Fields of the launchpad."""

    # How long the run lasts; its events can be pruned once a later run has superseded it.
    minutes: float = 60.0


def live_job(market: Market) -> dg.JobDefinition:
    """The job whose run streams the market's candles for an hour."""

    @dg.op(
        name=f"{market.name}_stream",
        description=f"Streams the candles of {market.name}, computes them and writes them, for an hour.",
    )
    def stream(
        context: dg.OpExecutionContext, config: LiveConfig, warehouse: WarehouseParam, venues: VenuesParam
    ) -> None:
        claim(context)
        events = _Events(context, market)
        with _door(market, venues) as door:
            parts = Parts(
                warehouse,
                venues.open(market),
                open_stream(market, venues.limits_dir, secret),
                Clock(lambda: datetime.now(UTC)),
                run_id=context.run_id,
                report=events.tell,
                pushed=door.push if door else lambda waves: None,
            )
            try:
                run_until(LiveRun(market, parts), datetime.now(UTC) + timedelta(minutes=config.minutes))
            finally:
                events.tell_all()

    @dg.job(
        name=live_job_name(market),
        description=f"Streams {market.name}'s candles: fresh half a second after their close.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        stream()

    return job


def _door(market: Market, venues: Venues) -> AbstractContextManager[PushDoor | None]:
    if venues.live_dir is None:
        return nullcontext()
    return PushDoor(venues.live_dir, market.name)


def live_sensor(market: Market) -> dg.SensorDefinition:
    """Ask for a live run where none goes."""

    @dg.sensor(
        name=live_job_name(market),
        job_name=live_job_name(market),
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Keeps a live run of {market.name} going while its market is open.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return still_running(context.instance, live_job_name(market)) or live_request(market, datetime.now(UTC))

    return sensor


def live_request(market: Market, now: datetime) -> Answer:
    """A live run while the market is open, or opens within minutes; the reason for none otherwise."""
    calendar, soon = market.calendar, now + timedelta(minutes=5)
    if calendar.is_open(np.array([instant(now), instant(soon)])).any():
        return dg.RunRequest(tags={TIMEFRAME_TAG: min(market.timeframes).value})
    return dg.SkipReason(f"{market.name} is closed")


def run_until(run: LiveRun, until: datetime) -> None:
    """Run until an instant, or until an interrupt of this thread, which ends the run after its present wave."""
    errors: list[BaseException] = []
    # Not `join`: where an interrupt comes during it, Python takes the thread for ended (3.11 and 3.12).
    ended = threading.Event()

    def work() -> None:
        try:
            run.run(until)
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=work, name="live-run", daemon=True).start()
    try:
        while not ended.wait(LOOK):
            pass
    finally:
        run.end()
        ended.wait()
    if errors:
        raise errors[0]


@dataclass(slots=True)
class _Events:
    """The events of one run."""

    context: dg.OpExecutionContext
    market: Market
    # The newest close that each series was told of, or is to be told of.
    newest: dict[Series, np.datetime64] = field(default_factory=dict)
    minute: int = 0

    def tell(self, report: Report) -> None:
        """Tell Dagster of one bar: a line, an observation with the figures, and materializations of some series."""
        self.newest |= dict.fromkeys(report.series, report.close)
        self.minute += 1
        in_turn = [each for number, each in enumerate(self.newest) if number % SHARES == self.minute % SHARES]
        told = dict.fromkeys([*in_turn, *report.late, *report.filled, *report.reloaded])
        self._materialize([each for each in told if each in self.newest])
        if report.readable:
            self.context.log.info("%s", summary(report))
            key = dg.AssetKey([self.market.name, Table.raw_candles.value])
            self.context.log_event(dg.AssetObservation(key, metadata=figures(report)))

    def tell_all(self) -> None:
        """Tell of every series, as the run ends."""
        self._materialize(list(self.newest))

    def _materialize(self, series: Sequence[Series]) -> None:
        """Write the events of these series as one batch."""
        events = [
            dg.AssetMaterialization(
                dg.AssetKey([self.market.name, asset.value]),
                partition=dg.MultiPartitionKey({"instrument": each.instrument, "timeframe": each.timeframe.value}),
                metadata={
                    "outcome": "updated",
                    "source": self.market.source.kind,
                    "live": True,
                    "close": dg.MetadataValue.timestamp(float(self.newest[each].astype(np.int64)) / 1e6),
                },
            )
            for asset in ASSETS
            for each in series
        ]
        context, batch = self.context, uuid4().hex
        for number, materialization in enumerate(events):
            context.instance.report_dagster_event(
                DagsterEvent(
                    DagsterEventType.ASSET_MATERIALIZATION.value,
                    job_name=context.job_name,
                    event_specific_data=StepMaterializationData(materialization),
                    step_key=context.op.name,
                ),
                run_id=context.run_id,
                batch_metadata=DagsterEventBatchMetadata(batch, number == len(events) - 1),
            )


def summary(report: Report) -> str:
    """A bar in one line.

    >>> from refresh_pipeline.market.timeframe import Timeframe
    >>> report = Report(np.datetime64("2024-06-03T12:01", "us"), [Series("A", Timeframe.m1)], [0.4])
    >>> summary(report)
    '12:01: 1 candles, readable after 0.40 s (all after 0.40 s); 0 late, 0 filled by REST, 0 missing, 0 reconnects'
    """
    soon, last = report.lateness(SHARE_SOON) or 0.0, report.lateness(1.0) or 0.0
    text = (
        f"{str(report.close)[11:16]}: {len(report.series)} candles, readable after {soon:.2f} s (all after {last:.2f} "
        f"s); {len(report.late)} late, {len(report.filled)} filled by REST, {len(report.missing)} missing, "
        f"{report.reconnects} reconnects"
    )
    return f"{text}; read anew: {listing(report.reloaded)}" if report.reloaded else text


def figures(report: Report) -> dict[str, float | int]:
    """A bar's figures, as Dagster plots them."""
    return {
        "candles": len(report.series),
        "lateness_seconds": round(report.lateness(SHARE_SOON) or 0.0, 3),
        "lateness_of_all_seconds": round(report.lateness(1.0) or 0.0, 3),
        "late": len(report.late),
        "filled": len(report.filled),
        "missing": len(report.missing),
        "reconnects": report.reconnects,
        "reloaded": len(report.reloaded),
        "clock_offset_seconds": round(report.clock_offset, 3),
    }
