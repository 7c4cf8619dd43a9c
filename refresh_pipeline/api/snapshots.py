"""API snapshots as pushed and as the tracker's messages ask for them: the place where their store is plugged in."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from refresh_pipeline.api.news import News
from refresh_pipeline.warehouse.versions import Change


class Snapshots(Protocol):
    """What the tracker's messages need to know of API snapshots."""

    def knows(self, api_id: str) -> bool:
        """Whether there is such an API."""
        ...

    async def newest(self, api_id: str | None = None) -> Mapping[str, Any]:
        """The newest payload by API: of one, or of all."""
        ...

    async def schedules(self) -> Mapping[str, Any]:
        """The schedule of each API."""
        ...

    async def reschedule(self, api_id: str, interval: int | None, enabled: bool | None) -> Mapping[str, Any]:
        """Change the interval, or switch an API on or off; gives its schedule."""
        ...

    async def force(self, api_id: str) -> str:
        """Ask an API now; gives `success` or `failed`."""
        ...

    async def news_of(self, changes: Sequence[Change]) -> list[News]:
        """A message for each API whose payload changed."""
        ...


class NoSnapshots:
    """Where no API collection is loaded."""

    def knows(self, api_id: str) -> bool:
        """Whether there is such an API: none."""
        return False

    async def newest(self, api_id: str | None = None) -> Mapping[str, Any]:
        """No payload."""
        return {}

    async def schedules(self) -> Mapping[str, Any]:
        """No schedule."""
        return {}

    async def reschedule(self, api_id: str, interval: int | None, enabled: bool | None) -> Mapping[str, Any]:
        """No API can be changed."""
        raise KeyError(api_id)

    async def force(self, api_id: str) -> str:
        """No API can be asked."""
        raise KeyError(api_id)

    async def news_of(self, changes: Sequence[Change]) -> list[News]:
        """Nothing changes."""
        return []
