"""Redaction: every coding of every known secret goes, and nothing of a venue moves a terminal's cursor."""

import html
import json
import logging
import os
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from urllib.parse import quote, quote_plus

import pytest

from refresh_pipeline.destinations import PermanentUploadError
from refresh_pipeline.monitoring.channels import AlertError
from refresh_pipeline.redaction import clean, excerpt, redact_log, redacted, request_secrets
from refresh_pipeline.settings import load_settings, secret
from refresh_pipeline.sources import PermanentError
from refresh_pipeline.sources.rows import malformed
from refresh_pipeline.warehouse.outcomes import Attempt

SECRET = 'CANARY_key/with+odd "marks"=!:$%&<é\\'
CODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "URL-encoded": lambda text: quote(text, safe=""),
    "URL-encoded with slashes": quote,
    "URL-encoded in lower case": lambda text: quote(text, safe="").lower(),
    "URL-encoded twice": lambda text: quote(quote(text, safe=""), safe=""),
    "plus-encoded": quote_plus,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[3:-3],
    "JSON with slashes escaped": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON with all escaped": lambda text: "".join(f"\\u{ord(letter):04X}" for letter in text),
    "HTML": html.escape,
    "HTML by numbers": lambda text: "".join(f"&#{ord(letter)};" for letter in text),
    "Python": lambda text: repr(text)[1:-1],
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 after one byte": lambda text: b64encode(b":" + text.encode()).decode(),
    "base64 after two bytes": lambda text: b64encode(b"u:" + text.encode() + b"more").decode(),
    "base64 for URLs": lambda text: urlsafe_b64encode(text.encode()).decode(),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_a_secret_goes_in_every_coding(coding: str) -> None:
    shown = redacted(f"before {CODINGS[coding](SECRET)} after", [SECRET])
    assert "***" in shown
    assert len(shown) <= len("before ***.... after") + 4
    assert shown.startswith("before ")
    assert shown.endswith("after")


def test_ordinary_texts_stay() -> None:
    text = "HTTP 429: too many requests for BTC/USDT; 100 % of 5 keys at https://host/path?***"
    assert redacted(text, [SECRET, "abc", ""]) == text


@pytest.fixture
def known() -> Iterator[None]:
    os.environ |= {"OANDA_TOKEN": SECRET, "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/CANARYslackpart"}
    os.environ["REFRESH_SECRET_MINE"] = "CANARY_of_a_market"
    os.environ["REDIS_USERNAME"] = "default"
    load_settings()
    assert secret("REFRESH_SECRET_MINE") == "CANARY_of_a_market"
    yield
    for name in ("OANDA_TOKEN", "SLACK_WEBHOOK_URL", "REFRESH_SECRET_MINE", "REDIS_USERNAME"):
        os.environ.pop(name, None)
    load_settings()


@pytest.mark.usefixtures("known")
def test_what_settings_have_read_is_known_everywhere() -> None:
    leak = f"a {SECRET} b CANARY_of_a_market c CANARYslackpart d"
    shown = "a *** b *** c *** d"
    for text in (
        clean(leak),
        excerpt(leak),
        str(PermanentError(leak)),
        str(PermanentUploadError(leak)),
        str(AlertError(leak, transient=False)),
        Attempt.of(reasons=[leak], changed=False, has_data=True).reason,
        malformed(leak, "").text.strip('"'),
    ):
        assert text == shown
    assert clean("the default host") == "the default host"


@pytest.mark.usefixtures("known")
def test_texts_are_redacted_before_they_are_cut() -> None:
    for length in range(150, 205):
        assert "CANARY" not in excerpt("x" * length + SECRET)
        assert "CANARY" not in malformed({"a": "x" * length, "key": SECRET}, "no time").text


@pytest.mark.usefixtures("known")
def test_the_log_is_redacted(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    redact_log()
    try:
        with caplog.at_level(logging.INFO):
            logging.getLogger("refresh_pipeline.sources.any").info("with %s", SECRET)
            logging.getLogger("dagster").warning("step failed: %s\x1b[2J", quote(SECRET, safe=""))
            try:
                raise RuntimeError(SECRET)  # noqa: TRY301
            except RuntimeError:
                logging.getLogger("refresh_pipeline").exception("unexpected")
        assert "CANARY" not in caplog.text
        assert "\x1b" not in caplog.text
        assert "with ***" in caplog.text
        assert "RuntimeError: ***" in caplog.text
    finally:
        logging.setLogRecordFactory(before)


def test_a_record_of_nothing_can_still_be_made() -> None:
    before = logging.getLogRecordFactory()
    redact_log()
    try:
        assert logging.makeLogRecord({}).name is None
    finally:
        logging.setLogRecordFactory(before)


def test_secrets_of_a_request_are_known_within_it_alone() -> None:
    with request_secrets(["CANARY_header"]):
        assert excerpt("a CANARY_header") == "a ***"
    assert excerpt("a CANARY_header") == "a CANARY_header"


@pytest.mark.parametrize("mark", ["\x1b]0;title\x07", "\x1b[2J", "\x00", "\x9b2J", "\u202e", "\u2066", "\r", "\ud800"])
def test_control_characters_go(mark: str) -> None:
    for text in (clean(f"a{mark}b"), excerpt(f"a{mark}b"), str(PermanentError(f"a{mark}b"))):
        assert not set(text) & set(mark) - set("]0;title[2J")
        assert text.isprintable()
