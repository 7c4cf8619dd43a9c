"""Whether the web UI has loaded the markets: `python -m refresh_pipeline.api.load_check`.

The process of `refresh up` starts it before it says that all is ready. It prints the reason and exits with 1 if not.
"""

import asyncio
import sys

from refresh_pipeline.api.dagster_client import DagsterClient
from refresh_pipeline.api.problems import ProblemError
from refresh_pipeline.settings import load_settings


async def load_fault() -> str:
    """Why the markets are not loaded, in one line; an empty text where they are."""
    client = DagsterClient(load_settings())
    try:
        return await client.load_fault()
    except ProblemError as error:
        return str(error)
    finally:
        await client.close()


if __name__ == "__main__":
    fault = asyncio.run(load_fault())
    sys.stdout.write(fault)
    sys.exit(1 if fault else 0)
