r"""Texts of others as they may be stored, printed and sent: without secrets, without control characters.

Known secrets are those that `settings` has read, and those that a client adds for its requests. A secret is found in
every usual coding: as it is, URL-encoded, JSON- and HTML-escaped, in hex and in base64, each letter in either case.
Whoever shortens a text redacts it first: half a secret is not recognized.
"""

import logging
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from refresh_pipeline.settings import known_secrets

STARS = "***"
# Shorter words (a version, a unit) would only riddle messages with stars.
SHORTEST = 4
# The length of an excerpt, and a word that it would cut.
EXCERPT = 200
LAST_WORD = re.compile(r"[\w.~+/=-]+$")
# Shorter codings would be found in ordinary words.
SHORTEST_CODED = 8
# C0 and C1 but tab and line feed, marks of direction and of no width, separators, halves of pairs: they move a
# terminal's cursor, or show a text as another one.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")

_of_this_request: ContextVar[tuple[str, ...]] = ContextVar("secrets of this request", default=())


def redacted(text: str, secrets: Sequence[str] = ()) -> str:
    """The text with stars in place of each secret, known ones and these, in whatever coding.

    >>> redacted("key=pass%2fword&b=cGFzcy93b3Jk", ["pass/word"])
    'key=***&b=***'
    """
    values = frozenset(
        value for value in (*known_secrets(), *_of_this_request.get(), *secrets) if len(value) >= SHORTEST
    )
    for pattern in _patterns(values):
        text = pattern.sub(STARS, text)
    return text


def clean(text: str, secrets: Sequence[str] = ()) -> str:
    r"""The text without secrets and control characters, line feeds and tabs kept.

    >>> clean("\x1b[2Jno \u202esuch\x00 symbol")
    '[2Jno such symbol'
    """
    return redacted(CONTROL.sub("", text), secrets)


def one_line(text: str, secrets: Sequence[str] = ()) -> str:
    r"""The same on one line.

    >>> one_line("<b>too many\r\n  requests</b>")
    '<b>too many requests</b>'
    """
    # Blanks first: a carriage return parts words.
    return clean(" ".join(text.split()), secrets)


@contextmanager
def request_secrets(secrets: Sequence[str]) -> Iterator[None]:
    """Let every text in the block be redacted of these secrets too."""
    before = _of_this_request.set((*_of_this_request.get(), *secrets))
    try:
        yield
    finally:
        _of_this_request.reset(before)


def redact_log() -> None:
    """Redact the records of every logger from now on, Dagster's event messages included; DEBUG of others is left out.

    A filter would not do: it sees the records of its own logger alone, not those of the loggers below it.
    """
    if not isinstance(logging.getLogRecordFactory(), _RedactedRecords):
        logging.setLogRecordFactory(_RedactedRecords(logging.getLogRecordFactory()))


class _RedactedRecords:
    """Makes log records; the message and the traceback are redacted."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*arguments, **named)
        # Dagster makes records of nothing, to read the names of their fields.
        if not record.name or (record.levelno < logging.INFO and not record.name.startswith("refresh_pipeline")):
            return record
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            # Logging itself says what is wrong with the arguments.
            return record
        if (shown := clean(message)) != message:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = clean(logging.Formatter().formatException(record.exc_info))
        return record


@lru_cache(maxsize=64)
def _patterns(secrets: frozenset[str]) -> list[re.Pattern[str]]:
    """What finds these secrets, the longest first, as one may be a part of another."""
    ordered = sorted(secrets, key=len, reverse=True)
    if not ordered:
        return []
    patterns = [re.compile("|".join("".join(map(_character, secret)) for secret in ordered), re.IGNORECASE)]
    coded = [re.escape(form) for secret in ordered for form in _base64(secret.encode())]
    if coded:
        patterns.append(re.compile(f"(?:{'|'.join(coded)})[A-Za-z0-9+/_=-]{{0,4}}"))
    in_hex = [secret.encode().hex() for secret in ordered if len(secret) >= SHORTEST_CODED]
    return [*patterns, re.compile("|".join(in_hex), re.IGNORECASE)] if in_hex else patterns


def _character(character: str) -> str:
    """A pattern for one character of a secret in every coding that goes by characters."""
    number, encoded = ord(character), character.encode(errors="surrogatepass")
    forms = [
        re.escape(character) if character.isalnum() else rf"\\*{re.escape(character)}",
        "".join(f"%(?:25)*{byte:02x}" for byte in encoded),
        rf"\\+u(?:\{{0*)?{number:04x}\}}?" if number < 0x10000 else rf"\\+U{number:08x}",
        "".join(rf"\\+x{byte:02x}" for byte in encoded),
        rf"&\#(?:0*{number}|x0*{number:x});",
    ]
    named = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;", " ": r"\+"}
    return f"(?:{'|'.join([*forms, *filter(None, [named.get(character)])])})"


def _base64(secret: bytes) -> set[str]:
    """The characters of base64 that this secret alone decides, at each of the three places it may begin."""
    forms = set()
    for before in range(3):
        first, last = -(-before * 4 // 3), (before + len(secret)) * 8 // 6
        for encode in (b64encode, urlsafe_b64encode):
            forms.add(encode(b"\0" * before + secret).decode()[first:last])
    return {form for form in forms if len(form) >= SHORTEST_CODED}


def excerpt(text: str) -> str:
    """The beginning of somebody else's text, on one line and fit for a message.

    Secrets go before the text is cut; no word is cut either.

    >>> excerpt("<b>too many  requests</b>")
    '<b>too many requests</b>'
    """
    line = one_line(text) or "nothing"
    return line if len(line) <= EXCERPT else f"{LAST_WORD.sub('', line[:EXCERPT])}..."
