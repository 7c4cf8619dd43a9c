"""Where the command writes: standard output for results, standard error for messages and the log."""

import logging
import sys

from rich.console import Console

# Into a file or a pipe a table keeps its shape; on a terminal it keeps to the window.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True)


def print_line(text: str) -> None:
    """Print a result as it is: no markup, no colours, no line breaks."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error as it is, in red."""
    err.print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning as it is, in yellow."""
    err.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def log_to_console(verbose: int) -> None:
    """Show the package's log on standard error: warnings; with -v also information, with -vv everything."""
    from rich.logging import RichHandler

    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logger = logging.getLogger("refresh_pipeline")
    logger.setLevel(level)
    logger.addHandler(RichHandler(console=err, show_path=False, omit_repeated_times=False))
