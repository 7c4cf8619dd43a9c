"""Instants of Dagster's that lie in the future, written while the machine's clock was ahead: they are put back to now.

Dagster goes on from the newest tick. A tick of tomorrow stops its schedule or sensor until tomorrow, without a word.
Run as a program (`python -m refresh_pipeline.instance.clock`) it puts back those of the instance in DAGSTER_HOME.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick

# A tick may be written for the second that is about to begin.
SLACK = 60.0


def put_back(instance: dg.DagsterInstance, now: float) -> list[str]:
    """Put ticks and states of schedules and sensors that lie in the future back to `now` (seconds since 1970).

    Returns:
        A sentence for each schedule and sensor that would have stood still.
    """
    lines: list[str] = []
    for state in instance.all_instigator_state():
        ahead = [*_ticks_put_back(instance, state, now), *_state_put_back(instance, state, now)]
        if ahead:
            hours = (max(ahead) - now) / 3600
            lines.append(f"{state.name} ticked {hours:.1f} h in the future: the clock was ahead. It goes on from now.")
    return lines


def _ticks_put_back(instance: dg.DagsterInstance, state: InstigatorState, now: float) -> Iterator[float]:
    storage = instance.schedule_storage
    assert storage is not None
    # The newest first. They keep their order, and their runs.
    ticks = storage.get_ticks(state.instigator_origin_id, state.selector_id, after=now + SLACK)
    for number, tick in enumerate(ticks):
        yield tick.timestamp
        ends = tick.tick_data.end_timestamp
        data = tick.tick_data._replace(timestamp=now - number / 1000, end_timestamp=ends and min(ends, now))
        storage.update_tick(InstigatorTick(tick.tick_id, data))


def _state_put_back(instance: dg.DagsterInstance, state: InstigatorState, now: float) -> Iterator[float]:
    data = state.instigator_data
    fields: dict[str, Any] = data._asdict() if data else {}
    ahead = {name: value for name, value in fields.items() if isinstance(value, float) and value > now + SLACK}
    if ahead and data:
        instance.update_instigator_state(state.with_data(data._replace(**dict.fromkeys(ahead, now))))
    yield from ahead.values()


def main() -> None:
    """Put back what lies in the future, and print a line for each schedule and sensor."""
    with dg.DagsterInstance.get() as instance:
        for line in put_back(instance, time.time()):
            sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
