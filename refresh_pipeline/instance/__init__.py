"""What makes Dagster itself fast and bounded, in part by private parts of Dagster, which pyproject.toml names.

`launcher` forks each run from the warm process `fork_server`. `event_log` writes a wide run's events in two
transactions. `wide_run` reports the result of each partition of a wide run. `orphaned_runs` finds runs whose process is
gone. `run_retention` says how long a run is kept, `run_pruning` deletes superseded runs, and `run_files` handles their
files. `data_lock` lets one service run on a data folder. Nothing here knows of markets.
"""
