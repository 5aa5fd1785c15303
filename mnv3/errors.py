"""The one exception that a user can put right."""


class InputError(ValueError):
    """Something a user gave can't be used: one sentence that names the value and the remedy.

    It ends with a full stop, as it may stand beside others. It is shown to visitors as it is, so it never holds a path
    of the host, a token or a stack trace. Raised deep down, caught once at the edge (the app's handlers,
    train.py's main).
    """
