"""Tells every alert channel one thing: `python -m refresh_pipeline.monitoring.send_alert TITLE TEXT`.

The process of `refresh up` starts it, where no sensor can speak any more.
"""

import sys

from refresh_pipeline.monitoring.channels import AlertError
from refresh_pipeline.monitoring.notify import channels_of
from refresh_pipeline.settings import load_settings


def send_alert(title: str, text: str) -> list[str]:
    """Send to every configured channel; the errors of those that failed."""
    channels, errors = channels_of(load_settings())
    for channel in channels:
        try:
            channel.send(title, text)
        except AlertError as error:
            errors.append(str(error))
    return errors


if __name__ == "__main__":
    problems = send_alert(*sys.argv[1:3])
    sys.stderr.write("\n".join([f"{sys.argv[1]}: {sys.argv[2]}", *problems]) + "\n")
    sys.exit(1 if problems else 0)
