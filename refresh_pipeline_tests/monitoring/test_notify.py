"""Every channel is told what it does not know yet; a dead one harms nobody; `refresh alerts` says and tries."""

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest

from refresh_pipeline.monitoring.channels import Mail, Security, Slack
from refresh_pipeline.monitoring.notification_policy import ChannelState, Period, Problem, SentAlert
from refresh_pipeline.monitoring.notify import CHANNEL_STATES, NO_CHANNEL, channels_of, load_states, notify, notify_all
from refresh_pipeline.monitoring.problems import Snapshot
from refresh_pipeline.orchestration.alert_sensor import alerts_sensor
from refresh_pipeline.orchestration.failed_runs import run_history
from refresh_pipeline.settings import load_settings
from refresh_pipeline_tests.fakes import slack
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.fakes.mail_server import Mailbox, mail_server
from refresh_pipeline_tests.fakes.slack import FakeSlack
from refresh_pipeline_tests.project_folder import LATER, NOW, World, command

MINUTE = timedelta(minutes=1)
DISK = Problem(scope="machine", kind="disk nearly full", item="/srv", text="3 bytes are free")


@pytest.fixture
def webhook() -> Iterator[FakeSlack]:
    with FakeSlack() as running:
        yield running


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with mail_server() as running:
        yield running


@pytest.fixture
def instance(world: World) -> Iterator[dg.DagsterInstance]:
    with world.dagster() as opened:
        yield opened


def set_up(world: World, **settings: object) -> None:
    """Write settings where the world keeps them."""
    with (world.root / ".env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in settings.items())


def by_mail(port: int) -> dict[str, object]:
    mail = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": port, "SMTP_SECURITY": "none", "SMTP_FROM": "robot@example.org"}
    return {**mail, "ALERT_EMAIL_RECIPIENTS": "a@example.org"}


def tick(world: World, instance: dg.DagsterInstance, cursor: str | None = None) -> tuple[str, str | None]:
    """One evaluation of the sensor by the clock: why it started no run, and its cursor then."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    skipped = alerts_sensor([world.market])(context)
    assert isinstance(skipped, dg.SkipReason)
    return skipped.skip_message or "", context.cursor


# ---- the sensor


def test_without_a_channel_the_sensor_says_what_to_set(world: World, instance: dg.DagsterInstance) -> None:
    assert tick(world, instance) == (NO_CHANNEL, None)


def test_both_channels_are_told_once(
    world: World, instance: dg.DagsterInstance, webhook: FakeSlack, mailbox: Mailbox
) -> None:
    set_up(world, SLACK_WEBHOOK_URL=webhook.url, **by_mail(mailbox.port))
    said, cursor = tick(world, instance)
    assert said == "1 problems; Slack: 1 messages sent; e-mail: 1 messages sent"
    assert "bazaar: stale market: none of its 8 series is current" in webhook.texts[0]
    assert mailbox.messages[0]["Subject"] == "Refresh Pipeline: bazaar: stale market"
    again, _ = tick(world, instance, cursor)
    assert again == "1 problems; Slack: 0 messages sent; e-mail: 0 messages sent"
    assert (len(webhook.texts), len(mailbox.messages)) == (1, 1)


def test_a_cursor_of_another_kind_is_begun_anew(world: World, instance: dg.DagsterInstance, webhook: FakeSlack) -> None:
    set_up(world, SLACK_WEBHOOK_URL=webhook.url)
    tick(world, instance, cursor="[1, 2]")
    assert len(webhook.texts) == 1
    assert load_states("{") == load_states(None) == {}


def test_a_cursor_of_the_release_before_keeps_what_was_sent() -> None:
    problem = '{"whose": "machine", "kind": "disk nearly full", "which": "/srv", "text": "3 bytes are free"}'
    moment = NOW.isoformat()
    alert = f'{{"trouble": {problem}, "since": "{moment}", "at": "{moment}", "times": 3, "is_over": false}}'
    cursor = (
        f'{{"Slack": {{"said": {{"machine: disk nearly full: /srv": {alert}}}, "reported": {{"daily": "2026-06-01"}}'
    )
    states = load_states(f'{cursor}, "silent_until": "{moment}"}}}}')
    sent = SentAlert(problem=DISK, since=NOW, sent_at=NOW, count=3)
    reports = {Period.daily: NOW.date()}
    assert states == {"Slack": ChannelState(alerts={DISK.subject: sent}, reports=reports, paused_until=NOW)}


def test_the_cursor_holds_no_secret(world: World, instance: dg.DagsterInstance, webhook: FakeSlack) -> None:
    webhook.fail(slack.NO_SERVICE)
    set_up(world, SLACK_WEBHOOK_URL=webhook.url)
    said, cursor = tick(world, instance)
    assert "HTTP 404 no_service" in said
    assert "services" not in f"{said} {cursor}"


def test_dead_channels_fail_no_refresh_and_leave_one_another_alone(
    world: World, instance: dg.DagsterInstance, mailbox: Mailbox
) -> None:
    set_up(world, SLACK_WEBHOOK_URL="http://127.0.0.1:9/services/T/B/X", **by_mail(mailbox.port))
    said, _ = tick(world, instance)
    assert "Slack: no answer" in said
    assert len(mailbox.messages) == 1
    assert world.run("refresh", now=LATER).success


def test_what_was_wrong_is_said_to_be_over_after_the_next_refresh(
    world: World, instance: dg.DagsterInstance, webhook: FakeSlack
) -> None:
    channels, markets, runs = [Slack(webhook.url)], [world.market], run_history(instance, [world.market])
    states, _ = notify_all(channels, {}, world.settings, markets, runs, now=LATER)
    world.run("refresh", now=LATER)
    notify_all(channels, states, world.settings, markets, runs, now=LATER + MINUTE)
    assert webhook.texts[1].endswith("resolved: bazaar: stale market")


def test_the_day_s_report_goes_out_in_the_morning(
    world: World, instance: dg.DagsterInstance, webhook: FakeSlack
) -> None:
    channels, markets, runs = [Slack(webhook.url)], [world.market], run_history(instance, [world.market])
    states, _ = notify_all(channels, {}, world.settings, markets, runs, now=NOW)
    assert webhook.texts == []
    world.run("refresh", now=LATER)
    states, _ = notify_all(channels, states, world.settings, markets, runs, now=NOW + timedelta(hours=18))
    assert webhook.texts[-1].startswith("*Refresh Pipeline: daily report*\n2026-06-01 06:00 to 2026-06-02 06:00 UTC")
    assert "series current: 0 of 8" in webhook.texts[-1]
    assert CHANNEL_STATES.validate_json(CHANNEL_STATES.dump_json(states)) == states


# ---- one channel


def report(period: Period) -> str:
    return f"the {period} report"


@pytest.mark.parametrize(("fault", "minutes"), [(slack.ROLLUP_ERROR, 1), (slack.TOO_MANY, 2), (slack.NO_SERVICE, 15)])
def test_a_channel_that_failed_is_left_alone_and_then_told(webhook: FakeSlack, fault: Fault, minutes: int) -> None:
    webhook.fail(fault)
    channel, found = Slack(webhook.url), Snapshot([DISK])
    state, _ = notify(channel, ChannelState(), found, report, NOW)
    for minute in range(1, minutes):
        state, note = notify(channel, state, found, report, NOW + minute * MINUTE)
        assert "paused until" in note
    assert len(webhook.asked) == 1
    state, note = notify(channel, state, found, report, NOW + minutes * MINUTE)
    assert note == "Slack: 1 messages sent"
    assert state.paused_until is None
    assert "disk nearly full" in webhook.texts[0]


def test_a_report_that_did_not_arrive_is_sent_again_without_the_alert_before_it(webhook: FakeSlack) -> None:
    channel = Slack(webhook.url)
    state, _ = notify(channel, ChannelState(), Snapshot([]), report, NOW)
    morning = NOW + timedelta(days=1)
    webhook.fail(slack.ROLLUP_ERROR, text="*Refresh Pipeline: daily report*\nthe daily report")
    state, _ = notify(channel, state, Snapshot([DISK]), report, morning)
    state, _ = notify(channel, state, Snapshot([DISK]), report, morning + MINUTE)
    assert [text.splitlines()[0] for text in webhook.texts] == [
        "*Refresh Pipeline: machine: disk nearly full*",
        "*Refresh Pipeline: daily report*",
    ]


def test_who_got_a_mail_is_not_told_twice_because_of_somebody_who_did_not(mailbox: Mailbox) -> None:
    mailbox.recipient_answers = {"gone@example.org": "550 unknown"}
    recipients = ["gone@example.org", "a@example.org"]
    channel = Mail("127.0.0.1", mailbox.port, Security.none, "robot@example.org", recipients)
    state, _ = notify(channel, ChannelState(), Snapshot([DISK]), report, NOW)
    notify(channel, state, Snapshot([DISK]), report, NOW + MINUTE)
    assert len(mailbox.messages) == 1


# ---- settings


@pytest.mark.parametrize(
    ("settings", "security"),
    [({}, "starttls"), ({"SMTP_PORT": "465"}, "tls"), ({"SMTP_PORT": "465", "SMTP_SECURITY": "starttls"}, "starttls")],
)
def test_mail_is_encrypted_as_its_port_wants_unless_said_otherwise(
    new_world: World, settings: dict[str, str], security: str
) -> None:
    account = {"SMTP_HOST": "mail", "SMTP_USERNAME": "robot@example.org", "SMTP_PASSWORD": "secret"}
    set_up(new_world, ALERT_EMAIL_RECIPIENTS="'a@example.org, b@example.org'", **account, **settings)
    [mail], lacking = channels_of(load_settings())
    assert isinstance(mail, Mail)
    assert (mail.security, mail.port) == (Security(security), int(settings.get("SMTP_PORT", "587")))
    assert (mail.sender, mail.recipients, lacking) == ("robot@example.org", ["a@example.org", "b@example.org"], [])
    assert "secret" not in repr(mail)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SMTP_HOST": "mail"}, "no e-mail is sent: ALERT_EMAIL_RECIPIENTS, SMTP_FROM missing"),
        (
            {"ALERT_EMAIL_RECIPIENTS": "a@example.org", "SMTP_FROM": "b@example.org"},
            "no e-mail is sent: SMTP_HOST miss",
        ),
        (by_mail(25) | {"SMTP_USERNAME": "me", "SMTP_PASSWORD": "secret"}, "SMTP_SECURITY=none would send"),
    ],
)
def test_what_is_half_set_is_said(new_world: World, settings: dict[str, object], said: str) -> None:
    set_up(new_world, **settings)
    channels, lacking = channels_of(load_settings())
    assert channels == []
    assert said in lacking[0]


# ---- the command


def test_the_command_lists_what_is_wrong_and_who_would_be_told(world: World, webhook: FakeSlack) -> None:
    set_up(world, SLACK_WEBHOOK_URL=webhook.url)
    result = command("alerts")
    assert result.exit_code == 0
    assert "bazaar: stale market: none of its 8 series is current" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 problem; channels: Slack"
    assert webhook.asked == []


def test_the_command_tries_every_channel(new_world: World, webhook: FakeSlack, mailbox: Mailbox) -> None:
    set_up(new_world, SLACK_WEBHOOK_URL=webhook.url, **by_mail(mailbox.port))
    result = command("alerts", "--test")
    assert (result.exit_code, result.stdout.splitlines()) == (0, ["Slack: sent", "e-mail: sent"])
    assert webhook.texts[0].startswith("*Refresh Pipeline: a test*")
    assert mailbox.messages[0]["Subject"] == "Refresh Pipeline: a test"


def test_the_command_says_which_channel_is_dead(new_world: World, webhook: FakeSlack, mailbox: Mailbox) -> None:
    webhook.fail(slack.NO_SERVICE)
    set_up(new_world, SLACK_WEBHOOK_URL=webhook.url, **by_mail(mailbox.port))
    result = command("alerts", "--test")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith("Slack: HTTP 404 no_service: refused")
    assert result.stdout.splitlines()[1] == "e-mail: sent"


def test_a_test_without_a_channel_is_a_wrong_request(new_world: World) -> None:
    result = command("alerts", "--test")
    assert result.exit_code == 2
    assert "set SLACK_WEBHOOK_URL" in result.stderr
