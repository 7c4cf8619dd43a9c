"""The work: fetch, compute, export, publish, upload, backfill. No Dagster."""
