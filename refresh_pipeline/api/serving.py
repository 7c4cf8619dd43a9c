"""The API as a process: uvicorn over the app, as the settings say."""

import sys
from collections.abc import Sequence
from contextlib import suppress

import uvicorn

from refresh_pipeline.api.access import rules_of
from refresh_pipeline.api.app import create_app
from refresh_pipeline.api.guard import OpenDoor
from refresh_pipeline.api.service import Service
from refresh_pipeline.api_files import load_usable
from refresh_pipeline.market.model import Market, MarketError
from refresh_pipeline.market_files import load_each
from refresh_pipeline.settings import Settings, SettingsError, keep_files_private, load_settings

WRONG_REQUEST = 2
SECONDS_TO_END = 2
LONGEST_MESSAGE = 64 * 1024
SECONDS_BETWEEN_PINGS = 20.0


def server_of(settings: Settings, markets: Sequence[Market], host: str, port: int) -> uvicorn.Server:
    """A server of the API that is not running yet."""
    collections, faults = load_usable(settings)
    for fault in faults.values():
        sys.stderr.write(f"A collection of APIs is left out: {fault}\n")
    app = create_app(Service.of(settings, markets, collections=collections), rules_of(settings, host, port))
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType] (the same protocol under other names)
        host=host,
        port=port,
        log_level="warning",
        # Ours has no query, which could hold what is nobody's business.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
        ws_max_size=LONGEST_MESSAGE,
        ws_ping_interval=SECONDS_BETWEEN_PINGS,
    )
    return uvicorn.Server(config)


def serve(settings: Settings, markets: Sequence[Market], host: str, port: int) -> None:
    """Answer until interrupted.

    Raises:
        OpenDoor: see `rules_of`.
    """
    server = server_of(settings, markets, host, port)
    sys.stderr.write(f"The dashboard and the API answer at http://{host}:{port}. Ctrl-C stops them.\n")
    with suppress(KeyboardInterrupt):
        server.run()


def main() -> None:
    """The program of `refresh serve` and `refresh up`: the address and the port are its arguments."""
    keep_files_private()
    host, port = sys.argv[1], int(sys.argv[2])
    try:
        settings = load_settings()
        markets, _ = load_each(settings)
        serve(settings, markets, host, port)
    except (SettingsError, MarketError, OpenDoor) as error:
        sys.stderr.write(f"The API does not start: {error}\n")
        sys.exit(WRONG_REQUEST)


if __name__ == "__main__":
    main()
