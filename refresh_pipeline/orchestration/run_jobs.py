"""A refresh from the command line: the market's jobs, one after the other, in this process, on the instance."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from filelock import FileLock

from refresh_pipeline.destinations.upload_url import OFF
from refresh_pipeline.instance.disk_reserve import keep_reserve
from refresh_pipeline.instance.instance_file import require_database
from refresh_pipeline.instance.orphaned_runs import PROCESS_TAG, going_runs, this_process
from refresh_pipeline.market.candles import parse_instant
from refresh_pipeline.market.gaps import Gap, Place
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.partition_ranges import range_tags
from refresh_pipeline.market.series import Series
from refresh_pipeline.orchestration.build import build
from refresh_pipeline.orchestration.failed_runs import failure_reason, is_interrupt
from refresh_pipeline.orchestration.materialization import EVERY_SERIES_FAILED
from refresh_pipeline.orchestration.resources import uploads_of
from refresh_pipeline.orchestration.run_options import KEY
from refresh_pipeline.pipeline.job_names import (
    backfill_job_name,
    candle_check_job_name,
    check_job_name,
    publish_job_name,
    refresh_job_name,
)
from refresh_pipeline.settings import Settings, prepare_dagster
from refresh_pipeline.warehouse import gaps, queries
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable, connect, place_of
from refresh_pipeline.warehouse.queries import SeriesOutcome
from refresh_pipeline.warehouse.schema import Table

LOG_LEVELS = ("CRITICAL", "INFO", "DEBUG")


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What one refresh of one market came to."""

    market: Market
    outcomes: Sequence[SeriesOutcome]
    # What went wrong beyond single series, whose reasons the outcomes tell.
    errors: Sequence[str]
    # Sentences that are not true, with the number of faults.
    failed_checks: Mapping[str, str]
    # Where warehouse, exports and uploads are, or that uploads are off.
    places: Mapping[str, str]
    # What is missing between the candles of series that were fetched, and that the source has not denied twice.
    gaps: Sequence[Gap] = ()

    @property
    def succeeded(self) -> bool:
        """Whether every step ran and no series failed."""
        return not self.errors and not any(outcome.outcome == "failed" for outcome in self.outcomes)


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The project's Dagster instance."""
    home = prepare_dagster(settings)
    require_database(home / "dagster.yaml")
    # Two processes that both find no databases would both create them, and one of them would fail.
    with FileLock(home / "creating.lock"):
        instance = dg.DagsterInstance.get()
    keep_reserve(settings.data, home)
    with instance:
        yield instance


def refresh_once(
    settings: Settings, market: Market, series: Sequence[Series], options: Mapping[str, str], verbose: int
) -> Refreshed:
    """Run the market's refresh and then its publishing, for these series; raises as `run_jobs` does."""
    checks = [candle_check_job_name(market)] if market.chunks else []
    jobs = [refresh_job_name(market), *checks, publish_job_name(market)]
    return run_jobs(settings, market, series, jobs, options=options, verbose=verbose)


def publish_once(
    settings: Settings, market: Market, series: Sequence[Series], options: Mapping[str, str], verbose: int
) -> Refreshed:
    """Run the market's publishing alone, for these series; raises as `run_jobs` does."""
    return run_jobs(settings, market, series, [publish_job_name(market)], options=options, verbose=verbose)


def backfill(
    settings: Settings, market: Market, series: Sequence[Series], options: Mapping[str, str], verbose: int
) -> Refreshed:
    """Run the market's backfill for these series, beside whatever else is going; raises as `run_jobs` does."""
    jobs = [backfill_job_name(market)]
    return run_jobs(settings, market, series, jobs, options={**options, "missing_only": True}, verbose=verbose)


def run_jobs(
    settings: Settings,
    market: Market,
    series: Sequence[Series],
    jobs: Sequence[str],
    *,
    options: Mapping[str, str | bool],
    verbose: int,
) -> Refreshed:
    """Run jobs of a market one after the other, for these series.

    Raises:
        MarketError: the market's YAML says something of its source that the source does not know.
        KeyboardInterrupt: somebody wants it to end; the run at hand is on record as canceled.
    """
    definitions = build(settings, [market])
    tags = range_tags(market, [member.instrument for member in series], [member.timeframe for member in series])
    narrowing = {} if len(series) == len(market.series) else {"series": [member.key for member in series]}
    run_config = {
        "resources": {KEY: {"config": {**options, **narrowing}}},
        "loggers": {"console": {"config": {"log_level": LOG_LEVELS[min(verbose, 2)]}}},
    }
    with dagster_instance(settings) as instance:
        # Checks have no partitions.
        tags_of = {candle_check_job_name(market): {}}
        results = [_executed(instance, definitions, name, tags_of.get(name, tags), run_config) for name in jobs]
    outcomes = _outcomes(settings, market, [result.run_id for result in results])
    return Refreshed(
        market,
        outcomes,
        [message for result in results for message in _errors(result)],
        {name: count for result in results for name, count in _failed_checks(result).items()},
        _places(settings, market),
        _gaps(settings, market, outcomes, str(options.get("now", ""))),
    )


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one asset check."""

    market: str
    asset: str
    name: str
    # What is true when the check passes.
    statement: str
    passed: bool
    # The number of faults in words, where there are any, and the first of them.
    summary: str
    faults: Sequence[str]


def run_checks(
    settings: Settings, market: Market, options: Mapping[str, str], verbose: int
) -> tuple[list[CheckResult], list[str]]:
    """Run the checks of every asset of a market as a Dagster run; the results, and the errors of checks that failed.

    Raises:
        MarketError: the market's YAML says something of its source that the source does not know.
        KeyboardInterrupt: somebody wants it to end; the run at hand is on record as canceled.
    """
    definitions = build(settings, [market])
    run_config = {
        "resources": {KEY: {"config": dict(options)}},
        "loggers": {"console": {"config": {"log_level": LOG_LEVELS[min(verbose, 2)]}}},
    }
    with dagster_instance(settings) as instance:
        result = _executed(instance, definitions, check_job_name(market), {}, run_config)
    statements = {
        spec.key: spec.description or "" for check in definitions.asset_checks or [] for spec in check.check_specs
    }
    results = [
        _check_result(evaluation, statements.get(evaluation.asset_check_key, ""))
        for evaluation in result.get_asset_check_evaluations()
    ]
    return results, _errors(result)


def _check_result(evaluation: dg.AssetCheckEvaluation, statement: str) -> CheckResult:
    market, asset = evaluation.asset_key.path
    table = evaluation.metadata.get("first_faults")
    records = table.records if isinstance(table, dg.TableMetadataValue) else []
    faults = [" ".join(str(value) for value in record.data.values() if value) for record in records]
    summary = evaluation.description or ""
    return CheckResult(market, asset, evaluation.check_name, statement, evaluation.passed, summary, faults)


def _executed(
    instance: dg.DagsterInstance,
    definitions: dg.Definitions,
    name: str,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
) -> dg.ExecuteInProcessResult:
    going_runs(instance, name)
    with _canceled_when_interrupted(instance):
        result = definitions.resolve_job_def(name).execute_in_process(
            instance=instance,
            tags={**tags, PROCESS_TAG: this_process()},
            run_config=dict(run_config),
            raise_on_error=False,
        )
        if _was_interrupted(result):
            raise KeyboardInterrupt
    return result


def _outcomes(settings: Settings, market: Market, run_ids: Sequence[str]) -> list[SeriesOutcome]:
    if not place_of(settings.warehouse).exists:
        return []
    # A file that cannot be opened was told already, as the error of the step that needed it.
    with suppress(WarehouseBusy, WarehouseUnreadable), connect(settings.warehouse, read_only=True) as connection:
        if queries.has_tables(connection, market.name):
            return queries.outcomes_of(connection, market.name, run_ids)
    return []


def _gaps(settings: Settings, market: Market, outcomes: Sequence[SeriesOutcome], now: str) -> list[Gap]:
    fetched = {each.series for each in outcomes if each.asset == Table.raw_candles and each.outcome != "failed"}
    if not fetched:
        return []
    with suppress(WarehouseBusy, WarehouseUnreadable), connect(settings.warehouse, read_only=True) as connection:
        found = gaps.gaps(connection, market, parse_instant(now) if now else datetime.now(UTC))
        # The newest candles come with the next refresh.
        between = [gap for gap in found if gap.place not in (Place.end, Place.whole)]
        return [gap for gap in between if gap.series in fetched and not gap.is_confirmed]
    return []


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    # Dagster takes a signal for a step's failure, and would begin with the next job.
    failures = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(is_interrupt(error) for error in failures)


@contextmanager
def _canceled_when_interrupted(instance: dg.DagsterInstance) -> Iterator[None]:
    """Put this process's newest run on record as canceled, not as failed, when an interrupt ends the block."""
    try:
        yield
    except KeyboardInterrupt:
        for record in instance.get_run_records(RunsFilter(tags={PROCESS_TAG: this_process()}), limit=1):
            if record.dagster_run.status not in (DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED):
                instance.report_run_canceled(record.dagster_run, "Interrupted by Ctrl-C or SIGTERM.")
        raise


def _errors(result: dg.ExecuteInProcessResult) -> list[str]:
    failures = [(event.step_key, failure_reason(event)) for event in result.all_events if event.is_step_failure]
    return [f"{step}: {message}" for step, message in failures if EVERY_SERIES_FAILED not in message]


def _failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    evaluations = result.get_asset_check_evaluations()
    return {
        evaluation.check_name: str(evaluation.metadata["faults"].value)
        for evaluation in evaluations
        if not evaluation.passed
    }


def _places(settings: Settings, market: Market) -> dict[str, str]:
    places = {"warehouse": settings.warehouse, "exports": str(settings.exports_dir)}
    # A wrong destination was told already, as the error of the step that needed it.
    with suppress(ValueError):
        destination = uploads_of(settings).open(market.uploads)
        places["uploads"] = destination.url if destination else OFF
    return places
