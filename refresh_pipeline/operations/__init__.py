"""Care of what is stored: backup, restore, maintenance. No Dagster."""
