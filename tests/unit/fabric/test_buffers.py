"""A buffer is used again when nobody can see it any more, and never before."""

from hypothesis import given
from hypothesis import strategies as st

from fabric.buffers import CLASS_BYTES_MIN, BufferPool

KIB = 1024


def test_a_buffer_that_is_let_go_is_used_again() -> None:
    pool = BufferPool(kept_bytes_max=1024 * KIB)
    first = pool.lease(100 * KIB)
    memory = first.obj
    del first
    assert pool.lease(90 * KIB).obj is memory


def test_a_buffer_with_a_reader_is_left_alone() -> None:
    pool = BufferPool(kept_bytes_max=1024 * KIB)
    lease = pool.lease(100 * KIB)
    memory = lease.obj
    view_of_view = lease[10:][:5]
    del lease
    assert pool.lease(100 * KIB).obj is not memory
    assert len(view_of_view) == 5


def test_no_more_than_the_limit_is_kept() -> None:
    pool = BufferPool(kept_bytes_max=CLASS_BYTES_MIN)
    held = [pool.lease(1000) for _ in range(3)]
    memories = [lease.obj for lease in held]
    held.clear()
    assert pool.lease(1000).obj is memories[0]
    assert BufferPool(kept_bytes_max=0).lease(5).nbytes == 5


@given(st.lists(st.tuples(st.integers(1, 300 * KIB), st.integers(0, 5)), max_size=40))
def test_leases_in_use_never_share_memory(steps: list[tuple[int, int]]) -> None:
    pool = BufferPool(kept_bytes_max=1024 * KIB)
    held: dict[int, memoryview] = {}
    for number, (size, slot) in enumerate(steps):
        held.pop(slot, None)
        lease = held[slot] = pool.lease(size)
        assert lease.nbytes == size
        lease[:1] = bytes([number])
        memories = [id(other.obj) for other in held.values()]
        assert len(set(memories)) == len(memories)
