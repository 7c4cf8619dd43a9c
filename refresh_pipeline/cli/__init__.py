"""How people come in: the `refresh` command, its tables and the process that `refresh up` turns into."""

import logging
import signal
import sys
from types import FrameType


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _interrupt)
    say_nothing_of_interrupts()
    try:
        # A wrong request is answered before anything heavy is imported; so is the package itself.
        from refresh_pipeline.settings import end_quietly, keep_files_private

        end_quietly()
        from refresh_pipeline.cli.app import app

        keep_files_private()
        app()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


def say_nothing_of_interrupts() -> None:
    """Let no library log an interrupt that passes through it, with its traceback: the command says it in one line."""
    if logging.lastResort is not None:
        logging.lastResort.addFilter(_is_no_interrupt)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    return record.exc_info is None or record.exc_info[0] is not KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    raise KeyboardInterrupt
