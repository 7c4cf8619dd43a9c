"""Monitoring: problems, alerts, status, gap reports. No Dagster."""
