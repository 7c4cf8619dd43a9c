"""How people come in: the `refresh` command, its tables and the process that `refresh up` turns into."""

import atexit
import os
import signal
import sys
from types import FrameType


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _interrupt)
    # The first that is registered runs last.
    atexit.register(_close_standard_error)
    try:
        # A wrong request is answered before anything heavy is imported; so is the package itself.
        from refresh_pipeline.cli.app import app
        from refresh_pipeline.settings import keep_files_private

        keep_files_private()
        app()
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    raise KeyboardInterrupt


def _close_standard_error() -> None:
    """Send what libraries print while the interpreter ends to nowhere.

    DuckDB's bindings list objects that Dagster still holds then ("nanobind: leaked 27 instances"), 39 lines after a
    command that has succeeded.
    """
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
