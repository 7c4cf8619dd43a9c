"""The sessions of XAMS, those of XPAR where nothing else is said: see exchange.py."""

from refresh_pipeline.market.calendars.exchanges.xpar import TABLE as XPAR

TABLE = {
    **XPAR,
    "zone": "Europe/Amsterdam",
    "closed": {
        **XPAR["closed"],
        "2000": "04-21 04-24 05-01 06-01 06-12 12-25 12-26",
        "2001": "01-01 04-13 04-16 04-30 05-01 06-04 12-25 12-26 12-31",
    },
}
