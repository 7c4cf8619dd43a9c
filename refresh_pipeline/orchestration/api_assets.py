"""API snapshots as Dagster sees them: one partitioned asset per collection, its checks, its job and its schedule.

A tick is one run of the questions that are due. Asking and storing is `pipeline.api_snapshots`' part.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from refresh_pipeline.api_files import overrides
from refresh_pipeline.instance.orphaned_runs import claim
from refresh_pipeline.instance.wide_run import describe_partitions, materialize_only
from refresh_pipeline.market.apis import ApiQuestion, Collection, Override, overridden, shortest_interval
from refresh_pipeline.market.partition_ranges import RANGE_END, RANGE_START
from refresh_pipeline.orchestration.checks import WARN
from refresh_pipeline.orchestration.resources import WarehouseParam
from refresh_pipeline.orchestration.skips import still_running
from refresh_pipeline.pipeline import api_exports, api_snapshots
from refresh_pipeline.pipeline.job_names import snapshots_job_name
from refresh_pipeline.settings import Settings, secret
from refresh_pipeline.warehouse.arrays import timestamp
from refresh_pipeline.warehouse.check_results import CheckResult, record_checks
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable, transaction
from refresh_pipeline.warehouse.outcomes import Attempt, Outcome
from refresh_pipeline.warehouse.snapshots import ASSET, prepare
from refresh_pipeline.warehouse.warehouse import Warehouse

MISSED_TICKS = 3
SLACK = timedelta(minutes=1)
# Seconds that a tick waits for the warehouse's lock.
PATIENCE = 5.0
# Failed partitions of one run that get an observation with the reason.
MOST_OBSERVED = 20


class SnapshotRun(dg.Config):
    """What a run asks: every question of its partitions, or those of them that are due."""

    only_due: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotDefinitions:
    """Everything Dagster knows of one collection."""

    asset: dg.AssetsDefinition
    checks: Sequence[dg.AssetChecksDefinition]
    job: UnresolvedAssetJobDefinition
    schedule: dg.ScheduleDefinition


def snapshot_definitions(settings: Settings, collection: Collection) -> SnapshotDefinitions:
    """The asset, checks, job and schedule of a collection."""
    return SnapshotDefinitions(
        snapshot_asset(settings, collection),
        [snapshot_checks(settings, collection)],
        snapshot_job(collection),
        snapshot_schedule(settings, collection),
    )


def snapshot_asset(settings: Settings, collection: Collection) -> dg.AssetsDefinition:
    """The payloads of a collection, a partition for each question."""
    shortest = shortest_interval(collection.questions)

    @dg.asset(
        name=ASSET,
        key_prefix=collection.name,
        group_name=collection.name,
        description=collection.description
        or "The answers of APIs, each stored when it differs from the one before, with views for their columns.",
        kinds={"duckdb", "api"},
        tags={"layer": "raw", "source": "api"},
        partitions_def=dg.StaticPartitionsDefinition([question.id for question in collection.questions]),
        backfill_policy=dg.BackfillPolicy.single_run(),
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=shortest * MISSED_TICKS + SLACK, warn_window=shortest * (MISSED_TICKS - 1) + SLACK
        ),
        metadata={
            "dagster/table_name": f"{collection.name}.{ASSET}",
            "manual": dg.MetadataValue.md("docs/apis.md, `refresh apis list`"),
        },
    )
    def snapshots(
        context: dg.AssetExecutionContext, config: SnapshotRun, warehouse: WarehouseParam
    ) -> dg.MaterializeResult:
        claim(context)
        now = datetime.now(UTC)
        questions = _wanted(warehouse, settings, collection, context.partition_keys, now, only_due=config.only_due)
        attempts = api_snapshots.refresh(warehouse, collection, questions, now, secret, limits_dir=settings.limits_dir)
        changed = [name for name, attempt in attempts.items() if attempt.outcome is Outcome.updated]
        for path in api_exports.write(warehouse, collection, settings.exports_dir, changed):
            context.log.info("written: %s", path)
        return materialized(context, attempts)

    return snapshots


def _wanted(
    warehouse: Warehouse,
    settings: Settings,
    collection: Collection,
    keys: Sequence[str],
    now: datetime,
    *,
    only_due: bool,
) -> list[ApiQuestion]:
    changed, chosen = overrides(settings, collection.name), set(keys)
    if only_due:
        questions = api_snapshots.due_now(warehouse, collection, now, changed)
    else:
        questions = [overridden(question, changed) for question in collection.questions]
    return [question for question in questions if question.id in chosen]


def materialized(context: dg.AssetExecutionContext, attempts: Mapping[str, Attempt]) -> dg.MaterializeResult:
    """Materialize the partitions that were answered; a failed one gets an observation with the reason.

    Raises:
        dagster.Failure: every question failed, for a reason that asking again may mend.
    """
    failed = {name: attempt for name, attempt in attempts.items() if attempt.outcome is Outcome.failed}
    for name, attempt in list(failed.items())[:MOST_OBSERVED]:
        context.log.warning("%s: %s", name, attempt.reason)
        metadata = {
            "outcome": attempt.outcome.value,
            "reason": attempt.reason or "failed",
            "transient": attempt.transient,
        }
        context.log_event(dg.AssetObservation(context.asset_key, partition=name, metadata=metadata))
    if attempts and all(attempt.transient for attempt in failed.values()) and len(failed) == len(attempts) > 1:
        reasons = "\n".join(f"{name}: {attempt.reason}" for name, attempt in failed.items())
        raise dg.Failure(f"every API failed.\n{reasons}", allow_retries=False)
    answered = {name: attempt for name, attempt in attempts.items() if name not in failed}
    context.log.info("%d APIs asked: %s", len(attempts), _summary(attempts))
    describe_partitions(
        context,
        {
            name: {"outcome": attempt.outcome.value, "seconds": round(attempt.seconds, 3)}
            for name, attempt in answered.items()
        },
    )
    materialize_only(context, list(answered))
    return dg.MaterializeResult()


def _summary(attempts: Mapping[str, Attempt]) -> str:
    outcomes = [attempt.outcome for attempt in attempts.values()]
    return ", ".join(f"{outcomes.count(each)} {each.value}" for each in Outcome if each in outcomes) or "nothing to do"


def snapshot_checks(settings: Settings, collection: Collection) -> dg.AssetChecksDefinition:
    """Whether every API was answered in time, and whether its columns still find something."""
    key = dg.AssetKey([collection.name, ASSET])
    fresh = "Every API that is switched on was answered within three of its intervals."
    shaped = "Every column finds something in the newest payload of its API."
    specs = [
        dg.AssetCheckSpec("every_api_is_fresh", asset=key, description=fresh),
        dg.AssetCheckSpec("payloads_have_their_columns", asset=key, description=shaped),
    ]

    @dg.multi_asset_check(name=f"{collection.name}_snapshots_checks", specs=specs, can_subset=True)
    def checks(context: dg.AssetCheckExecutionContext, warehouse: WarehouseParam) -> Iterator[dg.AssetCheckResult]:
        chosen = {check.name for check in context.selected_asset_check_keys}
        prepare(warehouse.get_connection, collection)
        faults: dict[str, Mapping[str, str]] = {}
        if "every_api_is_fresh" in chosen:
            changed = overrides(settings, collection.name)
            faults["every_api_is_fresh"] = api_snapshots.stale(warehouse, collection, datetime.now(UTC), changed)
        if "payloads_have_their_columns" in chosen:
            empty = api_snapshots.columns_without_values(warehouse, collection)
            faults["payloads_have_their_columns"] = {name: ", ".join(columns) for name, columns in empty.items()}
        texts = {"every_api_is_fresh": fresh, "payloads_have_their_columns": shaped}
        found = [_checked(context, name, texts[name], of_check, collection) for name, of_check in faults.items()]
        with warehouse.get_connection() as connection, transaction(connection):
            record_checks(connection, collection.name, found)
        for name, of_check in faults.items():
            yield _result(name, key, of_check)

    return checks


def _checked(
    context: dg.AssetCheckExecutionContext, name: str, text: str, faults: Mapping[str, str], collection: Collection
) -> CheckResult:
    return CheckResult(
        asset=ASSET,
        check=name,
        description=text,
        passed=not faults,
        severity=WARN,
        detail="; ".join(f"{api}: {fault}" for api, fault in faults.items()) or None,
        examined=len(collection.questions),
        faults=len(faults),
        run_id=context.run.run_id,
        checked_at=timestamp(datetime.now(UTC)),
    )


def _result(name: str, key: dg.AssetKey, faults: Mapping[str, str]) -> dg.AssetCheckResult:
    records = [dg.TableRecord({"api": api, "fault": fault}) for api, fault in faults.items()]
    schema = dg.TableSchema([dg.TableColumn("api"), dg.TableColumn("fault")])
    metadata = {"faults": dg.MetadataValue.table(records, schema)} if records else {}
    return dg.AssetCheckResult(
        passed=not faults,
        check_name=name,
        asset_key=key,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(faults)} APIs failed" if faults else "every API passed",
        metadata=metadata,
    )


def snapshot_job(collection: Collection) -> UnresolvedAssetJobDefinition:
    """The job that asks a collection's APIs."""
    return dg.define_asset_job(
        snapshots_job_name(collection.name),
        selection=dg.AssetSelection.assets([collection.name, ASSET]),
        description=f"Ask the APIs of {collection.name} and store what changed.",
    )


def snapshot_schedule(settings: Settings, collection: Collection) -> dg.ScheduleDefinition:
    """Each minute a look at what is due, and one run of it: an override may shorten any interval to a minute."""
    name = snapshots_job_name(collection.name)

    @dg.schedule(
        name=name,
        job_name=name,
        cron_schedule="* * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Asks the APIs of {collection.name} that are due, in one run.",
    )
    def tick(context: dg.ScheduleEvaluationContext, warehouse: WarehouseParam) -> dg.RunRequest | dg.SkipReason:
        if skip := still_running(context.instance, name):
            return skip
        patient = Warehouse(warehouse.database, patience=PATIENCE)
        changed = overrides(settings, collection.name)
        return tick_request(patient, collection, context.scheduled_execution_time, changed)

    return tick


def tick_request(
    warehouse: Warehouse, collection: Collection, now: datetime, changed: Mapping[str, Override]
) -> dg.RunRequest | dg.SkipReason:
    """The run that a tick requests, or why it requests none."""
    try:
        due = api_snapshots.due_now(warehouse, collection, now, changed)
    except (WarehouseBusy, WarehouseUnreadable):
        # The run decides, which waits longer; at the collection's own pace, so that none is started for nothing.
        minutes = max(int(shortest_interval(collection.questions).total_seconds()) // 60, 1)
        due = collection.questions if int(now.timestamp()) // 60 % minutes == 0 else []
    if not due:
        return dg.SkipReason(f"no API of {collection.name} is due")
    keys = [question.id for question in collection.questions]
    return dg.RunRequest(
        tags={RANGE_START: keys[0], RANGE_END: keys[-1]},
        run_config={"ops": {f"{collection.name}__{ASSET}": {"config": {"only_due": True}}}},
    )
