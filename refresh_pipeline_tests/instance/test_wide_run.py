"""What a wide run says of each partition, in this release of Dagster, and in one that has changed underneath."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.plan.outputs import StepOutputHandle

from refresh_pipeline.instance import wide_run
from refresh_pipeline.instance.wide_run import describe_partitions, materialize_only
from refresh_pipeline_tests.instance.wide import (
    COMPUTED,
    FAILING,
    GRID,
    KEYS,
    RAW,
    entries,
    instance_in,
    job_of,
    materializations,
    run_wide,
)


def said_by(entry: EventLogEntry) -> dict[str, object]:
    materialization = entry.asset_materialization
    assert materialization is not None
    return {name: value.value for name, value in materialization.metadata.items()}


@pytest.mark.parametrize("asset", [RAW, COMPUTED])
def test_only_the_partitions_that_succeeded_are_materialized(instance: dg.DagsterInstance, asset: dg.AssetKey):
    made = materializations(instance, asset)
    assert len(made) == 2 * 485
    assert {entry.get_dagster_event().partition for entry in made} == set(KEYS) - FAILING
    assert instance.get_materialized_partitions(asset) == set(KEYS) - FAILING


def test_each_partition_carries_what_was_said_of_it_and_of_all(instance: dg.DagsterInstance):
    for entry in materializations(instance, RAW):
        key = entry.get_dagster_event().partition
        assert key is not None
        assert said_by(entry) == {**entries(KEYS.index(key)), "said of all": 1}


def test_each_partition_keeps_the_tags_of_its_dimensions(instance: dg.DagsterInstance):
    for entry in materializations(instance, COMPUTED):
        assert entry.asset_materialization is not None
        tags = entry.asset_materialization.tags or {}
        key = f"{tags['dagster/partition/instrument']}|{tags['dagster/partition/timeframe']}"
        assert key == entry.get_dagster_event().partition


def test_where_all_succeeded_all_are_materialized(tmp_path: Path):
    with instance_in(tmp_path) as instance:
        assert run_wide(instance, job_of(), KEYS[0], KEYS[4]).success
        assert instance.get_materialized_partitions(RAW) == set(KEYS[:5])


def test_a_run_of_one_partition_says_what_it_has_to_say(tmp_path: Path):
    with instance_in(tmp_path) as instance:
        assert job_of().execute_in_process(instance=instance, partition_key=KEYS[7]).success
        [entry] = materializations(instance, RAW)
    assert entry.get_dagster_event().partition == KEYS[7]
    assert said_by(entry) == {**entries(7), "said of all": 1}


# ---- what Dagster 1.13 looks like inside: where one of these fails, the fallbacks below are what is used


def inside_of_a_step(body: Any) -> None:
    """Run something in a step of a wide run."""

    @dg.asset(partitions_def=GRID, backfill_policy=dg.BackfillPolicy.single_run())
    def raw(context: dg.AssetExecutionContext) -> None:
        body(context)

    job = dg.Definitions(assets=[raw], jobs=[dg.define_asset_job("wide", selection=[raw])])
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_wide(instance, job.resolve_job_def("wide"), KEYS[0], KEYS[4]).success


def test_metadata_goes_in_all_at_once_and_adds_to_what_is_there():
    def body(context: dg.AssetExecutionContext) -> None:
        context.add_asset_metadata({"before": 1}, partition_key=KEYS[0])
        wide_run._describe_at_once(context, {KEYS[1]: entries(1), KEYS[2]: entries(2)})
        step = context.op_execution_context._step_execution_context
        assert [step.get_asset_metadata(context.asset_key, key) for key in KEYS[:4]] == [
            {"before": 1},
            entries(1),
            entries(2),
            {},
        ]

    inside_of_a_step(body)


def test_metadata_of_thousands_of_partitions_takes_no_quadratic_time():
    def body(context: dg.AssetExecutionContext) -> None:
        started = time.process_time()
        describe_partitions(context, {f"A{number}/USD|m5": entries(number) for number in range(20_000)})
        # The public way takes minutes.
        assert time.process_time() - started < 30

    inside_of_a_step(body)


def test_outputs_can_be_narrowed():
    def body(context: dg.AssetExecutionContext) -> None:
        wide_run._narrow_outputs(context, {KEYS[1], KEYS[400]})
        step = context.op_execution_context._step_execution_context
        output = step.get_output_context(StepOutputHandle("raw", "result"))
        assert output.asset_partition_keys == [KEYS[1]]

    inside_of_a_step(body)


# ---- a Dagster that has changed underneath


class PublicContext:
    """A step's context without its private parts: what is public of it, and nothing else."""

    def __init__(self) -> None:
        self.asset_key = RAW
        self.partition_keys = KEYS[:3]
        self.log = logging.getLogger("test")
        self.said: dict[str, Mapping[str, object]] = {}
        self.op_execution_context = object()

    def add_asset_metadata(self, metadata: Mapping[str, object], partition_key: str) -> None:
        self.said[partition_key] = metadata


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_run, "_warned", set())


def test_each_fall_back_is_logged_once_with_the_version_of_dagster(caplog: pytest.LogCaptureFixture):
    context = cast("dg.AssetExecutionContext", PublicContext())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            describe_partitions(context, {KEYS[0]: entries(0)})
            materialize_only(context, KEYS[:2])
    assert [f"Dagster {dg.__version__}" in record.message for record in caplog.records] == [True, True]
    assert "one partition at a time" in caplog.records[0].message


@pytest.mark.parametrize("step", [None, object(), SimpleNamespace(_metadata_accumulator=None)])
def test_without_private_parts_metadata_takes_the_public_way(step: object):
    context = PublicContext()
    if step is not None:
        context.op_execution_context = SimpleNamespace(_step_execution_context=step)
    describe_partitions(cast("dg.AssetExecutionContext", context), {KEYS[0]: entries(0), KEYS[1]: entries(1)})
    assert context.said == {KEYS[0]: entries(0), KEYS[1]: entries(1)}


@pytest.mark.parametrize("step", [None, object()])
def test_without_private_parts_everything_is_materialized_and_that_is_said(
    step: object, caplog: pytest.LogCaptureFixture
):
    context = PublicContext()
    if step is not None:
        context.op_execution_context = SimpleNamespace(_step_execution_context=step)
    with caplog.at_level(logging.WARNING):
        materialize_only(cast("dg.AssetExecutionContext", context), KEYS[:2])
    assert "also those that failed" in caplog.text


def test_an_output_without_the_private_part_is_left_as_it_is():
    step = SimpleNamespace(get_output_context=lambda: "an output")
    context = PublicContext()
    context.op_execution_context = SimpleNamespace(_step_execution_context=step)
    materialize_only(cast("dg.AssetExecutionContext", context), KEYS[:2])
    assert step.get_output_context() == "an output"
