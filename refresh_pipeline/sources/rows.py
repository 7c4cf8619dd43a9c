"""Reading the rows of an answer: numbers, JSON bodies, and rows that are no candle. What a row means is the venue's."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from refresh_pipeline.market.candles import Malformed
from refresh_pipeline.redaction import clean, excerpt
from refresh_pipeline.sources import PermanentError, SourceError, TransientError

# Characters of a malformed row that are kept.
ROW_TEXT = 200
# What the conversion of a row of unexpected shape raises.
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError)

Row = TypeVar("Row")
Parsed = TypeVar("Parsed")


def number(value: object) -> float:
    """The value as a float, NaN where it is no number.

    Python reads "1_5" and digits of other alphabets too; no venue means them.

    >>> number("1.5"), number(None), number([2]), number("1_5"), number("\u0661")
    (1.5, nan, nan, nan, nan)
    """
    if isinstance(value, str) and not is_plain(value):
        return math.nan
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def is_plain(text: str) -> bool:
    """Whether a text may be a number: in ASCII, without underscores."""
    return "_" not in text and text.isascii()


def floats(columns: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
    """Columns of numbers, or of numbers as texts, as one array: a row per column.

    >>> floats([["1.5", "2"], [3, 4]])
    array([[1.5, 2. ],
           [3. , 4. ]])

    Raises:
        ValueError, TypeError: a cell is no number.
    """
    for column in columns:
        if column and isinstance(column[0], str) and not is_plain("".join(column)):
            raise ValueError("not all of it is numbers")
    return np.array(columns, dtype=np.float64)


def malformed(row: object, reason: str) -> Malformed:
    """A row that is set aside, as the beginning of its JSON."""
    return Malformed(clean(json.dumps(row))[:ROW_TEXT], clean(reason))


def parse_rows(
    rows: Sequence[Row],
    parse: Callable[[Sequence[Row], Sequence[Malformed]], Parsed],
    fault: Callable[[Row], str | None],
    repair: Callable[[Row], Row],
    text: Callable[[Row], str] = json.dumps,
) -> Parsed:
    """Parse all rows at once; if that fails, set aside the rows with a fault and repair the others.

    Args:
        rows: as the venue sends them.
        parse: makes candles from rows, and passes the malformed ones on.
        fault: why a row is no candle, None for a candle.
        repair: the same row with NaN in place of whatever is no number.
        text: a row as it is kept when it is set aside.
    """
    try:
        return parse(rows, ())
    except UNREADABLE:
        faults = [fault(row) for row in rows]
        candles = [repair(row) for row, reason in zip(rows, faults, strict=True) if reason is None]
        kept = [(clean(text(row))[:ROW_TEXT], reason) for row, reason in zip(rows, faults, strict=True) if reason]
        return parse(candles, [Malformed(*row) for row in kept])


def json_body(response: httpx.Response) -> tuple[Any, bool]:
    """The body of an answer, and whether it is JSON at all."""
    try:
        return response.json(), True
    except (ValueError, RecursionError):
        return None, False


def unexpected(response: httpx.Response, wanted: str, hint: str = "") -> SourceError:
    """The error of a good status with a wrong body; a body of JSON that breaks off is worth another attempt.

    Args:
        response: the answer.
        wanted: what its body should have been.
        hint: what the user can do.
    """
    _, is_json = json_body(response)
    if not is_json and response.text.lstrip()[:1] in ("[", "{"):
        return TransientError(f"the answer breaks off: {excerpt(response.text)}")
    return PermanentError(f"expected {wanted}, received {excerpt(response.text)}{hint}")
