"""The daemon for an hour: `make soak` kills what it can at random, and proves at the end that nothing came of it.

`venue` is where candles come from, in a process of its own; `processes` finds processes by their role; `hour` runs the
daemon, kills, starts anew and watches; `proof` says what is wrong at the end.
A soak that ends early or is ended kills whatever it has started.
"""
