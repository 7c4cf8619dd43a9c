"""The signals of Bill Williams' methods by name, and which of them a market's YAML wants alerts on.

Which columns they follow from is `warehouse.signals`' part.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from refresh_pipeline.market.timeframe import Timeframe


class SignalKind(StrEnum):
    """What happened on a bar."""

    fractal = "fractal"
    divergent = "divergent"
    zone_change = "zone_change"
    saucer = "saucer"
    zero_cross = "zero_cross"
    squat = "squat"


class SignalDirection(StrEnum):
    """Which way a signal points; a squat points nowhere."""

    up = "up"
    down = "down"
    buy = "buy"
    sell = "sell"
    squat = "squat"


def _timeframes(value: object) -> object:
    return [Timeframe.parse(str(name)) for name in value] if isinstance(value, list | tuple) else value


class SignalAlert(BaseModel):
    """Signals that an alert is sent on; what is left out means any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: SignalKind
    direction: SignalDirection | None = None
    timeframes: Annotated[tuple[Timeframe, ...], BeforeValidator(_timeframes)] = ()
    instruments: tuple[str, ...] = ()


class MarketAlerts(BaseModel):
    """The section `alerts:` of a market's YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signals: tuple[SignalAlert, ...] = Field(default=(), max_length=100)
