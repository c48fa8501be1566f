"""The `cryptotrace` command: one module a command, each with `register(app)`."""
