"""Errors that are the user's to mend."""


class UserError(Exception):
    """The user's input was wrong; the command line prints the message alone and exits 2."""


class NoScoreError(Exception):
    """A reward has no number, for a reason that needs no traceback. The text follows the words "the reward"."""
