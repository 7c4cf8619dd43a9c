"""Who is told, and the sensor that tells: troubles as they come and go, a report a day and one a week.

A sensor and nothing else speaks to the channels, so that a dead one never touches a refresh. What each channel was told
is in the sensor's cursor.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring import problems
from refresh_pipeline.monitoring.channels import AlertError, Channel, Mail, Security, Slack
from refresh_pipeline.monitoring.notification_policy import (
    COOLDOWN,
    ChannelState,
    Period,
    Problem,
    body,
    due_reports,
    notification,
    reported,
    title,
)
from refresh_pipeline.monitoring.problems import Snapshot
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable

# For how long a channel that failed is left alone: where trying again could help, and where it cannot.
AFTER_TROUBLE, AFTER_REFUSAL = timedelta(minutes=1), COOLDOWN
LONGEST_WAIT = timedelta(hours=1)
TLS_PORT = 465
NOBODY = "nobody is told: set SLACK_WEBHOOK_URL, or SMTP_HOST and ALERT_EMAIL_RECIPIENTS"

MEMORIES = TypeAdapter(dict[str, ChannelState])
log = logging.getLogger("refresh_pipeline")


def channels_of(settings: Settings) -> tuple[list[Channel], list[str]]:
    """The channels that are set, and what is lacking: of those that are half set, or for there to be any."""
    channels: list[Channel] = []
    lacking: list[str] = []
    if settings.slack_webhook_url:
        channels.append(Slack(settings.slack_webhook_url.get_secret_value().strip()))
    if settings.smtp_host or settings.alert_recipients:
        mail = _mail(settings)
        if isinstance(mail, str):
            lacking.append(mail)
        else:
            channels.append(mail)
    return channels, lacking or ([] if channels else [NOBODY])


def _mail(settings: Settings) -> Mail | str:
    username, password = (
        each.get_secret_value().strip() if each else "" for each in (settings.smtp_username, settings.smtp_password)
    )
    recipients = [each.strip() for each in (settings.alert_recipients or "").split(",") if each.strip()]
    sender = settings.smtp_from or (username if "@" in username else "")
    wanted = {"SMTP_HOST": settings.smtp_host, "ALERT_EMAIL_RECIPIENTS": recipients, "SMTP_FROM": sender}
    if missing := [name for name, value in wanted.items() if not value]:
        return f"no e-mail is sent: {', '.join(missing)} missing"
    security = Security(settings.smtp_security or ("tls" if settings.smtp_port == TLS_PORT else "starttls"))
    if password and security is Security.none:
        return "no e-mail is sent: SMTP_SECURITY=none would send SMTP_PASSWORD in the clear"
    return Mail(settings.smtp_host or "", settings.smtp_port, security, sender, recipients, username, password)


def send_test_message(channels: Sequence[Channel]) -> dict[str, str | None]:
    """Say a word on each channel: what went wrong, or None where it arrived."""
    came_of_it: dict[str, str | None] = {}
    for channel in channels:
        try:
            channel.send("Refresh Pipeline: a test", "This is how you will be told when something goes wrong.")
            came_of_it[channel.name] = None
        except AlertError as error:
            came_of_it[channel.name] = str(error)
    return came_of_it


def problems_now(settings: Settings, markets: Sequence[Market], instance: dg.DagsterInstance) -> Sequence[Problem]:
    """All that is wrong by the clock."""
    return problems.snapshot(settings, markets, instance, datetime.now(UTC)).troubles


def load_state(cursor: str | None) -> dict[str, ChannelState]:
    """What each channel was told; nothing where the cursor is another version's, or somebody emptied it."""
    try:
        return MEMORIES.validate_json(cursor or "{}")
    except ValidationError:
        return {}


def notify_all(
    channels: Sequence[Channel],
    memories: dict[str, ChannelState],
    settings: Settings,
    markets: Sequence[Market],
    instance: dg.DagsterInstance,
    *,
    now: datetime | None = None,
) -> tuple[dict[str, ChannelState], list[str]]:
    """Tell each channel what it does not know yet; what each of them knows then, and what came of it in words."""
    now = now or datetime.now(UTC)
    found = problems.snapshot(settings, markets, instance, now)

    def report(period: Period) -> str:
        return problems.report(settings, markets, instance, period, now)

    notes = [f"{len(found.troubles)} troubles"]
    told: dict[str, ChannelState] = {}
    for channel in channels:
        told[channel.name], note = notify(channel, memories.get(channel.name, ChannelState()), found, report, now)
        notes.append(note)
    return told, notes


def notify(
    channel: Channel, memory: ChannelState, found: Snapshot, report: Callable[[Period], str], now: datetime
) -> tuple[ChannelState, str]:
    """Tell one channel what it does not know yet; what it knows then, and what came of it in words."""
    if memory.silent_until and now < memory.silent_until:
        return memory, f"{channel.name}: left alone until {memory.silent_until:%H:%M:%S} UTC after a failure"
    fresh = notification(found.troubles, memory, now, found.unseen)
    sent = 0
    try:
        if not fresh.is_empty:
            _send(channel, title(fresh), body(fresh))
            sent += 1
        memory = fresh.memory
        for period in due_reports(memory, now):
            _send(channel, f"Refresh Pipeline: {period} report", report(period))
            memory = reported(memory, [period], now)
            sent += 1
    except AlertError as error:
        log.warning("%s", error)
        wait = max(AFTER_TROUBLE if error.transient else AFTER_REFUSAL, timedelta(seconds=error.wait))
        return memory.model_copy(update={"silent_until": now + min(wait, LONGEST_WAIT)}), str(error)
    except (WarehouseBusy, WarehouseUnreadable) as error:
        return memory, f"{channel.name}: the report waits: {error}"
    return reported(memory, list(Period), now).model_copy(
        update={"silent_until": None}
    ), f"{channel.name}: {sent} messages sent"


def _send(channel: Channel, title: str, text: str) -> None:
    """Say it; where only somebody was not reached, the others are not told twice."""
    try:
        channel.send(title, text)
    except AlertError as error:
        if not error.partly:
            raise
        log.warning("%s", error)
