"""What is refreshed: markets, series, timeframes, calendars, candles. Pure: no Dagster, network, disk or clock.

`timeframe` names lengths of bars, `series` pairs one with an instrument, `candles` holds bars as arrays and says which
are bad, `calendar` knows when bars begin and end, `resample` makes long bars from short ones, `model` reads a market's
YAML, and `catalog/` holds the markets that are shipped.
"""
