"""The process a test runs in: whose settings it sees, where it stands. Imports nothing of ours."""

import os
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

# Whatever begins so is the project's, or Dagster's.
OURS = ("REFRESH_", "DROPBOX_", "DAGSTER_", "OANDA_", "DHAN_", "SLACK_", "SMTP_", "ALERT_", "AWS_", "GOOGLE_", "AZURE_")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """This process as somebody would start it in the folder: no settings but those in it, a home of its own."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]
    os.environ["HOME"] = str(folder / "home")
    try:
        with chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
