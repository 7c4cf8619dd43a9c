"""Whether the web UI has loaded the markets: `python -m refresh_pipeline.api.load_check`.

The process of `refresh up` starts it before it says that all is ready. It prints the reason and exits with 1 if not.
"""

import asyncio
import sys
import time

from refresh_pipeline.api.dagster_client import BEING_LOADED, DagsterClient
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.settings import load_settings

# Seconds to wait for markets that are being loaded, and between two questions.
PATIENCE, PAUSE = 60.0, 0.5


async def load_fault() -> str:
    """Why the markets are not loaded, in one line; an empty text where they are. Waits while they are being loaded."""
    client = DagsterClient(load_settings())
    end = time.monotonic() + PATIENCE
    try:
        while _is_passing(fault := await client.load_fault()) and time.monotonic() < end:
            await asyncio.sleep(PAUSE)
    except ProblemError as error:
        return str(error)
    else:
        return fault
    finally:
        await client.close()


def _is_passing(fault: str) -> bool:
    """Whether this is how a code server looks that is being restarted."""
    return fault == BEING_LOADED or fault.endswith("gRPC Error code: UNAVAILABLE")


if __name__ == "__main__":
    fault = asyncio.run(load_fault())
    sys.stdout.write(fault)
    sys.exit(1 if fault else 0)
