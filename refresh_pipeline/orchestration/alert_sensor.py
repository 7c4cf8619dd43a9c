"""The sensor that looks for problems every minute and sends alerts."""

from collections.abc import Sequence

import dagster as dg

from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring.notify import MEMORIES, channels_of, load_state, notify_all
from refresh_pipeline.settings import load_settings

SECONDS_BETWEEN_LOOKS = 60


def alerts_sensor(markets: Sequence[Market]) -> dg.SensorDefinition:
    """Look once a minute at what is wrong with these markets, and tell whoever is to be told."""

    @dg.sensor(
        name="alerts",
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells people by Slack and e-mail what goes wrong and when it is over; a report a day and a week.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        settings = load_settings()
        channels, lacking = channels_of(settings)
        if not channels:
            return dg.SkipReason("; ".join(lacking))
        memories, notes = notify_all(channels, load_state(context.cursor), settings, markets, context.instance)
        context.update_cursor(MEMORIES.dump_json(memories).decode())
        return dg.SkipReason("; ".join([*notes, *lacking]))

    return alerts
