"""How people come in: the `refresh` command, its tables and the process that `refresh up` turns into."""

import signal
import sys
from types import FrameType


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, _interrupt)
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


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does."""
    raise KeyboardInterrupt
