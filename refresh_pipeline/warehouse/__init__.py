"""Where candles live: one DuckDB file, a schema per market, short transactions. Nothing here fetches or computes.

- `warehouse`: the facade that the assets call.
- `connection`: the one place that opens the file; it waits for the file's lock.
- `schema`: the tables of a market, and how an older file becomes a current one.
- `arrays`: numpy arrays into DuckDB and back.
- `ingest`: stores fetched candles; `archives`: the archive files they were read from.
- `computations`: the computed tables of a market.
- `incremental`: brings a computed table up to date, from `checkpoints`, in `computed_batch`es.
- `gaps`: the candles that are missing.
- `point_in_time`: the past as it stood.
- `outcomes`: the result of an attempt at a series.
- `manifests`: the rows of an export, and the files that were exported and uploaded.
- `queries`: read-only questions of people and checks.
- `compaction`: the order of older rows in the file.
"""
