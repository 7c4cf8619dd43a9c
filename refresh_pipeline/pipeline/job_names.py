"""Names that several rooms share: jobs of a market, jobs of all, tags of a range of partitions."""

from refresh_pipeline.market.model import Market

# Jobs for all markets together.
BACKUP = "backup"
MAINTENANCE = "maintenance"


def snapshots_job_name(collection: str) -> str:
    """The job that asks the APIs of a collection."""
    return f"{collection}_snapshots"


def refresh_job_name(market: Market) -> str:
    """The job that brings candles and what is computed from them up to date."""
    return f"{market.name}_refresh"


def publish_job_name(market: Market) -> str:
    """The job that exports and uploads."""
    return f"{market.name}_publish"


def check_job_name(market: Market) -> str:
    """The job that runs the checks of every asset."""
    return f"{market.name}_check"


def candle_check_job_name(market: Market) -> str:
    """The job that runs the checks of candles after all chunks of a tick."""
    return f"{market.name}_check_candles"


def backfill_job_name(market: Market) -> str:
    """The job that asks for history that is missing, beside the refreshes, which go on meanwhile."""
    return f"{market.name}_backfill"


def live_job_name(market: Market) -> str:
    """The job whose runs stream the market's candles, an hour each."""
    return f"{market.name}_live"
