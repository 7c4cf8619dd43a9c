"""What makes Dagster itself fast and bounded."""
