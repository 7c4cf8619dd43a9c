"""The base of sources on the network: their options, the shared limits of their hosts, and their HTTP clients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict

from refresh_pipeline.market.model import Market, normalized, source_options
from refresh_pipeline.sources import Secrets, no_secrets
from refresh_pipeline.sources.http_client import Client, RetryPolicy
from refresh_pipeline.sources.rate_limits import Limit, SharedLimit


class SourceOptions(BaseModel):
    """The options of a source in a market's YAML; a subclass adds the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Options = TypeVar("Options", bound=SourceOptions)


class HttpSource(Generic[Options]):
    """The base of a venue's source; a subclass adds `kind`, `options_model`, `native_timeframes` and `fetch`."""

    options_model: type[Options]
    # The name to write beside each candle.
    kind: str

    def __init__(
        self,
        market: Market,
        limits_dir: Path,
        secrets: Secrets = no_secrets,
        retry_policy: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
    ) -> None:
        """The source of one market; all processes share the limits of its host through files in `limits_dir`.

        Raises:
            MarketError: the market's YAML has an unknown or wrong option for this source.
        """
        self._market = market
        self._limits_dir = limits_dir
        self._secrets = secrets
        self._retry_policy = retry_policy
        self._options = source_options(market, self.options_model)
        self._prepare()

    def _prepare(self) -> None:
        """Set what depends on the options; for a subclass that needs it."""

    @property
    def base_url(self) -> str:
        """The address that requests go to."""
        return str(getattr(self._options, "base_url", ""))

    @property
    def venue(self) -> str:
        """The name of the venue, which stays the same when the venue's address changes."""
        return self.kind

    def symbol(self, instrument: str) -> str:
        """The venue's name of an instrument: as the YAML says, or as the venue's rule makes it."""
        return self._market.symbol(instrument, self._default_symbol)

    def _default_symbol(self, instrument: str) -> str:
        """The venue's rule, for a subclass that has another one."""
        return normalized(instrument)

    def _limit(self, venue: str, weight: int, seconds: float) -> SharedLimit:
        return SharedLimit(self._limits_dir, venue, weight, seconds)

    def _client(
        self, base_url: str, limit: Limit, headers: Mapping[str, str] | None = None, *, secrets: Sequence[str] = ()
    ) -> Client:
        return Client(base_url, limit, self._retry_policy, headers, secrets=secrets)


def venue_at(kind: str, base_url: str) -> str:
    """The name of a host's account: venues count requests by address, so markets on one host share an account.

    >>> venue_at("oanda", "https://api-fxtrade.oanda.com/v3")
    'oanda-api-fxtrade.oanda.com'
    """
    return f"{kind}-{httpx.URL(base_url).netloc.decode()}"
