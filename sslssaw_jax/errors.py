"""The parent of all errors that a user can fix."""


class UserError(Exception):
    """An error whose message names what is wrong and the remedy.

    Commands print the message without a traceback.
    """
