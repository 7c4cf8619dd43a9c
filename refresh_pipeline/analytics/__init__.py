"""What is computed: enhanced candles, indicators. Pure: arrays in, arrays out; no Dagster, network, disk or clock."""
