"""Live mode as a market's YAML asks for it: how many connections, and how long to wait for what."""

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_SECONDS = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*(ms|s)")


def _seconds(value: object) -> float:
    """A short wait as people write it, in seconds.

    >>> _seconds("25ms"), _seconds("0.8s")
    (0.025, 0.8)
    """
    if isinstance(value, float):
        return value
    match = _SECONDS.fullmatch(str(value).strip())
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else 0.0
    if not 0 < seconds <= 60:
        raise ValueError("allowed: a number and ms or s, for instance 25ms, up to 60s")
    return seconds


_Wait = Annotated[float, BeforeValidator(_seconds)]


class LiveSettings(BaseModel):
    """How a market is streamed. All waits are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Connections that share the series: a cut of one costs its share alone.
    streams: int = Field(default=2, ge=1, le=20, strict=True)
    # A wave of candles is over when none has come for so long, or so long after its first.
    quiet: _Wait = 0.025
    latest: _Wait = 0.25
    # After a close, REST is asked for what has not come by then.
    rest_after: _Wait = 0.8


def parse_live(value: object) -> object:
    """`live: true` is live mode with its defaults; `false` is none."""
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, dict | LiveSettings):
        raise ValueError("allowed: true, false, or a mapping with streams, quiet, latest and rest_after")
    return value
