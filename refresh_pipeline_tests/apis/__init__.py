"""API snapshots: their files, how they are asked, and how payloads are kept."""
