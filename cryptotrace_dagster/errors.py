"""The root of the errors that a user can do something about."""


class UserError(Exception):
    """One clear sentence: what was attempted, what was found, what to do next. The CLI prints it and exits with 2."""
