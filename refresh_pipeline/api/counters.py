"""How many requests were answered, and how long that took: for /metrics."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

# Upper bounds in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Requests:
    """Requests by route, method and status, and a histogram of their seconds."""

    by_route: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_route.values())

    def by_path(self, route: str) -> int:
        """The requests of one route, by its path with its placeholders."""
        return sum(count for (path, _, _), count in self.by_route.items() if path == route)

    def answered(self, route: str) -> int:
        """Those of one route that were answered with 2xx."""
        return sum(count for (path, _, status), count in self.by_route.items() if path == route and status < 300)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is the route's path with its placeholders."""
        self.by_route[route, method, status] += 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
