"""Takes the colours out of the log of Dagster's programs where nobody wants them."""

import logging

import coloredlogs
from dagster._utils.log import default_date_format_string, default_format_string

from refresh_pipeline.settings import wants_colors

# Of the daemon and the code server, and of the web UI.
LOGGERS = ("dagster", "dagit", "dagster-webserver")


def use_plain_log() -> None:
    """Let this process's log have no colours into a file or a pipe, or with NO_COLOR; Dagster's own always has them."""
    for handler in (handler for name in LOGGERS for handler in logging.getLogger(name).handlers):
        formatter = handler.formatter
        if isinstance(formatter, coloredlogs.ColoredFormatter) and not wants_colors(getattr(handler, "stream", None)):
            handler.setFormatter(logging.Formatter(default_format_string(), default_date_format_string()))
