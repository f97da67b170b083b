"""What a hostile client sends: strategies of frames and packets, and recordings with mistakes.

TALK      some frames, most of them with a right length, for a session that has logged in
PACKETS   what comes before a login, or instead of it
mutated   a real session whose frames were swapped, cut, repeated, with some bits flipped
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from integration.gateway.raw_client import frame

from pgwire.startup import MAJOR, CancelRequest, SslRequest, StartupMessage, encode_startup

if TYPE_CHECKING:
    import random

KINDS = st.sampled_from(b"QPBDECSHFXpdcf")
TEXTS = st.sampled_from(
    [
        b"select 1", b"begin", b"commit", b"copy (select 1) to stdout", b"copy t from stdin",
        b"set a.b = c", b"/*", b"'", b"$$", b"listen x", b"select $1", b"", b"\xff\xfe",
        b"discard all", b"seawall.read", b"set seawall.read = auto", b"show seawall.position",
        b"prepare x as select 1",
    ]
)  # fmt: skip
BODIES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        TEXTS.map(lambda text: text + b"\0"),
        st.integers(-(2**15), 2**15 - 1).map(lambda number: number.to_bytes(2, "big", signed=True)),
        st.integers(-(2**31), 2**31 - 1).map(lambda number: number.to_bytes(4, "big", signed=True)),
    ),
    max_size=6,
).map(b"".join)
FRAMES = st.builds(frame, KINDS, BODIES)
LYING_FRAMES = st.builds(
    lambda kind, length, body: bytes([kind]) + length.to_bytes(4, "big") + body,
    st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=60),
)  # fmt: skip
TALK = st.lists(
    st.one_of(FRAMES, FRAMES, FRAMES, LYING_FRAMES, st.binary(max_size=30)), max_size=12
)
CODES = st.sampled_from([196608, 196610, 80877102, 80877103, 80877104, 1])
PACKETS = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda length, code, body: length.to_bytes(4, "big") + code.to_bytes(4, "big") + body,
        st.integers(0, 2**32 - 1), CODES,
        st.binary(max_size=80),
    ),
    st.builds(
        lambda minor, names: encode_startup(StartupMessage(MAJOR, minor, names)),
        st.integers(0, 9999),
        st.dictionaries(
            st.sampled_from(["user", "database", "options", "replication", "_pq_.x", "é"]),
            st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20),
            min_size=1,
        ).map(lambda names: {"user": "x", **names}),
    ),
    st.builds(
        lambda pid, key: encode_startup(CancelRequest(pid, key)),
        st.integers(0, 2**31 - 1), st.binary(min_size=4, max_size=4),
    ),
    st.just(encode_startup(SslRequest())),
)  # fmt: skip


def mutated(frames: list[bytes], rng: random.Random) -> bytes:
    """A recording with a few things wrong."""
    wrong = list(frames)
    for _ in range(rng.randint(0, 2)):
        one, other = rng.randrange(len(wrong)), rng.randrange(len(wrong))
        match rng.randrange(4):
            case 0:
                wrong[one], wrong[other] = wrong[other], wrong[one]
            case 1:
                wrong.insert(one, wrong[other])
            case 2:
                del wrong[one]
            case _:
                wrong[one] = wrong[one][: rng.randrange(len(wrong[one]))]
    data = bytearray(b"".join(wrong))
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
