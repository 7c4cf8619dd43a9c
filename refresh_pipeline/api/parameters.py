"""Parameters that several routes share: instants, and how their faults are answered."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import numpy as np
from fastapi import Query

from refresh_pipeline.api.problems import invalid_parameter
from refresh_pipeline.market.candles import instant, parse_instant

INSTANT = "ISO 8601, for instance 2026-01-31T12:00Z, or milliseconds since 1970"
# A + in a query is a blank.
BLANK_OFFSET = re.compile(r" (\d\d:?\d\d)$")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A signed whole number of at most fifteen digits: the years 1 to 9999 and beyond.
MILLISECONDS = re.compile(r"-?\d{5,15}")

MarketParameter = Annotated[str | None, Query(description="The market, where several have the series.")]
SinceParameter = Annotated[str | None, Query(description=f"From this instant on: {INSTANT}.")]
UntilParameter = Annotated[str | None, Query(description=f"Before this instant: {INSTANT}.")]


def parsed_instant(name: str, text: str | None) -> datetime | None:
    """An instant of a query; None where it is not given.

    Raises:
        ProblemError: invalid-parameter.
    """
    if text is None:
        return None
    try:
        if MILLISECONDS.fullmatch(text.strip()):
            return EPOCH + timedelta(milliseconds=int(text))
        return parse_instant(BLANK_OFFSET.sub(r"+\1", text.strip()))
    except (ValueError, OverflowError):
        raise invalid_parameter(name, f"allowed: {INSTANT}", text) from None


def parsed_time(name: str, text: str | None) -> np.datetime64 | None:
    """The same as numpy has it."""
    moment = parsed_instant(name, text)
    return None if moment is None else instant(moment)


def comma_list(text: str | None) -> list[str]:
    """The parts of a comma list.

    >>> comma_list("a, b,"), comma_list(None)
    (['a', 'b'], [])
    """
    return [part.strip() for part in (text or "").split(",") if part.strip()]
