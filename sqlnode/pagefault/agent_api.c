/* What the agent calls (through ctypes): the other half of the protocol of block_map.h, so that the
 * rules of the bytes are written down once, in C, for both sides. */
#define _GNU_SOURCE
#include "agent_api.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data_path.h"
#include "real.h"

EXPORT struct block_map *pagefault_map_open(const char *path, char *error, size_t error_bytes)
{
	real_resolve();
	struct block_map *map = malloc(sizeof *map);
	if (!map) {
		snprintf(error, error_bytes, "out of memory");
		return NULL;
	}
	if (map_attach(map, path, error, error_bytes))
		return map;
	free(map);
	return NULL;
}

EXPORT void pagefault_map_close(struct block_map *map)
{
	map_detach(map);
	free(map);
}

/* Add a file whose first `blocks` blocks are MISSING (0: it is all here). 0 or an errno. Before
 * postgres starts only: nobody looks yet. */
EXPORT int pagefault_add_file(struct block_map *map, const char *path, uint32_t blocks)
{
	uint32_t slot, generation;
	if (blocks > FILE_BLOCKS_MAX)
		return EFBIG;
	int error = map_add(map, path, 0, &slot, &generation);
	if (!error)
		error = map_reserve(map, slot, blocks);
	if (error)
		return error;
	uint32_t inside = blocks < INLINE_BLOCKS ? blocks : INLINE_BLOCKS;
	memset((void *)map->slots[slot].first, BLOCK_MISSING, inside);
	if (blocks > inside)
		memset((void *)map_byte(map, slot, inside), BLOCK_MISSING, blocks - inside);
	atomic_store(&map->slots[slot].missing, blocks);
	return 0;
}

EXPORT uint32_t pagefault_slots_used(struct block_map *map)
{
	return map_slots_used(map);
}

EXPORT bool pagefault_slot(struct block_map *map, uint32_t number, struct slot_info *info)
{
	if (number >= map_slots_used(map))
		return false;
	struct map_slot *slot = &map->slots[number];
	*info = (struct slot_info){
		.slot = number,
		.generation = atomic_load(&slot->generation),
		.state = atomic_load(&slot->state),
		.flags = atomic_load(&slot->flags),
		.missing = atomic_load(&slot->missing),
		.dirty = atomic_load(&slot->dirty),
		.taken = atomic_load(&slot->taken),
		.low = atomic_load(&slot->low),
		.taken_low = atomic_load(&slot->taken_low),
	};
	memcpy(info->path, slot->path, MAP_PATH_BYTES);
	info->path[MAP_PATH_BYTES - 1] = 0;
	return true;
}

EXPORT bool pagefault_find(struct block_map *map, const char *path, uint32_t *slot)
{
	uint32_t generation;
	return map_find(map, path, slot, &generation);
}

EXPORT uint32_t pagefault_generation(struct block_map *map, uint32_t number)
{
	return number < pagefault_slots_used(map) ? atomic_load(&map->slots[number].generation) : 1;
}

EXPORT uint8_t pagefault_state(struct block_map *map, uint32_t number, uint32_t block)
{
	return map_state(map, number, block);
}

/* Never BUSY alone: nobody would take it back from a block that was cut off this moment. */
static bool claim_missing(struct block_map *map, uint32_t number, uint32_t block)
{
	_Atomic uint8_t *byte = map_byte(map, number, block);
	uint8_t state = map_state(map, number, block);
	while ((state & BLOCK_MISSING) && !(state & BLOCK_BUSY))
		if (atomic_compare_exchange_weak(byte, &state, state | BLOCK_BUSY)) {
			if (!map_is_cut(map, number, block))
				return true;
			map_finish(map, number, block, 1, BLOCK_BUSY | BLOCK_WAITED);
			return false;
		}
	return state & BLOCK_MISSING;
}

/* A request names blocks; make sure that those still MISSING are claimed. Returns how many blocks
 * from `first` are MISSING (and BUSY now); *skipped says how many before them were not. */
EXPORT uint32_t pagefault_adopt(struct block_map *map, uint32_t number, uint32_t first,
                                uint32_t count, uint32_t *skipped)
{
	uint32_t at = first, end = first + count, run = 0;
	while (at < end && !(map_state(map, number, at) & BLOCK_MISSING))
		at++;
	*skipped = at - first;
	while (at + run < end && claim_missing(map, number, at + run))
		run++;
	return run;
}

/* The pages are in the file (publish), or will not come (release: back to MISSING). */
EXPORT void pagefault_publish(struct block_map *map, uint32_t number, uint32_t generation,
                              uint32_t first, uint32_t count)
{
	if (pagefault_generation(map, number) == generation)
		map_finish(map, number, first, count, BLOCK_MISSING | BLOCK_BUSY | BLOCK_WAITED);
}

EXPORT void pagefault_release(struct block_map *map, uint32_t number, uint32_t generation,
                              uint32_t first, uint32_t count)
{
	if (pagefault_generation(map, number) == generation)
		map_finish(map, number, first, count, BLOCK_BUSY | BLOCK_WAITED);
}

/* A block that was about to be dropped, and was not looked at yet, is here as before. */
static uint8_t claim_bits(struct block_map *map, uint32_t number, uint32_t block)
{
	enum { CLAIM = BLOCK_BUSY | BLOCK_WAITED, DROP = CLAIM | BLOCK_MISSING | BLOCK_DROPPING };
	return map_state(map, number, block) & BLOCK_DROPPING ? DROP : CLAIM;
}

/* A new agent forgets what the dead one was asked; whoever still waits asks again. */
EXPORT uint32_t pagefault_release_all(struct block_map *map)
{
	uint32_t released = 0, used = map_slots_used(map);
	for (uint32_t number = 0; number < used; number++) {
		if (!atomic_load(&map->slots[number].missing))
			continue;
		uint32_t ready = map_ready(map, number);
		for (uint32_t block = 0; block < ready; block++)
			if (map_state(map, number, block) & BLOCK_BUSY) {
				map_finish(map, number, block, 1, claim_bits(map, number, block));
				released++;
			}
	}
	return released;
}

/* The next run of MISSING, unclaimed blocks at or after `from`; 0 when there is none. */
EXPORT uint32_t pagefault_next_missing(struct block_map *map, uint32_t number, uint32_t from,
                                       uint32_t count_max, uint32_t *first)
{
	uint32_t ready = map_ready(map, number), run = 0;
	if (!atomic_load(&map->slots[number].missing))
		return 0;
	while (from < ready && !map_is_unclaimed(map, number, from))
		from++;
	*first = from;
	while (run < count_max && from + run < ready && map_is_unclaimed(map, number, from + run))
		run++;
	return run;
}

/* The next run of blocks that were read, at or after `from`; 0 when there is none. */
EXPORT uint32_t pagefault_next_used(struct block_map *map, uint32_t number, uint32_t from,
                                    uint32_t count_max, uint32_t *first)
{
	uint32_t ready = map_ready(map, number), run = 0;
	while (from < ready && !(map_state(map, number, from) & BLOCK_USED))
		from++;
	*first = from;
	while (run < count_max && from + run < ready &&
	       map_state(map, number, from + run) & BLOCK_USED)
		run++;
	return run;
}

EXPORT void pagefault_counters(struct block_map *map, uint64_t *values)
{
	const _Atomic uint64_t *counters = (const _Atomic uint64_t *)map->counters;
	for (size_t i = 0; i < sizeof(struct map_counters) / sizeof(uint64_t); i++)
		values[i] = atomic_load(&counters[i]);
}

EXPORT const char *pagefault_counter_names(void)
{
#define X(name) #name " "
	return MAP_COUNTERS(X);
#undef X
}

EXPORT const struct map_header *pagefault_header(struct block_map *map)
{
	return map->header;
}

EXPORT bool pagefault_tracks(struct block_map *map, const char *path)
{
	return data_path_is_tracked(path, map->header->slru_dirs);
}
