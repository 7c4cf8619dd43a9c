"""What is computed: enhanced candles, indicators. Pure: arrays in, new arrays out; no Dagster, network, disk or clock."""
