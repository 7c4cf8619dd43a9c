"""Where candles live: one DuckDB file, a schema per market, short transactions. Nothing here fetches or computes.

`connection` opens the file and waits for its lock; `schema` says which tables a market has; `warehouse` is what the
assets call; `staging` moves arrays in and out; `raw` stores what arrived, `tail` what was computed, `holes` says
where nothing is stored, `bulk` which archives were read, `reports` answers what is there.
"""
