"""Options of a run within its range of partitions: the resource `run_options`, written in the launchpad or run config.

The resource `asked` with its old field names works for one release more and warns in the run's log.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
import numpy as np
from pydantic import Field

from refresh_pipeline.market.candles import instant, parse_instant
from refresh_pipeline.market.model import Market
from refresh_pipeline.market.series import Series
from refresh_pipeline.market.time_bounds import require_limit, require_now

KEY, OLD_KEY = "run_options", "asked"
# Fields of the old key, and their names now.
OLD_FIELDS = {
    "series": "series",
    "stretches": "ranges",
    "since": "since",
    "until": "until",
    "now": "now",
    "missing": "missing_only",
}


class RunOptions(dg.Config):
    """Narrows a run: to some series of its range, to a time, to missing candles."""

    series: list[str] = Field(
        default_factory=list, description="Partition keys within the run's range. Empty: every partition of the range."
    )
    ranges: list[str] = Field(
        default_factory=list,
        description="Candles to fetch anew: lines of a partition key, a start and an end (excluded), such as "
        "'BTC/USDT|m1 2026-11-01T00:00Z 2026-11-01T07:00Z'. Series without a line are left alone.",
    )
    since: str = Field(default="", description="Fetch from this instant (ISO 8601). Empty: from the newest candle.")
    until: str = Field(default="", description="Fetch up to this instant (ISO 8601). Empty: up to now.")
    now: str = Field(default="", description="The instant the run takes for now (ISO 8601). Empty: the clock.")
    missing_only: bool = Field(
        default=False, description="Fetch only candles that the calendar expects and the warehouse lacks."
    )

    def now_instant(self, market: Market) -> datetime:
        """The instant the run takes for now: the clock's where `now` is empty.

        Raises:
            dagster.Failure: `now`, `since`, `until` or `ranges` are malformed or outside the bounds of `time_bounds`.
        """
        clock = datetime.now(UTC)
        try:
            now = parse_instant(self.now) if self.now else clock
            require_now(market, now, clock)
            for name, limit in {"since": self.since_instant, "until": self.until_instant}.items():
                if limit is not None:
                    require_limit(name, limit, now)
        except ValueError as error:
            raise _failure(str(error)) from error
        for start, end in self.gaps.values():
            for limit in (start, end):
                _require_limit_of_range(limit, now)
        return now

    @property
    def gaps(self) -> dict[Series, tuple[np.datetime64, np.datetime64]]:
        """The ranges by series, each a start and an end.

        Raises:
            dagster.Failure: a line is malformed.
        """
        return dict(_range(line) for line in self.ranges)

    @property
    def since_instant(self) -> datetime | None:
        """The start of what is fetched; None for the newest stored candle."""
        return parse_instant(self.since) if self.since else None

    @property
    def until_instant(self) -> datetime | None:
        """The end of what is fetched; None for now."""
        return parse_instant(self.until) if self.until else None

    def chosen(self, partition_keys: Sequence[str]) -> list[Series]:
        """The series of a run's range that these options leave, in the order of the range.

        Raises:
            dagster.Failure: `series` or `ranges` name a series that the run does not hold, or a range is malformed.
        """
        named = set(self.series) or set(partition_keys)
        if outside := sorted(named - set(partition_keys)):
            raise _failure(
                f"`series` names {', '.join(outside)}, outside the run's range of partitions: choose partitions that "
                "include them, or leave `series` out"
            )
        if outside := sorted({series.key for series in self.gaps} - named):
            raise _failure(
                f"`ranges` names {', '.join(outside)}, which this run does not refresh: choose partitions that include "
                "them, or leave these lines out"
            )
        return [Series.from_key(key) for key in partition_keys if key in named]


def _range(line: str) -> tuple[Series, tuple[np.datetime64, np.datetime64]]:
    try:
        key, since, until = line.rsplit(maxsplit=2)
        series, start, end = Series.from_key(key), instant(parse_instant(since)), instant(parse_instant(until))
    except ValueError as error:
        raise _malformed(line) from error
    if not start < end:
        raise _malformed(line)
    return series, (start, end)


def _require_limit_of_range(limit: np.datetime64, now: datetime) -> None:
    try:
        require_limit("ranges", limit.astype(datetime).replace(tzinfo=UTC), now)
    except ValueError as error:
        raise _failure(str(error)) from error


def _malformed(line: str) -> dg.Failure:
    return _failure(
        f"`ranges`: found {line!r}, wanted a partition key, a start and a later end, such as "
        "'BTC/USDT|m1 2026-11-01T00:00Z 2026-11-01T07:00Z'"
    )


def _failure(text: str) -> dg.Failure:
    return dg.Failure(text, allow_retries=False)


# What an asset and a check ask for.
RunOptionsParam = dg.ResourceParam[RunOptions]


def run_options_resources() -> dict[str, dg.ResourceDefinition]:
    """The resource `run_options`, and `asked`, its name of the release before."""

    def read_options(context: dg.InitResourceContext) -> RunOptions:
        old = getattr(context.resources, OLD_KEY)
        if old and context.log is not None:
            context.log.warning("%s", _deprecation(old))
        return _merged(context.resource_config, old)

    def read_old(context: dg.InitResourceContext) -> Mapping[str, object]:
        return context.resource_config

    old_types = {"series": [str], "stretches": [str], "since": str, "until": str, "now": str, "missing": bool}
    old_schema = {name: dg.Field(kind, is_required=False) for name, kind in old_types.items()}
    return {
        KEY: dg.ResourceDefinition(
            read_options,
            config_schema=RunOptions.to_config_schema().as_field(),
            required_resource_keys={OLD_KEY},
            description="Narrows a run to some series, to a time, or to missing candles.",
        ),
        OLD_KEY: dg.ResourceDefinition(
            read_old, config_schema=old_schema, description="Deprecated, removed in the next release: use run_options."
        ),
    }


def _merged(config: Mapping[str, object], old: Mapping[str, object]) -> RunOptions:
    return RunOptions.model_validate({**config, **{OLD_FIELDS[name]: value for name, value in old.items()}})


def _deprecation(old: Mapping[str, object]) -> str:
    renamed = ", ".join(f"{name} -> {OLD_FIELDS[name]}" for name in old if OLD_FIELDS[name] != name)
    fields = f" with the fields renamed: {renamed}" if renamed else ""
    return f"the run config key `{OLD_KEY}` is deprecated and goes with the next release: write `{KEY}`{fields}"
