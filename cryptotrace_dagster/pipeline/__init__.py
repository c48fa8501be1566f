"""The stages: warehouse in, warehouse out, by window. Assets and the live run call the same functions. No Dagster."""
