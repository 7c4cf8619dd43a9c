"""What is refreshed: markets, series, timeframes, calendars, candles. Pure: no Dagster, network, disk or clock.

`model` reads a market's YAML (`plain_yaml` its text, `export_spec` and `destination_spec` its exports and destinations,
`universe` its list of instruments), and `catalog/` holds the markets that are shipped. `timeframe` names lengths of
bars, `series` pairs one with an instrument, `candles` holds bars as arrays and rejects contradictory ones. `calendars/`
knows when markets are open and when bars open and close. `resampling` makes long bars from short ones, `gaps` plans
repairs, `outliers` flags implausible prices, `freshness` compares series with their calendar, and `polling` says how
often a venue is asked.
"""
