/* Pages out of their file again, to make room: a hole where storage has the same page.
 *
 * The agent drops in the one thread in which it also adopts and installs, so neither comes
 * between. Processes of postgres read and write all the while, and take no lock. In order:
 *
 *   claim   0 or DIRTY -> MISSING|BUSY|DROPPING, by compare-and-swap; `missing` was raised before
 *   count   `drops` of the file is raised, once for all that were claimed
 *   look    at the page: is its checksum right, and its Lsn among those that storage has?
 *   no:     MISSING, BUSY and DROPPING go; the block is here as before
 *   yes:    DROPPING goes; the page leaves the file; BUSY goes: MISSING, as if it had never come
 *
 * A call that reads or writes (calls_io.c) loads `drops`, waits for what is MISSING, calls libc,
 * and loads `drops` again: if it was raised in between, all of that is done once more. So of a
 * call and a drop of one of its blocks, one of these is true:
 *
 *   1. the call's second load comes before `count`. Then all of the call came before `look`: a
 *      read had the page, and a write that landed is seen by `look`, with the Lsn that it has
 *      brought. (A page that is seen half-written has the wrong checksum, and stays; then 2
 *      holds as well.)
 *   2. the first load comes before `count`, the second after it: the call is repeated. A write
 *      may have been dropped with the page, or been covered by an older one that was fetched
 *      since: nobody reads the block meanwhile, because postgres has it in its buffers until the
 *      call ends.
 *   3. the first load comes after `count`: the call finds the claim, and waits until the block
 *      is here, or asks for it. A claim is never held for longer than this function runs.
 *
 * A truncation sets `cut_at` and then looks for claims; we claim and then look at `cut_at`: one
 * sees the other. The same holds of SLOT_KEPT. A file that was removed has another generation,
 * and its bytes may be another file's: a claim on those is taken back. Once we have seen the
 * generation, what is dropped is of the old file, whose descriptor this is, and `finish` finds
 * no bit of ours to take.
 *
 * Who dies at which line: before `yes`, DROPPING tells the next agent that the page is here;
 * behind it the page is in storage, whether or not it has left the file. */
#define _GNU_SOURCE
#include "agent_api.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "real.h"

enum { UPPER_AT = 14 }; /* of a page: pd_upper, 0 in a page without content */

static uint8_t pages[(size_t)DROP_BLOCKS_MAX * BLOCK_BYTES];

static void give_back(struct block_map *map, uint32_t number, uint32_t block)
{
	map_finish(map, number, block, 1,
	           BLOCK_MISSING | BLOCK_BUSY | BLOCK_WAITED | BLOCK_DROPPING);
}

/* A block that was used since the last look has its second chance now. */
static bool claim(struct block_map *map, struct drop_order *order, uint32_t block)
{
	struct map_slot *slot = &map->slots[order->slot];
	_Atomic uint8_t *byte = map_byte(map, order->slot, block);
	uint8_t state = atomic_load(byte);
	if (state & (BLOCK_MISSING | BLOCK_BUSY))
		return false;
	if (state & BLOCK_USED) {
		atomic_fetch_and(byte, (uint8_t)~BLOCK_USED);
		order->used++;
		return false;
	}
	/* The count goes first: a reader trusts a count of 0. */
	atomic_fetch_add(&slot->missing, 1);
	if (atomic_compare_exchange_strong(byte, &state,
	                                   state | BLOCK_MISSING | BLOCK_BUSY | BLOCK_DROPPING))
		return true;
	atomic_fetch_sub(&slot->missing, 1);
	order->used++; /* just now */
	return false;
}

static bool is_in_storage(const struct drop_order *order, const uint8_t *page, uint32_t block)
{
	uint32_t halves[2];
	uint16_t upper;
	memcpy(halves, page, sizeof halves);
	memcpy(&upper, page + UPPER_AT, sizeof upper);
	uint64_t lsn = (uint64_t)halves[0] << 32 | halves[1];
	return upper && lsn >= order->lsn_min && lsn <= order->lsn_max &&
	       pagefault_verify_pages(page, 1, (uint32_t)order->relation_block + block) == 1;
}

/* MISSING even if the hole could not be made: the page may be gone, and storage has it. */
static void drop_run(struct block_map *map, struct drop_order *order, uint32_t first,
                     uint32_t count)
{
	enum { HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
	map_finish(map, order->slot, first, count, BLOCK_DROPPING);
	if (real_fallocate(order->fd, HOLE, (off_t)first * BLOCK_BYTES, (off_t)count * BLOCK_BYTES))
		order->error = errno;
	else
		order->dropped += count;
	map_finish(map, order->slot, first, count,
	           BLOCK_BUSY | BLOCK_WAITED | BLOCK_DIRTY | BLOCK_USED);
}

/* Blocks that we have claimed: each is dropped or given back. */
static void look_at_run(struct block_map *map, struct drop_order *order, uint32_t first,
                        uint32_t count)
{
	ssize_t got = real_pread(order->fd, pages, (size_t)count * BLOCK_BYTES,
	                         (off_t)first * BLOCK_BYTES);
	uint32_t whole = got > 0 ? (uint32_t)(got / BLOCK_BYTES) : 0; /* the file may have been cut */
	for (uint32_t at = 0, run = 0; at < count; at += run ? run : 1) {
		run = 0;
		while (at + run < whole && !order->error &&
		       is_in_storage(order, pages + (size_t)(at + run) * BLOCK_BYTES, first + at + run))
			run++;
		if (run) {
			drop_run(map, order, first + at, run);
		} else {
			order->newer++;
			give_back(map, order->slot, first + at);
		}
	}
}

static bool is_ours(struct block_map *map, const struct drop_order *order, uint32_t block)
{
	const struct map_slot *slot = &map->slots[order->slot];
	return atomic_load(&slot->generation) == order->generation &&
	       !(atomic_load(&slot->flags) & SLOT_KEPT) && !map_is_cut(map, order->slot, block);
}

/* Nobody but the agent's one thread may call it; see above. */
EXPORT void pagefault_drop(struct block_map *map, struct drop_order *order)
{
	bool claimed[DROP_BLOCKS_MAX] = {false};
	uint32_t number = order->slot, first = order->first, ready = map_ready(map, number);
	uint32_t count = order->count < DROP_BLOCKS_MAX ? order->count : DROP_BLOCKS_MAX;
	uint32_t any = 0;
	order->dropped = order->used = order->newer = 0;
	order->error = map_may_drop(map) ? 0 : EPERM;
	if (order->error || first >= ready || !is_ours(map, order, first))
		return;
	if (count > ready - first)
		count = ready - first;
	for (uint32_t i = 0; i < count; i++)
		any += claimed[i] = claim(map, order, first + i);
	if (!any)
		return;
	atomic_fetch_add(&map->slots[number].drops, 1);
	for (uint32_t i = 0; i < count; i++)
		if (claimed[i] && !is_ours(map, order, first + i)) {
			claimed[i] = false;
			give_back(map, number, first + i);
		}
	for (uint32_t i = 0, run; i < count; i += run + 1) {
		for (run = 0; i + run < count && claimed[i + run];)
			run++;
		if (run)
			look_at_run(map, order, first + i, run);
	}
	COUNT(map, dropped_blocks, order->dropped);
}
