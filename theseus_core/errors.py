"""The one exception for what a user can mend."""


class TheseusError(Exception):
    """Something is wrong that the user can put right: bad input, a full disk, a wrong path.

    The command line prints `error: <message>` and, below it, `hint: <hint>`, and exits with 1.
    A mistake of our own is an `assert`, and keeps its traceback.

    Args:
        message: what is wrong, with the offending value last (`not a video file: notes.txt`).
        hint: what would be right, or the command to run.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def nearest(name: str, allowed: list[str]) -> str:
    """A hint that names the allowed values, the most similar one first.

    >>> nearest("smal", ["tiny", "small"])
    'did you mean small? allowed: tiny, small'
    """
    import difflib

    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.6)
    listed = f"allowed: {', '.join(allowed)}"
    return f"did you mean {close[0]}? {listed}" if close else listed
