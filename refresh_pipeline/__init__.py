"""Refresh Pipeline keeps market candles fresh, and everything that is made from them.

A **market** is a set of instruments from one source with one trading calendar. A **series** is one instrument on one
timeframe: `EUR/USD|H1`. A **candle** has an `open_time` (UTC, the left edge), open, high, low, close and volume, and is
stored only once it has closed. A **tick** is one firing of a market's schedule; it asks for one **wide run**, which
refreshes every due series at once.

Read in this order:

1. `assets` is the story, per market: raw_candles -> enhanced_candles -> indicators -> exports -> uploads.
2. What an asset does, series by series and without Dagster: `steps` fetches and computes, `backfilling` asks for
   missing history, `exporting` writes files and `uploading` sends them, `copies` and `keeping` serve the destinations
   that a market's YAML adds. `materializing` tells Dagster what came of it.
3. `definitions` is the table of contents that Dagster loads; `describing` what the web UI says of each asset;
   `partitions` the grid; `checks` what must be true; `schedules` and `sensors` when things happen; `resources` the
   neighbours as deployed.
   What goes wrong is found in `troubles`, and people are told by `alerts`.
4. `market` is what is refreshed, `analytics` what is computed: both pure. `sources` is where candles come from,
   `warehouse` where they live, `destinations` where they go. `instance` makes Dagster itself fast and bounded.
5. `settings` is the only module that reads the environment. `cli` is the `refresh` command: `running` does a refresh as
   Dagster runs, `reporting` and `missing` print tables, `progress` carries how far the work is; `refresh up` turns into
   `supervising`.
6. Around the files: `filing`, `retention`, `status_report`, `verifying`, `duplicates`. `backing_up` copies the
   warehouse and Dagster's files, `backups` does so daily, `maintenance` keeps things small, `universes` renews a
   market's list of instruments.

Imports go one way: the modules here use everything; `sources`, `warehouse` and `destinations` use `market` and
`analytics`; `analytics` may use `market`; `market` uses nothing of ours.
"""
