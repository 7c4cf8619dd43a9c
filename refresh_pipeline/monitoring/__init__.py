"""Who watches and who is told: problems, alerts, status, gap reports. No Dagster."""
