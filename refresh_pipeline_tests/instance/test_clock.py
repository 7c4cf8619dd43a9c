"""After a clock that was ahead is right again, schedules and sensors go on: no tick of the future is believed."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    CodeLocationOrigin,
    GrpcServerCodeLocationOrigin,
    InProcessCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from refresh_pipeline.instance.clock import put_back
from refresh_pipeline.instance.instigators import adopt_states

NOW = 1_795_900_000.0
HOUR = 3600.0


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


def instigator(
    instance: dg.DagsterInstance, name: str, ahead: float, location: CodeLocationOrigin | None = None
) -> InstigatorState:
    """A schedule or sensor whose last tick lies so many seconds ahead, and one an hour ago."""
    location = location or InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="x"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "repository"), name)
    is_sensor = name.endswith("sensor")
    data = SensorInstigatorData(last_tick_timestamp=NOW + ahead, last_tick_start_timestamp=NOW + ahead, cursor="c")
    state = InstigatorState(
        origin,
        InstigatorType.SENSOR if is_sensor else InstigatorType.SCHEDULE,
        InstigatorStatus.RUNNING,
        data if is_sensor else ScheduleInstigatorData("* * * * *", start_timestamp=NOW + ahead),
    )
    instance.add_instigator_state(state)
    for at, status in ((NOW - HOUR, TickStatus.SUCCESS), (NOW + ahead - 60, TickStatus.SKIPPED),
                       (NOW + ahead, TickStatus.SUCCESS)):  # fmt: skip
        instance.create_tick(
            TickData(state.instigator_origin_id, name, state.instigator_type, status, at, run_ids=["a"],
                     selector_id=state.selector_id)
        )  # fmt: skip
    return state


@pytest.mark.parametrize("hours", [3, 26])
@pytest.mark.parametrize("name", ["schedule", "sensor"])
def test_what_ticked_in_the_future_goes_on_from_now_and_it_is_said(
    instance: dg.DagsterInstance, name: str, hours: int
) -> None:
    state = instigator(instance, name, hours * HOUR)
    assert put_back(instance, NOW) == [
        f"{name} ticked {hours}.0 h in the future: the clock was ahead. It goes on from now."
    ]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    assert [round(tick.timestamp - NOW) for tick in ticks] == [0, 0, -3600]
    assert [tick.status for tick in ticks] == [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.SUCCESS]
    assert ticks[0].run_ids == ["a"]
    stored = instance.get_instigator_state(state.instigator_origin_id, state.selector_id)
    assert stored is not None
    assert stored.instigator_data is not None
    assert max(value for value in stored.instigator_data._asdict().values() if isinstance(value, float)) == NOW
    assert put_back(instance, NOW) == []


def test_a_tick_of_this_minute_stays(instance: dg.DagsterInstance) -> None:
    state = instigator(instance, "schedule", 10.0)
    assert put_back(instance, NOW) == []
    assert instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)[0].timestamp == NOW + 10


def test_states_of_an_earlier_start_get_the_address_of_the_code_server(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace.yaml"
    location = {"grpc_server": {"socket": "/tmp/new/code.sock", "location_name": "ours"}}
    workspace.write_text(json.dumps({"load_from": [location]}))
    before = GrpcServerCodeLocationOrigin("localhost", socket="/tmp/old/code.sock", location_name="ours")
    sensor = instigator(instance, "sensor", 0, before)
    schedule = instigator(instance, "schedule", 0, before._replace(socket="/tmp/new/code.sock"))
    other = instigator(instance, "other", 0)
    assert (adopt_states(instance, workspace), adopt_states(instance, workspace)) == (1, 0)
    adopted = {state.name: state for state in instance.all_instigator_state()}
    assert adopted["sensor"].origin.repository_origin == schedule.origin.repository_origin
    assert adopted["sensor"].instigator_data == sensor.instigator_data
    assert (adopted["schedule"], adopted["other"]) == (schedule, other)
    # Its earlier ticks are found as before.
    found = adopted["sensor"]
    assert len(instance.get_ticks(found.instigator_origin_id, found.selector_id)) == 3
