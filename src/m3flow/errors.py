"""The exceptions that a user can act on: an invalid call, an unusable video, an interrupted run."""


class UsageError(Exception):
    """The call itself is invalid (an option, a setting, the list); nothing was started. Exit status 2."""


class BadInput(Exception):
    """This video cannot be used. It is recorded as rejected, and the others continue. Exit status 3."""


class Interrupted(Exception):
    """The run stops before all videos are done, for the reason given (a signal, a full disk).

    Videos in progress are discarded, finished files are complete, and the next run continues. Exit status 1.
    """
