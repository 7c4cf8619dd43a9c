"""Messages arrive in Slack and by e-mail; what does not arrive is told in words, without secrets."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from refresh_pipeline.monitoring.channels import AlertError, AppriseUrl, Mail, Security, Slack, apprise_channels
from refresh_pipeline_tests.fakes import slack
from refresh_pipeline_tests.fakes.http_server import Fault
from refresh_pipeline_tests.fakes.mail_server import PASSWORD, USERNAME, mail_server
from refresh_pipeline_tests.fakes.slack import FakeSlack

SOON = 0.5
# Of a server that speaks TLS from the first byte aiosmtpd does not know that it does.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")


@pytest.fixture(scope="module")
def webhook() -> Iterator[FakeSlack]:
    with FakeSlack() as running:
        yield running


@pytest.fixture(autouse=True)
def as_new(webhook: FakeSlack) -> None:
    webhook.heal()
    webhook.asked.clear()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for the loopback in one file, and the certificate alone beside it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    pem = tmp_path_factory.mktemp("tls") / "loopback.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    subprocess.run([*command, "-keyout", str(pem), "-out", f"{pem}.crt"], check=True, capture_output=True)
    pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
    return pem


@pytest.fixture
def trusted(certificate: Path) -> Path:
    """A certificate that this machine trusts."""
    os.environ["SSL_CERT_FILE"] = f"{certificate}.crt"
    return certificate


def mail(port: int, security: Security = Security.none, username: str = "", password: str = "") -> Mail:
    recipients = ["a@example.org", "b@example.org"]
    return Mail("127.0.0.1", port, security, "robot@example.org", recipients, username, password)


def failure(channel: Slack | Mail) -> AlertError:
    with pytest.raises(AlertError) as caught:
        channel.send("A title", "A text")
    return caught.value


# ---- Slack


def test_a_message_arrives_in_slack_as_text(webhook: FakeSlack) -> None:
    Slack(webhook.url).send("crypto: stale", "BTC/USDT m1 < ETH/USDT & <!channel>")
    assert webhook.texts == ["*crypto: stale*\nBTC/USDT m1 &lt; ETH/USDT &amp; &lt;!channel&gt;"]


def test_a_very_long_message_arrives_cut(webhook: FakeSlack) -> None:
    Slack(webhook.url).send("long", "x" * 100_000)
    assert len(webhook.texts[0]) == 30_000


@pytest.mark.parametrize(
    ("fault", "is_transient", "said"),
    [
        (slack.NO_SERVICE, False, "HTTP 404 no_service: refused"),
        (slack.ARCHIVED, False, "HTTP 410 channel_is_archived: refused"),
        (slack.SOMEBODY_ELSE, False, "HTTP 403: refused"),
        (slack.TOO_MANY, True, "HTTP 429 rate_limited: too many messages"),
        (slack.ROLLUP_ERROR, True, "HTTP 500 rollup_error: out of order"),
        (slack.DROPPED, True, "no answer"),
        (Fault(delay=2 * SOON), True, "no answer (ReadTimeout)"),
    ],
)
def test_slack_says_why_not_and_whether_it_may_help_to_try_again(
    webhook: FakeSlack, fault: Fault, is_transient: bool, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="refresh_pipeline")
    webhook.fail(fault)
    error = failure(Slack(webhook.url, seconds=SOON))
    assert (error.transient, said in str(error)) == (is_transient, True), error
    assert "services" not in f"{error!r} {error.__cause__!r} {caplog.text}"


def test_slack_is_left_alone_for_as_long_as_it_asks(webhook: FakeSlack) -> None:
    webhook.fail(slack.TOO_MANY)
    assert failure(Slack(webhook.url)).wait == 120


def test_the_address_of_the_webhook_shows_nowhere(webhook: FakeSlack, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    channel = Slack(webhook.url)
    channel.send("A title", "A text")
    assert "services" not in f"{channel!r} {channel} {caplog.text}"


@pytest.mark.parametrize(
    "url",
    [
        "hooks.slack.com/services/T/B/X",
        "https://hooks.slack.com:port/services/T/B/X",
        "ftp://hooks.slack.com/services/T/B/X",
    ],
)
def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    error = failure(Slack(url))
    assert not error.transient
    assert "SLACK_WEBHOOK_URL is no address" in str(error)
    assert url not in str(error)


def test_nobody_there_is_no_answer() -> None:
    for channel in (Slack("http://127.0.0.1:9/services/T/B/X"), mail(9)):
        error = failure(channel)
        assert error.transient
        assert "no answer" in str(error)


# ---- e-mail


def test_a_mail_arrives_with_everybody_it_is_for() -> None:
    with mail_server() as mailbox:
        mail(mailbox.port).send("crypto: stale", "BTC/USDT m1: the newest candle is 12:00\nGrüße")
    [message] = mailbox.messages
    assert (message["Subject"], message["To"]) == ("crypto: stale", "a@example.org, b@example.org")
    assert message["From"] == "robot@example.org"
    assert message["Date"]
    assert message["Message-ID"]
    assert "Grüße" in message.get_content()


@pytest.mark.parametrize("security", [Security.starttls, Security.tls])
def test_a_mail_goes_encrypted_with_the_account(trusted: Path, security: Security) -> None:
    with mail_server(trusted, tls=security is Security.tls, wants_account=True) as mailbox:
        mail(mailbox.port, security, username=USERNAME, password=PASSWORD).send("A title", "A text")
    assert len(mailbox.messages) == 1
    assert mailbox.encrypted == [True]


@pytest.mark.parametrize("security", [Security.starttls, Security.tls])
def test_a_wrong_password_is_a_refusal_that_does_not_show_it(trusted: Path, security: Security) -> None:
    with mail_server(trusted, tls=security is Security.tls, wants_account=True) as mailbox:
        channel = mail(mailbox.port, security, username=USERNAME, password="wrong-password")
        error = failure(channel)
    assert not error.transient
    assert "SMTP 535" in str(error)
    assert "wrong-password" not in f"{error!r} {error.__cause__!r} {channel!r}"
    assert mailbox.messages == []


@pytest.mark.parametrize("security", [Security.starttls, Security.tls])
def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path, security: Security) -> None:
    with mail_server(certificate, tls=security is Security.tls) as mailbox:
        error = failure(mail(mailbox.port, security))
    assert not error.transient
    assert "no encryption (self-signed certificate)" in str(error)
    assert mailbox.messages == []


def test_a_server_without_encryption_is_not_spoken_to_in_the_clear() -> None:
    with mail_server() as mailbox:
        error = failure(mail(mailbox.port, Security.starttls))
    assert (error.transient, mailbox.messages) == (False, [])
    assert "lacks STARTTLS" in str(error)


@pytest.mark.parametrize(("answer", "is_transient"), [("451 try later", True), ("554 no spam", False)])
def test_a_refused_mail_says_whether_it_may_help_to_try_again(answer: str, is_transient: bool) -> None:
    with mail_server() as mailbox:
        mailbox.message_answer = answer
        error = failure(mail(mailbox.port))
    assert error.transient is is_transient
    assert f"answered SMTP {answer[:3]}" in str(error)


def test_a_recipient_that_the_server_does_not_know_is_named_and_the_others_get_the_mail() -> None:
    with mail_server() as mailbox:
        mailbox.recipient_answers = {"b@example.org": "550 unknown"}
        error = failure(mail(mailbox.port))
    assert "refused b@example.org" in str(error)
    assert error.partly
    assert len(mailbox.messages) == 1


@pytest.mark.parametrize(("answer", "is_transient"), [("450 busy", True), ("550 unknown", False)])
def test_no_recipient_left_is_a_failure(answer: str, is_transient: bool) -> None:
    with mail_server() as mailbox:
        mailbox.recipient_answers = dict.fromkeys(["a@example.org", "b@example.org"], answer)
        error = failure(mail(mailbox.port))
    assert error.transient is is_transient
    assert "a@example.org (SMTP" in str(error)


def test_a_mail_that_was_taken_arrived_whatever_the_server_says_of_parting() -> None:
    with mail_server() as mailbox:
        mailbox.parting_answer = "451 do not go"
        mail(mailbox.port).send("A title", "A text")
    assert len(mailbox.messages) == 1


def test_a_server_that_says_nothing_is_waited_for_for_a_bounded_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = replace(mail(silent.getsockname()[1]), seconds=SOON)
        error = failure(channel)
    assert error.transient
    assert "no answer" in str(error)


# ---- any other service, by its apprise URL

SECRETS = ("s3cr3t", "t0ken", "chat-1")


def url_of(service: str, webhook: FakeSlack) -> str:
    host = webhook.base_url.removeprefix("http://")
    return {"ntfy": f"ntfy://user:s3cr3t@{host}/t0ken", "json": f"json://user:s3cr3t@{host}/t0ken"}[service]


@pytest.mark.parametrize(("service", "key"), [("ntfy", "message"), ("json", "message")])
def test_a_message_arrives_at_a_service_by_its_url(service: str, key: str, webhook: FakeSlack) -> None:
    pytest.importorskip("apprise")
    webhook.fail(Fault(200, {}))
    AppriseUrl(url_of(service, webhook), service).send("A <title>", "1 < 2 & a_b")
    [asked] = webhook.asked
    assert (asked.said["title"], asked.said[key]) == ("A <title>", "1 < 2 & a_b")


@pytest.mark.parametrize(
    ("status", "words", "transient"),
    [
        (403, "HTTP 403: refused; check the account and its token in ALERT_URLS", False),
        (429, "HTTP 429: too many messages", True),
        (503, "HTTP 503: out of order there", True),
    ],
)
@pytest.mark.parametrize("service", ["ntfy", "json"])
def test_a_service_that_refuses_is_told_without_its_secrets(
    service: str, status: int, words: str, transient: bool, webhook: FakeSlack, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("apprise")
    caplog.set_level("DEBUG")
    webhook.fail(Fault(status, {"error": "s3cr3t t0ken"}), times=9)
    channel = AppriseUrl(url_of(service, webhook), service)
    with pytest.raises(AlertError) as failure:
        channel.send("title", "text")
    assert str(failure.value).startswith(f"{service}: {words}")
    assert failure.value.transient is transient
    shown = f"{failure.value}{channel!r}{caplog.text}"
    assert not [secret for secret in SECRETS if secret in shown]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("service", ["gotify", "json", "ntfy"])
def test_a_redirect_of_a_service_is_not_followed(service: str, status: int, webhook: FakeSlack) -> None:
    pytest.importorskip("apprise")
    host = webhook.base_url.removeprefix("http://")
    with FakeSlack() as elsewhere:
        webhook.fail(Fault(status, headers={"Location": f"{elsewhere.base_url}/message"}), times=9)
        with pytest.raises(AlertError, match=f"HTTP {status}: a redirect, which is not followed"):
            AppriseUrl(f"{service}://user:s3cr3t@{host}/t0ken", service).send("title", "text")
        assert elsewhere.asked == []


def test_a_redirect_of_slack_is_not_followed(webhook: FakeSlack) -> None:
    with FakeSlack() as elsewhere:
        webhook.fail(Fault(307, headers={"Location": elsewhere.base_url}), times=9)
        with pytest.raises(AlertError, match="HTTP 307"):
            Slack(webhook.url).send("title", "text")
        assert elsewhere.asked == []


def test_a_service_that_is_gone_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apprise")
    with pytest.raises(AlertError, match="ntfy: no answer; check ALERT_URLS and the network") as failure:
        AppriseUrl("ntfy://user:s3cr3t@127.0.0.1:9/t0ken", "ntfy").send("title", "text")
    assert failure.value.transient
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize("url", ["tgram://t0ken", "odd://s3cr3t", "s3cr3t"])
def test_a_url_that_apprise_cannot_read_is_refused_and_not_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("apprise")
    [channel] = apprise_channels(url)
    with pytest.raises(AlertError, match="ALERT_URLS holds a URL that apprise cannot read") as failure:
        channel.send("title", "text")
    assert not failure.value.transient
    assert not [secret for secret in SECRETS if secret in f"{failure.value}{channel!r}{caplog.text}"]


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(AlertError, match=r"pip install .*\[alerts\]'"):
        AppriseUrl("ntfy://host/topic", "ntfy").send("title", "text")
