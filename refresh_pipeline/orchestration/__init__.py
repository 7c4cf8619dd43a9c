"""What Dagster sees: assets (THE STORY), partitions, checks, schedules, sensors, jobs, resources."""
