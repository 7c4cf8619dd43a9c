"""What makes Dagster itself fast and bounded, with what it offers publicly and, in few places, a little beyond.

`launcher` forks a run from the warm process `starter` instead of starting a new one; `event_log` writes a wide run's
events in two transactions instead of a thousand; `wide_run` says what a wide run did to each of its partitions;
`orphans` finds runs whose process is gone; `pruning` deletes superseded runs, and `disk` knows what they keep beside
tables. Nothing here knows of markets.
"""
