"""The sessions of XBRU, those of XPAR where nothing else is said: see exchange.py."""

from refresh_pipeline.market.calendars.exchanges.xpar import TABLE as XPAR

TABLE = {
    **XPAR,
    "zone": "Europe/Brussels",
    "closed": {**XPAR["closed"], "2000": "04-21 04-24 05-01 06-01 06-12 07-21 12-25 12-26"},
}
