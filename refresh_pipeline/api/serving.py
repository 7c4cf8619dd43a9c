"""The API as a process: uvicorn over the app, as the settings say."""

import asyncio
import logging
import socket
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
from refresh_pipeline.settings import Settings, SettingsError, end_quietly, keep_files_private, load_settings

WRONG_REQUEST = 2
SECONDS_TO_END = 2
LONGEST_MESSAGE = 64 * 1024
SECONDS_BETWEEN_PINGS = 20.0


class Server(uvicorn.Server):
    """A server that lets its event streams go before it waits for the requests that are open."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the rest."""
        self._service.hub.close()
        await super().shutdown(sockets)


class CutOff(logging.Filter):
    """Keeps the traceback of a request out of the log that the end of the server cut off."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is something else."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, asyncio.CancelledError)


# One, however many servers a process makes.
CUT_OFF = CutOff()


def server_of(settings: Settings, markets: Sequence[Market], host: str, port: int) -> uvicorn.Server:
    """A server of the API that is not running yet."""
    collections, faults = load_usable(settings)
    for fault in faults.values():
        sys.stderr.write(f"A collection of APIs is left out: {fault}\n")
    service = Service.of(settings, markets, collections=collections)
    app = create_app(service, rules_of(settings, host, port))
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
    logging.getLogger("uvicorn.error").addFilter(CUT_OFF)
    return Server(config, service)


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
    end_quietly()
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
