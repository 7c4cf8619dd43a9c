"""When markets trade: one calendar each, chosen by name in `registry`."""
