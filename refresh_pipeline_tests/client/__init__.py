"""The Python client, against a data folder and against a real API on loopback."""
