"""What an attempt at a series comes to, and what is stored of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np


class Outcome(StrEnum):
    """What the last attempt at a series came to."""

    updated = "updated"
    unchanged = "unchanged"
    no_data = "no data"
    failed = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt at one series came to.

    `reason` says why it failed, `transient` whether asking again could help; `more` is for Dagster's metadata alone.
    """

    outcome: Outcome
    reason: str | None = None
    transient: bool = False
    rows_added: int = 0
    rows_revised: int = 0
    seconds: float = 0.0
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeriesStats:
    """What is stored of one series: how many candles, and the open times of the first and the last."""

    candle_count: int = 0
    first_open_time: np.datetime64 | None = None
    last_open_time: np.datetime64 | None = None
