"""The minute as a user has it: `make bench-minute` starts `refresh up` over a venue of its own and measures ticks.

Candles come from the venue of all benchmarks, by the machine's clock. `processes` reads what the started processes
take; `probe` sees when a minute's rows can be read; `timeline` reads from Dagster's files where the time went; `report`
does the sums and prints them, and knows nothing of processes or files. Needs Linux, as it reads /proc.
"""
