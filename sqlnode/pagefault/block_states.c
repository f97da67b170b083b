/* The bytes of the block map: claims, waiting, dirt. Every transition of a block is in this file,
 * in harvest.c those between DIRTY and TAKEN, and in drop.c those from here to MISSING. */
#define _GNU_SOURCE
#include "block_map.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "real.h"

/* Make the bytes below `blocks` safe to touch; 0 or an errno. In steps of a page of bytes, which is
 * 32 MiB of data, so that a growing file asks seldom. */
int map_reserve(struct block_map *map, uint32_t slot, uint32_t blocks)
{
	_Atomic uint32_t *ready = &map->slots[slot].ready;
	uint32_t had = atomic_load(ready);
	if (blocks <= had)
		return 0;
	uint32_t target = (blocks + MAP_PAGE_BYTES - 1) / MAP_PAGE_BYTES * MAP_PAGE_BYTES;
	uint32_t from = had <= INLINE_BLOCKS ? 0 : had;
	uint64_t at = map->header->bytes_at + (uint64_t)slot * FILE_BLOCKS_MAX + from;
	if (real_fallocate(map->fd, 0, (off_t)at, target - from) < 0 && errno != EOPNOTSUPP)
		return errno;
	while (had < target && !atomic_compare_exchange_weak(ready, &had, target))
		continue;
	return 0;
}

static void wake(_Atomic uint8_t *byte)
{
	void *word = (void *)((uintptr_t)byte & ~(uintptr_t)3);
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Claim the run of blocks from `first` that are MISSING and unclaimed; how many it was. */
uint32_t map_claim(struct block_map *map, uint32_t slot, uint32_t first, uint32_t count)
{
	uint32_t claimed = 0;
	uint32_t ready = map_ready(map, slot);
	while (claimed < count && first + claimed < ready) {
		_Atomic uint8_t *byte = map_byte(map, slot, first + claimed);
		uint8_t state = atomic_load_explicit(byte, memory_order_relaxed);
		if (!(state & BLOCK_MISSING) || (state & BLOCK_BUSY) ||
		    !atomic_compare_exchange_strong(byte, &state, state | BLOCK_BUSY))
			break;
		if (map_is_cut(map, slot, first + claimed)) {
			map_finish(map, slot, first + claimed, 1, BLOCK_BUSY | BLOCK_WAITED);
			break;
		}
		claimed++;
	}
	return claimed;
}

/* Sleep until the block is not BUSY, or for the time given, or for no reason: callers loop. */
void map_wait(struct block_map *map, uint32_t slot, uint32_t block, uint32_t timeout_ms)
{
	_Atomic uint8_t *byte = map_byte(map, slot, block);
	_Atomic uint32_t *word = (_Atomic uint32_t *)((uintptr_t)byte & ~(uintptr_t)3);
	uint8_t state = atomic_load(byte);
	if ((state & BLOCK_BUSY) && !(state & BLOCK_WAITED) &&
	    !atomic_compare_exchange_strong(byte, &state, state | BLOCK_WAITED))
		return;
	uint32_t seen = atomic_load(word); /* the kernel sleeps only while the word is still this */
	enum { SLEEPING = BLOCK_BUSY | BLOCK_WAITED };
	if ((atomic_load(byte) & SLEEPING) != SLEEPING)
		return;
	struct timespec timeout = {timeout_ms / 1000, (long)(timeout_ms % 1000) * 1000000};
	syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0);
}

enum { FINISH_BLOCKS = 256 };

struct cleared_counts {
	uint32_t missing, dirty, taken;
};

/* All bytes first and the wake-ups after: whoever is woken reads on, and must not find the next
 * block still BUSY. */
static void finish_some(struct block_map *map, uint32_t slot, uint32_t first, uint32_t end,
                        uint8_t cleared, struct cleared_counts *counts)
{
	bool waited[FINISH_BLOCKS];
	for (uint32_t block = first; block < end; block++) {
		_Atomic uint8_t *byte = map_byte(map, slot, block);
		uint8_t had = atomic_load_explicit(byte, memory_order_relaxed) & cleared;
		if (had)
			had = atomic_fetch_and(byte, (uint8_t)~cleared) & cleared;
		counts->missing += !!(had & BLOCK_MISSING);
		counts->dirty += !!(had & BLOCK_DIRTY);
		counts->taken += !!(had & BLOCK_TAKEN);
		waited[block - first] = had & BLOCK_WAITED;
	}
	for (uint32_t block = first; block < end; block++)
		if (waited[block - first])
			wake(map_byte(map, slot, block));
}

/* Take bits off a run of blocks and wake who waits. The counts follow the bits exactly. */
void map_finish(struct block_map *map, uint32_t slot, uint32_t first, uint32_t count,
                uint8_t cleared)
{
	struct map_slot *file = &map->slots[slot];
	struct cleared_counts counts = {0, 0, 0};
	uint32_t ready = map_ready(map, slot);
	uint32_t end = first + count < ready ? first + count : ready;
	for (; first < end; first += FINISH_BLOCKS)
		finish_some(map, slot, first, first + FINISH_BLOCKS < end ? first + FINISH_BLOCKS : end,
		            cleared, &counts);
	if (counts.missing)
		atomic_fetch_sub_explicit(&file->missing, counts.missing, memory_order_release);
	if (counts.dirty)
		atomic_fetch_sub(&file->dirty, counts.dirty);
	if (counts.taken)
		atomic_fetch_sub(&file->taken, counts.taken);
}

void map_clear_all(struct block_map *map, uint32_t slot)
{
	map_finish(map, slot, 0, FILE_BLOCKS_MAX, BLOCK_BITS);
}

/* 0, or an errno when the map cannot grow: the write must not happen then, it would go unseen. */
int map_mark_dirty(struct block_map *map, uint32_t slot, uint32_t block)
{
	struct map_slot *file = &map->slots[slot];
	if (block >= map_ready(map, slot)) {
		int error = map_reserve(map, slot, block + 1);
		if (error)
			return error;
	}
	_Atomic uint8_t *byte = map_byte(map, slot, block);
	if (atomic_load_explicit(byte, memory_order_acquire) & BLOCK_DIRTY)
		return 0;
	/* The count goes first: a harvester skips files that count nothing. */
	atomic_fetch_add(&file->dirty, 1);
	if (atomic_fetch_or(byte, BLOCK_DIRTY) & BLOCK_DIRTY)
		atomic_fetch_sub(&file->dirty, 1);
	return 0;
}

/* For whoever chooses what to drop: a block that was read since it last looked stays. */
void map_mark_used(struct block_map *map, uint32_t slot, uint32_t block)
{
	if (block < map_ready(map, slot))
		atomic_fetch_or_explicit(map_byte(map, slot, block), BLOCK_USED, memory_order_relaxed);
}

/* The file is, or was for a moment, only this long: what storage has behind it is void. */
void map_lower(struct block_map *map, uint32_t slot, uint32_t blocks)
{
	_Atomic uint32_t *low = &map->slots[slot].low;
	uint32_t had = atomic_load(low);
	while (blocks < had && !atomic_compare_exchange_weak(low, &had, blocks))
		continue;
}
