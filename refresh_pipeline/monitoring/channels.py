"""The channels of alerts: a Slack webhook, e-mail over SMTP, and apprise's URLs for any other service.

A channel sends one message or raises `AlertError`; it never tries twice. Content and time are decided elsewhere. No
secret shows in its errors and repr: a webhook's address is one as a whole.
"""

import logging
import re
import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from enum import StrEnum
from http import HTTPStatus
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from refresh_pipeline.extras import install_command
from refresh_pipeline.redaction import clean

if TYPE_CHECKING:
    import httpx

# Of connecting, and of each answer: whoever sends alerts does so between two other things.
SECONDS = 5.0
# Slack cuts a message after 40,000 characters.
LONGEST = 30_000

# It would write the webhook's address into the log with each request.
logging.getLogger("httpx").setLevel(logging.WARNING)


class AlertError(Exception):
    """An alert that did not arrive: what was received, what to do, and whether trying again could help.

    `wait` is how many seconds of silence the other side asked for; `partly` says that somebody got it all the same.
    """

    def __init__(self, message: str, *, transient: bool, wait: float = 0.0, partly: bool = False) -> None:
        super().__init__(clean(message))
        self.transient = transient
        self.wait = wait
        self.partly = partly


class Channel(Protocol):
    """A way to people."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def send(self, title: str, text: str) -> None:
        """Say it once.

        Raises:
            AlertError: it did not arrive.
        """
        ...


class Security(StrEnum):
    """How a mail server is spoken to: encrypted once it agrees, encrypted from the first byte, or not at all."""

    starttls = "starttls"
    tls = "tls"
    none = "none"


@dataclass(frozen=True, slots=True)
class Slack:
    """An incoming webhook."""

    url: str = field(repr=False)
    seconds: float = SECONDS
    name: str = field(default="Slack", init=False)

    def send(self, title: str, text: str) -> None:
        """See Channel."""
        # Late: every process loads this module, and hardly any says something.
        import httpx  # noqa: PLC0415

        content = {"text": f"*{_escaped(title)}*\n{_escaped(text)}"[:LONGEST]}
        try:
            answer = httpx.post(self.url, json=content, timeout=self.seconds)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError):
            raise AlertError("Slack: SLACK_WEBHOOK_URL is no address: copy it anew", transient=False) from None
        # Without the originals, which may quote the address.
        except httpx.HTTPError as error:
            raise AlertError(f"Slack: no answer ({type(error).__name__}); check the network", transient=True) from None
        if answer.status_code != HTTPStatus.OK:
            raise self._refusal(answer)

    def _refusal(self, answer: "httpx.Response") -> AlertError:
        received = f"Slack: HTTP {answer.status_code}"
        # Slack's own words are one, like no_service; a page, or a part of the address, would be somebody else's.
        word = clean(answer.text.strip(), (self.url, *self.url.split("/")))
        if word.replace("_", "").isalnum():
            received += f" {word[:60]}"
        if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            wait = answer.headers.get("Retry-After", "")
            return AlertError(
                f"{received}: too many messages",
                transient=True,
                wait=float(wait) if re.fullmatch("[0-9]{1,4}", wait) else 60.0,
            )
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return AlertError(f"{received}: out of order there; it is tried again", transient=True)
        return AlertError(
            f"{received}: refused; make a new webhook and set SLACK_WEBHOOK_URL to its address", transient=False
        )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@dataclass(frozen=True, slots=True)
class AppriseUrl:
    """A service by its apprise URL: Telegram, Discord, Teams, PagerDuty, ntfy and others. The URL is a secret."""

    url: str = field(repr=False)
    name: str

    def send(self, title: str, text: str) -> None:
        """See Channel."""
        # Late: it takes a quarter of a second of processor time, and is an extra.
        try:
            apprise = import_module("apprise")
        except ImportError:
            raise AlertError(
                f"{self.name}: ALERT_URLS needs a package: {install_command('alerts')}",
                transient=False,
            ) from None
        with _log_of_apprise() as records:
            # Its services carry their tokens in headers of their own, which a redirect would bring to another host.
            asset = apprise.AppriseAsset(http_redirects=False)
            service = apprise.Apprise.instantiate(self.url, asset=asset, suppress_exceptions=True)
            if service is None:
                raise AlertError(
                    f"{self.name}: ALERT_URLS holds a URL that apprise cannot read; compare it with that service's "
                    "page on appriseit.com/services",
                    transient=False,
                )
            arrived = service.notify(title=title, body=text[:LONGEST], body_format="text")
        if not arrived:
            raise self._failure(records)

    def _failure(self, records: Sequence[logging.LogRecord]) -> AlertError:
        """Apprise returns true or false; the HTTP status is in its log, beside texts that may hold secrets."""
        statuses = [
            int(status[1]) for record in records if (status := re.search(r"error=(\d{3})", record.getMessage()))
        ]
        if not statuses:
            return AlertError(f"{self.name}: no answer; check ALERT_URLS and the network", transient=True)
        received = f"{self.name}: HTTP {statuses[-1]}"
        if statuses[-1] == HTTPStatus.TOO_MANY_REQUESTS:
            return AlertError(f"{received}: too many messages", transient=True, wait=60.0)
        if statuses[-1] >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return AlertError(f"{received}: out of order there; it is tried again", transient=True)
        if statuses[-1] < HTTPStatus.BAD_REQUEST:
            return AlertError(
                f"{received}: a redirect, which is not followed; set the service's final address in ALERT_URLS",
                transient=False,
            )
        return AlertError(f"{received}: refused; check the account and its token in ALERT_URLS", transient=False)


class _Kept(logging.Handler):
    """Keeps records and prints none."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self.records.append(record)


@contextmanager
def _log_of_apprise() -> Iterator[list[logging.LogRecord]]:
    """What apprise logs, kept from every other log: it quotes addresses and answers."""
    handler = _Kept(logging.WARNING)
    records = handler.records
    ours, http = logging.getLogger("apprise"), logging.getLogger("urllib3")
    before = ours.propagate, ours.level, http.level
    ours.propagate = False
    ours.setLevel(logging.WARNING)
    http.setLevel(logging.ERROR)
    ours.addHandler(handler)
    try:
        yield records
    finally:
        ours.removeHandler(handler)
        ours.propagate = before[0]
        ours.setLevel(before[1])
        http.setLevel(before[2])


@dataclass(frozen=True, slots=True)
class Mail:
    """E-mail to some people, over a mail server that takes it for us. Certificates are checked."""

    host: str
    port: int
    security: Security
    sender: str
    recipients: Sequence[str]
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    seconds: float = SECONDS
    name: str = field(default="e-mail", init=False)

    def send(self, title: str, text: str) -> None:
        """See Channel."""
        try:
            message = self._message(title, text)
            with closing(self._connected()) as server:
                refused = server.send_message(message)
                # It is taken, whatever the server says of parting.
                with suppress(smtplib.SMTPException, OSError):
                    server.quit()
        except (smtplib.SMTPException, OSError, ValueError) as error:
            # Without the original, which may quote what was sent.
            raise self._failure(error) from None
        if refused:
            refusal = f"e-mail: {self._at} refused {', '.join(sorted(refused))}; correct ALERT_EMAIL_RECIPIENTS"
            raise AlertError(refusal, transient=False, partly=True)

    @property
    def _at(self) -> str:
        return f"{self.host}:{self.port}"

    def _message(self, title: str, text: str) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = title
        message["From"] = self.sender
        message["To"] = ", ".join(self.recipients)
        message["Date"] = format_datetime(localtime())
        message["Message-ID"] = make_msgid(domain="refresh-pipeline")
        message.set_content(text)
        return message

    def _connected(self) -> smtplib.SMTP:
        context = ssl.create_default_context()
        if self.security is Security.tls:
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=self.seconds, context=context)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=self.seconds)
        try:
            if self.security is Security.starttls:
                server.starttls(context=context)
            if self.username:
                server.login(self.username, self.password)
        except BaseException:
            server.close()
            raise
        return server

    def _failure(self, error: Exception) -> AlertError:
        at = f"e-mail: {self._at}"
        if isinstance(error, smtplib.SMTPAuthenticationError) and error.smtp_code >= 500:
            return AlertError(
                f"{at} refused the account (SMTP {error.smtp_code}): SMTP_USERNAME or SMTP_PASSWORD is wrong (Gmail "
                "wants an app password)",
                transient=False,
            )
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            codes = [code for code, _ in error.recipients.values()]
            recipients = ", ".join(f"{who} (SMTP {code})" for who, (code, _) in error.recipients.items())
            return AlertError(f"{at} refused ALERT_EMAIL_RECIPIENTS: {recipients}", transient=min(codes) < 500)
        if isinstance(error, smtplib.SMTPResponseException):
            return AlertError(f"{at} answered SMTP {error.smtp_code}", transient=error.smtp_code < 500)
        if isinstance(error, smtplib.SMTPNotSupportedError):
            return AlertError(f"{at} lacks STARTTLS or login; see SMTP_SECURITY", transient=False)
        if isinstance(error, ssl.SSLError):
            return AlertError(
                f"{at}: no encryption ({getattr(error, 'verify_message', '') or error.reason}); see SMTP_SECURITY, "
                "SMTP_PORT and the server's certificate",
                transient=False,
            )
        if isinstance(error, ValueError):
            return AlertError(f"{at}: SMTP_FROM or ALERT_EMAIL_RECIPIENTS is no address", transient=False)
        return AlertError(f"{at}: no answer ({type(error).__name__}); check SMTP_HOST and the network", transient=True)


def apprise_channels(urls: str) -> list[AppriseUrl]:
    """A channel per URL of a list that commas or spaces part; a URL may hold commas itself.

    >>> [channel.name for channel in apprise_channels("ntfy://host/a, ntfy://host/b tgram://token/chat,other")]
    ['ntfy', 'ntfy 2', 'tgram']
    """
    channels: list[AppriseUrl] = []
    for url in re.split(r"[\s,]+(?=[a-zA-Z][\w+.-]*://)", urls.strip()) if urls.strip() else ():
        scheme = url.partition("://")[0].lower() if "://" in url else "ALERT_URLS"
        number = sum(channel.name.partition(" ")[0] == scheme for channel in channels) + 1
        channels.append(AppriseUrl(url.strip(", "), scheme if number == 1 else f"{scheme} {number}"))
    return channels
