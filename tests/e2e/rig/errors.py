"""The one error of the rig: its text is one sentence that says what is wrong and what to do."""


class RigError(Exception):
    """The rig cannot do what was asked of it."""
