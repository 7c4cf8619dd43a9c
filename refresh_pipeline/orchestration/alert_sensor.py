"""The sensor that looks for problems every minute and sends alerts."""

from collections.abc import Sequence

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring.notify import CHANNEL_STATES, channels_of, load_states, notify_all
from refresh_pipeline.orchestration.failed_runs import run_history
from refresh_pipeline.settings import load_settings

SECONDS_BETWEEN_LOOKS = 60


def alerts_sensor(markets: Sequence[Market]) -> dg.SensorDefinition:
    """Look for problems of these markets once a minute, and send the alerts and reports that are due."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends an alert when a problem starts and when it is resolved; sends a daily and a weekly report.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        settings = load_settings()
        channels, lacking = channels_of(settings)
        if not channels:
            return dg.SkipReason("; ".join(lacking))
        runs = run_history(context.instance, markets)
        states, notes = notify_all(channels, load_states(context.cursor), settings, markets, runs)
        context.update_cursor(CHANNEL_STATES.dump_json(states).decode())
        return dg.SkipReason("; ".join([*notes, *lacking]))

    return alerts
