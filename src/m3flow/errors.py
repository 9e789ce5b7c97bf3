"""The three ways in which work can end badly, told apart by whose move it is."""


class UsageError(Exception):
    """The call itself is wrong (an option, a setting, the list): nothing was started. Exit status 2."""


class BadInput(Exception):
    """This one video cannot be used; the others can. It is recorded as rejected. Exit status 3."""


class Interrupted(Exception):
    """The run ends before its videos do, for the reason given (a signal, a full disk).

    What was in hand is dropped, what is final is whole; running again goes on. Exit status 1.
    """
