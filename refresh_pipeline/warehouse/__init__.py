"""Where candles live: one DuckDB file."""
