"""What the checkers raise: the name of an invariant, and how it was broken."""


class Violation(Exception):  # noqa: N818  # it is a finding about the code under test
    """`invariant` does not hold. The seed and a replay say why."""

    def __init__(self, invariant: str, detail: str) -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
