/* Which blocks changed since the last harvest, exactly once: DIRTY -> TAKEN -> committed or undone.
 *
 * A take moves what has changed aside, so that writes during the harvest count for the next one.
 * Commit when storage has it; undo when storage failed, and the next take brings it all again. */
#define _GNU_SOURCE
#include "agent_api.h"

#include <errno.h>
#include <string.h>

enum { CHANGE_FLAGS = SLOT_NEW | SLOT_RESIZED, KEPT_FLAGS = SLOT_REPLACES | SLOT_KEPT };

/* Move bits from one place to another in every byte of a file; write down which blocks had them. */
static uint32_t move(struct block_map *map, uint32_t number, uint8_t from, uint8_t to,
                     uint32_t *blocks, uint32_t blocks_max)
{
	uint32_t ready = map_ready(map, number);
	uint32_t moved = 0;
	for (uint32_t block = 0; block < ready && moved < blocks_max; block++) {
		_Atomic uint8_t *byte = map_byte(map, number, block);
		uint8_t state = atomic_load_explicit(byte, memory_order_acquire);
		while ((state & from) &&
		       !atomic_compare_exchange_weak(byte, &state, (uint8_t)((state & ~from) | to)))
			continue;
		if (!(state & from))
			continue;
		if (blocks)
			blocks[moved] = block;
		moved++;
	}
	return moved;
}

static bool is_changed(struct map_slot *slot)
{
	uint32_t state = atomic_load(&slot->state);
	if (atomic_load(&slot->generation) & 1)
		return false;
	if (state == SLOT_REMOVED)
		return true;
	return state == SLOT_LIVE && (atomic_load(&slot->dirty) ||
	                              (atomic_load(&slot->flags) & ~(uint32_t)KEPT_FLAGS) ||
	                              atomic_load(&slot->taken) ||
	                              atomic_load(&slot->low) != SLOT_LOW_NONE);
}

/* The first slot at or after `from` with something to harvest; slots_used when there is none. */
EXPORT uint32_t pagefault_next_changed(struct block_map *map, uint32_t from)
{
	uint32_t used = map_slots_used(map);
	while (from < used && !is_changed(&map->slots[from]))
		from++;
	return from;
}

/* Take one slot's changes; the number of blocks written to `blocks` (FILE_BLOCKS_MAX of room). */
EXPORT uint32_t pagefault_take(struct block_map *map, uint32_t number, uint32_t *blocks)
{
	struct map_slot *slot = &map->slots[number];
	uint32_t flags = atomic_fetch_and(&slot->flags, ~(uint32_t)CHANGE_FLAGS) & CHANGE_FLAGS;
	atomic_fetch_or(&slot->flags, flags << SLOT_TAKEN_SHIFT);
	uint32_t low = atomic_exchange(&slot->low, SLOT_LOW_NONE);
	if (low < atomic_load(&slot->taken_low))
		atomic_store(&slot->taken_low, low);
	uint32_t taken = move(map, number, BLOCK_DIRTY, BLOCK_TAKEN, blocks, FILE_BLOCKS_MAX);
	atomic_fetch_add(&slot->taken, taken);
	atomic_fetch_sub(&slot->dirty, taken);
	return taken;
}

/* Not this one yet: a torn last block travels when it is whole, whichever call makes it so. */
EXPORT int pagefault_keep_dirty(struct block_map *map, uint32_t number, uint32_t block)
{
	return map_mark_dirty(map, number, block);
}

static void end_take(struct block_map *map, uint32_t number)
{
	struct map_slot *slot = &map->slots[number];
	atomic_store(&slot->taken_low, SLOT_LOW_NONE);
	atomic_fetch_and(&slot->flags, ~((uint32_t)CHANGE_FLAGS << SLOT_TAKEN_SHIFT));
	(void)map;
}

EXPORT void pagefault_commit(struct block_map *map, uint32_t number)
{
	map_finish(map, number, 0, FILE_BLOCKS_MAX, BLOCK_TAKEN);
	end_take(map, number);
}

EXPORT void pagefault_undo(struct block_map *map, uint32_t number)
{
	struct map_slot *slot = &map->slots[number];
	uint32_t flags = atomic_load(&slot->flags) >> SLOT_TAKEN_SHIFT;
	atomic_fetch_or(&slot->flags, flags & CHANGE_FLAGS);
	map_lower(map, number, atomic_load(&slot->taken_low));
	/* Blocks first, counts after, and a block that is DIRTY again meanwhile counts once. */
	for (uint32_t block = 0; block < FILE_BLOCKS_MAX; block++) {
		if (!(map_state(map, number, block) & BLOCK_TAKEN))
			continue;
		map_mark_dirty(map, number, block);
		map_finish(map, number, block, 1, BLOCK_TAKEN);
	}
	end_take(map, number);
}
