"""The sessions of XFRA, those of XETR where nothing else is said: see exchange.py."""

from refresh_pipeline.market.calendars.exchanges.xetr import TABLE as XETR

TABLE = {**XETR}
