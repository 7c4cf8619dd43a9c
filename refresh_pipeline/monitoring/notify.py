"""Sends alerts and reports to every configured channel; a failing channel does not delay the others.

Only the alert sensor speaks to channels, so that a failing one never delays a refresh. What each channel has received
is in the sensor's cursor.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from refresh_pipeline.market.model import Market
from refresh_pipeline.monitoring import problems
from refresh_pipeline.monitoring.channels import AlertError, Channel, Mail, Security, Slack, apprise_channels
from refresh_pipeline.monitoring.notification_policy import (
    COOLDOWN,
    ChannelState,
    Period,
    Problem,
    believed,
    body,
    due_reports,
    notification,
    title,
    with_reports,
)
from refresh_pipeline.monitoring.problems import RunHistory, Snapshot
from refresh_pipeline.monitoring.signals import signal_events
from refresh_pipeline.settings import Settings
from refresh_pipeline.warehouse.connection import WarehouseBusy, WarehouseUnreadable

# The pause of a channel that failed: where trying again may help, and where it cannot.
AFTER_OUTAGE, AFTER_REFUSAL = timedelta(minutes=1), COOLDOWN
LONGEST_WAIT = timedelta(hours=1)
TLS_PORT = 465
NO_CHANNEL = "no alert channel configured: set SLACK_WEBHOOK_URL, ALERT_URLS, or SMTP_HOST and ALERT_EMAIL_RECIPIENTS"

CHANNEL_STATES = TypeAdapter(dict[str, ChannelState])
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
    if settings.alert_urls:
        channels += apprise_channels(settings.alert_urls.get_secret_value())
    return channels, lacking or ([] if channels else [NO_CHANNEL])


def _mail(settings: Settings) -> Mail | str:
    username, password = (
        secret.get_secret_value().strip() if secret else ""
        for secret in (settings.smtp_username, settings.smtp_password)
    )
    recipients = [recipient.strip() for recipient in (settings.alert_recipients or "").split(",") if recipient.strip()]
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


def problems_now(settings: Settings, markets: Sequence[Market], runs: RunHistory) -> Sequence[Problem]:
    """The problems of these markets as of the clock."""
    return problems.snapshot(settings, markets, runs, datetime.now(UTC)).problems


def load_states(cursor: str | None) -> dict[str, ChannelState]:
    """The state of each channel, by name; empty where the cursor is empty or of an unknown version."""
    try:
        return CHANNEL_STATES.validate_json(cursor or "{}")
    except ValidationError:
        return {}


def notify_all(
    channels: Sequence[Channel],
    states: dict[str, ChannelState],
    settings: Settings,
    markets: Sequence[Market],
    runs: RunHistory,
    *,
    now: datetime | None = None,
) -> tuple[dict[str, ChannelState], list[str]]:
    """Send each channel the alerts and reports that are due on it; its new state, and a note for each channel."""
    now = now or datetime.now(UTC)
    snapshot = problems.snapshot(settings, markets, runs, now)
    told = replace(snapshot, problems=[*snapshot.problems, *signal_events(settings, markets, now)])

    def report(period: Period) -> str:
        return problems.report(settings, markets, runs, period, now)

    notes = [f"{len(snapshot.problems)} problems"]
    new_states: dict[str, ChannelState] = {}
    for channel in channels:
        state = states.get(channel.name, ChannelState())
        new_states[channel.name], note = notify(channel, state, told, report, now)
        notes.append(note)
    return new_states, notes


def notify(
    channel: Channel, state: ChannelState, snapshot: Snapshot, report: Callable[[Period], str], now: datetime
) -> tuple[ChannelState, str]:
    """Send one channel the alerts and reports that are due on it; its new state, and a note."""
    state = believed(state, now, LONGEST_WAIT)
    if state.paused_until and now < state.paused_until:
        return state, f"{channel.name}: paused until {state.paused_until:%H:%M:%S} UTC after a failure"
    message = notification(snapshot.problems, state, now, snapshot.unchecked)
    sent = 0
    try:
        if not message.is_empty:
            _send(channel, title(message), body(message))
            sent += 1
        state = message.state
        for period in due_reports(state, now):
            _send(channel, f"Refresh Pipeline: {period} report", report(period))
            state = with_reports(state, [period], now)
            sent += 1
    except AlertError as error:
        log.warning("%s", error)
        wait = max(AFTER_OUTAGE if error.transient else AFTER_REFUSAL, timedelta(seconds=error.wait))
        return state.model_copy(update={"paused_until": now + min(wait, LONGEST_WAIT)}), str(error)
    except (WarehouseBusy, WarehouseUnreadable) as error:
        return state, f"{channel.name}: the report waits: {error}"
    state = with_reports(state, list(Period), now)
    return state.model_copy(update={"paused_until": None}), f"{channel.name}: {sent} messages sent"


def _send(channel: Channel, title: str, text: str) -> None:
    """Send a message; a failure for some recipients only is logged, as the others must not receive it twice."""
    try:
        channel.send(title, text)
    except AlertError as error:
        if not error.partly:
            raise
        log.warning("%s", error)
