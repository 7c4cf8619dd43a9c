"""The stored states of schedules and sensors, and the address of the code server that they belong to.

`refresh up` gives its code server another address at each start. Dagster finds a state by its name, but the pages that
list schedules and sensors look up ticks by the address: with a former one they show no tick.
"""

from pathlib import Path

import dagster as dg
from dagster._core.workspace.load import location_origins_from_yaml_paths


def adopt_states(instance: dg.DagsterInstance, workspace: Path) -> int:
    """Give stored states the address of the code location of the same name in a workspace file; gives how many."""
    locations = {location.location_name: location for location in location_origins_from_yaml_paths([str(workspace)])}
    adopted = 0
    for state in instance.all_instigator_state():
        repository = state.origin.repository_origin
        location = locations.get(repository.code_location_origin.location_name)
        if location is not None and location != repository.code_location_origin:
            origin = state.origin._replace(repository_origin=repository._replace(code_location_origin=location))
            instance.update_instigator_state(state._replace(origin=origin))
            adopted += 1
    return adopted
