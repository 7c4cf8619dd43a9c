"""How programs and browsers come in: who may ask (`guard`), how a person logs in (`login`). No Dagster."""
