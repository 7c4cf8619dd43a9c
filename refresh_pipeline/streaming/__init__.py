"""Live mode: closed candles by stream, computed in memory, in the warehouse half a second after their close.

No Dagster. `intake` orders what arrives, `engine` computes it, `live_run` is the loop. `sources` reads what a venue
sends, `warehouse.live` writes.
"""
