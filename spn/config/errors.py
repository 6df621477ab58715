"""The exception for mistakes of the user."""


class InputError(ValueError):
    """A user's mistake: one line that names the file or dotted key, the expected and the actual.

    The command line prints it and exits with status 2.
    """
