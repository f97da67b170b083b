"""What a group does, step by step, is what the transcripts of tests/scenarios/raft say.

`pytest tests/unit/raft --rewrite` writes what happens now into the files: the diff is the review.
"""

from pathlib import Path

import pytest
from unit.raft import transcript

TRANSCRIPTS = sorted(Path(__file__).parents[2].joinpath("scenarios", "raft").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript_tells_what_happens(path: Path, request: pytest.FixtureRequest) -> None:
    written = path.read_text()
    played = transcript.run(written)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(played)
    else:
        assert played == written


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 15
