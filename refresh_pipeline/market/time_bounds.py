"""Which instants a run may be asked for. The clock is an argument."""

from datetime import UTC, datetime, timedelta

from refresh_pipeline.market.model import Market

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
# A clock that is a little wrong, and days of another zone, are no mistake.
TOLERANCE = timedelta(days=1)
# Clocks of venues may be ahead of ours by so much.
CLOCK_SKEW = timedelta(minutes=1)
# Simulated candles may come from the future, but not so many that they fill a disk.
FARTHEST_DEMO = timedelta(days=366)
SIMULATED = "demo"


def require_now(market: Market, now: datetime, clock: datetime, name: str = "now") -> None:
    """Refuse a run's instant (`now`) that its market cannot have.

    A simulated market may run up to 366 days ahead of the clock, any other market not at all. `name` is the option's,
    for the message.

    Raises:
        ValueError: the instant lies before 1970, or too far after the clock.
    """
    simulated = market.source.kind == SIMULATED and not market.fallbacks
    latest = clock + (FARTHEST_DEMO if simulated else CLOCK_SKEW)
    if EARLIEST <= now <= latest:
        return
    allowed = f"1970 up to {_shown(latest)}" if simulated else f"1970 up to the clock's {_shown(clock)}"
    raise ValueError(f"{name}: found {_shown(now)}, allowed for market {market.name}: {allowed}")


def require_limit(name: str, limit: datetime, now: datetime) -> None:
    """Refuse a limit of a run (`since`, `until`) before 1970 or later than a day after the run's instant.

    Raises:
        ValueError: it is outside; the message names the limit, the instant and the bounds.
    """
    if not EARLIEST <= limit <= now + TOLERANCE:
        raise ValueError(f"{name}: found {_shown(limit)}, allowed: 1970 up to a day after the run's now, {_shown(now)}")


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
