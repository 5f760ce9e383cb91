"""Errors that are the user's to mend."""


class UserError(Exception):
    """The user's input was wrong; the command line prints the message alone and exits 2."""
