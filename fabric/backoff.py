"""How long to wait before the next attempt: full jitter, so that clients do not return in step."""

import random


def full_jitter_ms(rng: random.Random, *, failures: int, base_ms: int, cap_ms: int) -> float:
    """Return a wait between zero and `base_ms` doubled at each failure, at most `cap_ms`.

    "Full jitter" draws from the whole interval: of the usual schemes it spends the fewest calls
    and the least time when many clients compete for one server that has just come back.
    """
    # 2**32 exceeds every cap there could be; without the limit the number grows for ever.
    ceiling_ms = min(cap_ms, base_ms * 2 ** min(failures, 32))
    return rng.uniform(0, ceiling_ms)
