"""Where the time of each tick went, as Dagster's own files tell it: read once, when the measured minutes are over."""

import math
from collections import Counter
from datetime import datetime

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import DagsterEventType as Kind
from dagster._core.scheduler.instigation import TickStatus

from refresh_pipeline.orchestration.schedules import TICK_TAG
from refresh_pipeline_tests.benchmarks.minute.report import Told

MOMENTS = {
    Kind.PIPELINE_ENQUEUED: "run created, in the queue",
    Kind.PIPELINE_DEQUEUED: "out of the queue",
    Kind.PIPELINE_STARTING: "launched",
    Kind.PIPELINE_START: "definitions loaded, the run begins",
    Kind.PIPELINE_SUCCESS: "the run has ended",
}
UNSUCCESSFUL = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
EVALUATED = "schedule's tick is done"
FIRST_ACT = "its process says that it is there"
STEPS = {Kind.STEP_START: "begins", Kind.STEP_SUCCESS: "done", Kind.STEP_FAILURE: "failed"}


def told_by(instance: dg.DagsterInstance, market: str, minutes: list[int]) -> Told:
    """Everything of these minutes, each the boundary in seconds since 1970."""
    job = f"{market}_refresh"
    ticks, others, unsuccessful, busy = {}, Counter[str](), Counter[str](), set[int]()
    evaluated, skipped = _evaluations(instance, job, minutes)
    for record in instance.get_run_records():
        run = record.dagster_run
        due = run.tags.get(TICK_TAG) if run.job_name == job else None
        boundary = int(datetime.fromisoformat(due).timestamp()) if due else None
        if boundary in minutes:
            ticks[boundary] = {EVALUATED: evaluated[boundary] - boundary} if boundary in evaluated else {}
            ticks[boundary] |= _moments(instance, run.run_id, market, boundary)
        elif run.job_name != job and (beside := _minutes_of(record, minutes)):
            others[run.job_name] += 1
            busy.update(beside)
        if record.create_timestamp.timestamp() >= minutes[0] and run.status in UNSUCCESSFUL:
            unsuccessful[f"{run.job_name} {run.status.value.lower()}"] += 1
    return Told(dict(sorted(ticks.items())), skipped, dict(others), busy, dict(unsuccessful))


def _minutes_of(record: dg.RunRecord, minutes: list[int]) -> list[int]:
    """Those in which a run was at work."""
    began, ended = record.start_time or math.inf, record.end_time or math.inf
    return [minute for minute in minutes if began < minute + 60 and ended > minute]


def _evaluations(
    instance: dg.DagsterInstance, schedule: str, minutes: list[int]
) -> tuple[dict[int, float], dict[int, str]]:
    """When each minute's tick was evaluated, and why it asked for nothing where it did not."""
    evaluated, skipped = {}, {}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.name != schedule:
            continue
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, after=minutes[0] - 1.0):
            boundary = int(tick.timestamp)
            if boundary in minutes and tick.tick_data.end_timestamp is not None:
                evaluated[boundary] = tick.tick_data.end_timestamp
            if boundary in minutes and tick.status is not TickStatus.SUCCESS:
                skipped[boundary] = tick.skip_reason or tick.status.value.lower()
    return evaluated, skipped


def _moments(instance: dg.DagsterInstance, run_id: str, market: str, boundary: int) -> dict[str, float]:
    wanted = {*MOMENTS, *STEPS, Kind.ENGINE_EVENT}
    found = {}
    for record in instance.get_records_for_run(run_id, of_type=wanted).records:
        if name := _moment(record.event_log_entry.get_dagster_event(), market):
            found.setdefault(name, record.event_log_entry.timestamp - boundary)
    return found


def _moment(event: dg.DagsterEvent, market: str) -> str | None:
    if event.event_type is Kind.ENGINE_EVENT:
        return FIRST_ACT if (event.message or "").startswith("Started process for run") else None
    if event.event_type in STEPS:
        return f"{(event.step_key or '').removeprefix(f'{market}__')} {STEPS[event.event_type]}"
    return MOMENTS[event.event_type]
