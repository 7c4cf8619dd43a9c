"""What every handler needs: settings, markets, the reader. One for each process, reached through the request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.requests import Request

from refresh_pipeline.api.access import keys_of
from refresh_pipeline.api.counters import Requests
from refresh_pipeline.api.guard import Guard
from refresh_pipeline.api.login import Keys
from refresh_pipeline.api.reading import Reader
from refresh_pipeline.market.model import Market
from refresh_pipeline.settings import Settings


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Service:
    """The parts that handlers share."""

    settings: Settings
    markets: Sequence[Market]
    keys: Keys
    reader: Reader
    now: Callable[[], datetime] = field(default=_clock)
    requests: Requests = field(default_factory=Requests)
    # Set by the app that stands behind it.
    guard: Guard = field(init=False)

    @classmethod
    def of(cls, settings: Settings, markets: Sequence[Market], now: Callable[[], datetime] = _clock) -> "Service":
        """The service of these settings."""
        return cls(settings, markets, keys_of(settings), Reader(settings.database), now)

    async def start(self) -> None:
        """Begin what runs beside the requests."""

    def close(self) -> None:
        """End the threads."""
        self.reader.close()


def service_of(request: Request) -> Service:
    """The service that a request is answered by."""
    return request.app.state.service
