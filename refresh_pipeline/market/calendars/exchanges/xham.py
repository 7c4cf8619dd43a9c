"""The sessions of XHAM, those of XDUS where nothing else is said: see exchange.py."""

from refresh_pipeline.market.calendars.exchanges.xdus import TABLE as XDUS

TABLE = {**XDUS}
