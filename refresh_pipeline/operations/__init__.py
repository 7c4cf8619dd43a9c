"""Operation of the stored data: backup, restore, maintenance. No Dagster."""
