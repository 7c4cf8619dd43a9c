"""The signals of Bill Williams' methods, by name. Which columns they follow from is `warehouse.signals`' part."""

from enum import StrEnum


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
