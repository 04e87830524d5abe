"""What keeps the system from coming up, in words for the person at the terminal."""


class ClusterError(Exception):
    """The text says what is wrong and what to do; the command line prints it without a traceback."""


class StartFailed(ClusterError):  # noqa: N818 - it says what happened
    """A process did not come up: its name, the reason, and the end of its log."""

    def __init__(self, name: str, reason: str, log_tail: str = "") -> None:
        self.name = name
        self.reason = reason
        self.log_tail = log_tail
        super().__init__(f"{name} did not start: {reason}" + (f"\n{log_tail}" if log_tail else ""))


def in_words(error: Exception) -> str:
    """What an error says; one of a file without its number and the file's name, which the caller knows."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    return str(error)
