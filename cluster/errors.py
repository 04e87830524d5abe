"""What keeps the system from coming up, in words for the person at the terminal."""

from shard_router.errors import ProblemError


class ClusterError(Exception):
    """The text says what is wrong and what to do; the command line prints it without a traceback."""


class StartFailed(ClusterError):  # noqa: N818 - it says what happened
    """A process did not come up: its name, the reason, and the end of its log."""

    def __init__(self, name: str, reason: str, log_tail: str = "") -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        super().__init__(f"{name} did not start: {reason}" + (f"\n{log_tail}" if log_tail else ""))


def in_words(error: BaseException) -> str:
    """What an error says; of a driver's nothing of its state, of a file's not its name, which the caller knows."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    if isinstance(error, ProblemError):
        return error.detail or error.problem.title
    from shard_router.server import SERVER_ERRORS, trouble_of  # noqa: PLC0415 - commands start faster without asyncpg

    return trouble_of(error) if isinstance(error, SERVER_ERRORS) else str(error) or type(error).__name__
