"""Runs a module as `python -m` does, with a log without colours where nobody wants them, and a quiet end.

`refresh up` starts Dagster's programs through it: their first warnings come before any code of ours could change their
log.
"""

import logging
import runpy
import sys
from typing import Any

import coloredlogs

from refresh_pipeline.settings import end_quietly, wants_colors

# Loggers of the daemon that ask the code server.
DAEMONS = ("SensorDaemon", "SchedulerDaemon", "AssetDaemon", "BackfillDaemon")
ASKING = tuple(f"dagster.daemon.{name}" for name in DAEMONS)


# What Dagster says of ticks that fell into a pause: the next tick of a market fetches what they would have.
NO_CATCHING_UP = "has no partition set, so not trying to catch up"


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record of the daemon is worth a line.

    The supervisor says itself that the code server is being restarted; the next tick, seconds later, asks the new one.
    """
    kind = record.exc_info[0] if record.exc_info else None
    is_restart = kind is not None and kind.__name__ == "DagsterUserCodeUnreachableError"
    return not is_restart and NO_CATCHING_UP not in record.getMessage()


class PlainFormatter(coloredlogs.ColoredFormatter):
    """A formatter with the arguments of the coloured one, which Dagster names in its configuration."""

    def __init__(self, fmt: str | None = None, datefmt: str | None = None, **styles: Any) -> None:
        logging.Formatter.__init__(self, fmt, datefmt)

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without colours."""
        return logging.Formatter.format(self, record)


def main() -> None:
    """Run the module that the first argument names, with the other arguments."""
    end_quietly()
    if not (wants_colors(sys.stdout) and wants_colors(sys.stderr)):
        coloredlogs.ColoredFormatter = PlainFormatter
    for name in ASKING:
        logging.getLogger(name).addFilter(is_news)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
