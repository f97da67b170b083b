/* The agent's side of the block map; block_map.py declares the same to ctypes. */
#ifndef SEAWALL_AGENT_API_H
#define SEAWALL_AGENT_API_H

#include "block_map.h"

/* One fetch whose pages have come. */
struct install_item {
	uint32_t slot, generation, first, count;
	int32_t fd;             /* of the data file, in the life that the generation names */
	uint32_t status;        /* out: LINK_OK ... */
	int64_t relation_block; /* number of the segment's first block in its relation; -1: an SLRU */
	uint32_t bad_block;     /* out, if LINK_DAMAGED: counted from `first` */
	uint32_t padding;
};

/* Blocks to be dropped from their file: those of [first, first + count) that are here, were not
 * used lately, and whose page storage has. */
struct drop_order {
	uint32_t slot, generation, first, count; /* at most DROP_BLOCKS_MAX */
	int64_t relation_block;   /* number of the segment's first block in its relation */
	uint64_t lsn_min, lsn_max; /* which pages storage has: by their Lsn */
	int32_t fd;               /* of the data file, in the life that the generation names */
	uint32_t dropped;         /* out: how many */
	uint32_t used;            /* out: stay, because they were used since the last look */
	uint32_t newer;           /* out: stay, because of their page */
	int32_t error;            /* out: an errno if the file system cannot make holes */
	uint32_t padding;
};

enum { DROP_BLOCKS_MAX = 128 };

/* Make and open; 0 or an errno, NULL with a sentence in `error`. */
EXPORT int pagefault_map_create(const char *path, const struct map_options *options);
EXPORT struct block_map *pagefault_map_open(const char *path, char *error, size_t error_bytes);
EXPORT void pagefault_map_close(struct block_map *map);
EXPORT const struct map_header *pagefault_header(struct block_map *map);

/* Files. */
EXPORT int pagefault_add_file(struct block_map *map, const char *path, uint32_t blocks);
EXPORT bool pagefault_tracks(struct block_map *map, const char *path);
EXPORT bool pagefault_find(struct block_map *map, const char *path, uint32_t *slot);
EXPORT uint32_t pagefault_slots_used(struct block_map *map);
EXPORT bool pagefault_slot(struct block_map *map, uint32_t number, struct slot_info *info);
EXPORT uint32_t pagefault_generation(struct block_map *map, uint32_t number);

/* Faults. */
EXPORT uint8_t pagefault_state(struct block_map *map, uint32_t number, uint32_t block);
EXPORT uint32_t pagefault_adopt(struct block_map *map, uint32_t number, uint32_t first,
                                uint32_t count, uint32_t *skipped);
EXPORT uint32_t pagefault_verify_pages(const uint8_t *pages, uint32_t count, uint32_t block);
EXPORT void pagefault_install(struct block_map *map, struct install_item *items, uint32_t count,
                              const uint8_t *pages);
EXPORT void pagefault_publish(struct block_map *map, uint32_t number, uint32_t generation,
                              uint32_t first, uint32_t count);
EXPORT void pagefault_release(struct block_map *map, uint32_t number, uint32_t generation,
                              uint32_t first, uint32_t count);
EXPORT uint32_t pagefault_release_all(struct block_map *map);
EXPORT uint32_t pagefault_next_missing(struct block_map *map, uint32_t number, uint32_t from,
                                       uint32_t count_max, uint32_t *first);

/* What is worth having. */
EXPORT uint32_t pagefault_next_used(struct block_map *map, uint32_t number, uint32_t from,
                                    uint32_t count_max, uint32_t *first);

/* Making room. */
EXPORT void pagefault_drop(struct block_map *map, struct drop_order *order);

/* Harvest. */
EXPORT uint32_t pagefault_next_changed(struct block_map *map, uint32_t from);
EXPORT uint32_t pagefault_take(struct block_map *map, uint32_t number, uint32_t *blocks);
EXPORT int pagefault_keep_dirty(struct block_map *map, uint32_t number, uint32_t block);
EXPORT void pagefault_commit(struct block_map *map, uint32_t number);
EXPORT void pagefault_undo(struct block_map *map, uint32_t number);
EXPORT void pagefault_forget_removed(struct block_map *map, uint32_t number);

/* Statistics. */
EXPORT void pagefault_counters(struct block_map *map, uint64_t *values);
EXPORT const char *pagefault_counter_names(void);

#endif
