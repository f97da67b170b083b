/* The block map: one byte of state for every block of every tracked file of one data directory.
 *
 * One file, mapped shared by the agent and by every postgres process: a header, statistics, a hash
 * table of slots (one slot a data file, with room for the state of a small file inside it), and a
 * sparse area with the state of large files. docs/formats/block_map.md is the specification.
 *
 * Who may change a block's byte:
 *   anybody      MISSING -> MISSING|BUSY          a claim, by compare-and-swap
 *   the agent    MISSING|BUSY -> 0 or MISSING     publish or release, after the page is in the file
 *   a writer     0 -> DIRTY                       before and again after it writes
 *   a truncater  anything -> 0                    once nothing behind the new end is BUSY any more
 *   the agent    0 or DIRTY -> MISSING            drop, by way of MISSING|BUSY|DROPPING (drop.c)
 *   a reader     0 -> USED                        where blocks may be dropped
 *   a harvester  DIRTY -> TAKEN -> 0 or DIRTY     take, then commit or undo
 * So a process of postgres may die at any line: what it leaves is at worst a BUSY that the agent,
 * asked again by whoever waits, resolves; it never is a page of zeros that looks like data.
 */
#ifndef SEAWALL_BLOCK_MAP_H
#define SEAWALL_BLOCK_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))

enum { /* the state byte of a block; any other bit means that the map is damaged */
	BLOCK_MISSING = 1, /* the file has no data here yet; storage has */
	BLOCK_BUSY = 2,    /* claimed: the agent has been, or is just being, asked */
	BLOCK_DIRTY = 4,   /* written by postgres since the last harvest */
	BLOCK_TAKEN = 8,   /* was DIRTY and is in a harvest that is not committed yet */
	BLOCK_WAITED = 16, /* somebody sleeps until BUSY goes away */
	BLOCK_DROPPING = 32, /* with MISSING and BUSY: the page is here still, and perhaps stays */
	BLOCK_USED = 64,   /* read since the agent last looked for blocks to drop */
	BLOCK_BITS = 127,
};

enum {
	MAP_VERSION = 2,
	MAP_PAGE_BYTES = 4096,
	BLOCK_BYTES = 8192,
	FILE_BLOCKS_MAX = 131072, /* a segment of a relation: 1 GiB */
	INLINE_BLOCKS = 88,       /* 704 KiB: most files of most catalogs fit */
	MAP_PATH_BYTES = 112,     /* pg_tblspc/4294967295/PG_18_202506291/... is 85 */
	SLOT_BYTES = 256,
	DATA_DIR_BYTES = 1024,
	SOCKET_PATH_BYTES = 108, /* sockaddr_un */
	SLRU_DIRS_BYTES = 256,
};

enum { MAP_TRACKS_CHANGES = 1 }; /* header.flags: somebody harvests, so keep what was removed */

/* Page 0: never changes after creation; guarded by crc32. */
struct map_header {
	char magic[8]; /* "SWBLKMAP" */
	uint32_t version, flags;
	uint32_t slots_max, buckets;
	uint32_t slot_bytes, inline_blocks, block_bytes, file_blocks_max;
	uint32_t link_wait_ms;  /* how long to look for an agent that does not listen */
	uint32_t reply_wait_ms; /* how long to wait for the answer to a fault */
	uint32_t busy_wait_ms;  /* after this a waiter asks the agent about somebody else's claim */
	uint32_t padding;
	uint64_t system_identifier;
	uint64_t buckets_at, slots_at, bytes_at, map_bytes;
	char data_dir[DATA_DIR_BYTES];
	char socket_path[SOCKET_PATH_BYTES];
	char slru_dirs[SLRU_DIRS_BYTES]; /* "pg_xact\0pg_commit_ts\0\0" */
	uint32_t crc32;                  /* of everything before it */
};

/* Page 1: the state of the slot table; changed under the lock only. */
struct map_table {
	_Atomic uint32_t slots_used; /* slots at and above it were never used */
	_Atomic uint32_t free_head;  /* slot number + 1, chained by slot.next; 0: none */
};

/* Page 2: counters, for people and metrics. Names are listed once, here. */
#define MAP_COUNTERS(X) \
	X(attached)          /* processes that preloaded the library over this map */ \
	X(faults)            /* reads and writes that waited for the agent */ \
	X(fault_blocks)      /* blocks claimed by them */ \
	X(fault_us)          /* microseconds they waited */ \
	X(prefetches)        /* asynchronous requests */ \
	X(prefetch_blocks)   /* blocks claimed by them */ \
	X(prefetches_dropped) /* claims given back because the agent's queue was full */ \
	X(waits)             /* times a process slept on another's claim */ \
	X(wait_timeouts)     /* claims that outlived busy_wait_ms, so the agent was asked again */ \
	X(reconnects)        /* connections to the agent that had to be made anew */ \
	X(dropped_blocks)    /* taken out of their files again, to make room */ \
	X(repeats)           /* calls that were made again, because blocks were dropped meanwhile */ \
	X(failed)            /* calls that ended with an error because of a block */ \
	X(gone)              /* faults on a file that was removed meanwhile */ \
	X(files_created) X(files_removed) X(truncations) \
	X(unexpected_rename) X(unexpected_link) X(unexpected_dup) X(unexpected_mmap) \
	X(unexpected_fopen) X(refused_tablespaces)

struct map_counters {
#define X(name) _Atomic uint64_t name;
	MAP_COUNTERS(X)
#undef X
};

enum { SLOT_FREE, SLOT_LIVE, SLOT_REMOVED }; /* REMOVED: kept until the removal is harvested */
enum {
	SLOT_NEW = 1,
	SLOT_RESIZED = 2,
	SLOT_REPLACES = 4, /* NEW, but storage still has an older file of this name */
	SLOT_KEPT = 8,     /* somebody reads it behind our back: none of its blocks is dropped */
	SLOT_TAKEN_SHIFT = 8,
};
#define SLOT_LOW_NONE UINT32_MAX

struct map_slot {
	_Atomic uint32_t generation; /* odd while the file is being removed; one for each life */
	_Atomic uint32_t missing;    /* blocks with MISSING; 0 is the fast path of every read */
	_Atomic uint32_t dirty;      /* blocks with DIRTY */
	_Atomic uint32_t taken;      /* blocks with TAKEN */
	_Atomic uint32_t ready;      /* bytes below it have memory; those above are 0, untouched */
	_Atomic uint32_t low;        /* lowest length in blocks since the last harvest */
	_Atomic uint32_t taken_low;
	_Atomic uint32_t flags; /* SLOT_NEW, SLOT_RESIZED; shifted by SLOT_TAKEN_SHIFT: in a harvest */
	_Atomic uint32_t state;
	_Atomic uint32_t next; /* chain of the bucket, or of free slots: slot number + 1 */
	uint32_t hash;
	_Atomic uint32_t drops; /* raised before a page leaves the file; never goes back */
	char path[MAP_PATH_BYTES]; /* relative to the data directory */
	_Atomic uint8_t first[INLINE_BLOCKS];
	_Atomic uint32_t cut_at; /* during a truncation: new length in blocks + 1; no claims there */
	uint32_t path_bytes;
};

struct block_map {
	int fd;
	struct map_header *header;
	struct map_table *table;
	struct map_counters *counters;
	_Atomic uint32_t *buckets;
	struct map_slot *slots;
	_Atomic uint8_t *bytes; /* FILE_BLOCKS_MAX for each slot, sparse */
};

/* What the agent chooses when it makes a map. */
struct map_options {
	uint32_t flags, slots_max;
	uint32_t link_wait_ms, reply_wait_ms, busy_wait_ms, padding;
	uint64_t system_identifier;
	const char *data_dir, *socket_path;
	const char *slru_dirs; /* comma-separated */
};

struct slot_info {
	uint32_t slot, generation, state, flags, missing, dirty, taken, low, taken_low, padding;
	char path[MAP_PATH_BYTES];
};

#define COUNT(map, name, n) \
	atomic_fetch_add_explicit(&(map)->counters->name, (n), memory_order_relaxed)

/* block_map.c: the table of files */
bool map_attach(struct block_map *map, const char *path, char *error, size_t error_bytes);
void map_detach(struct block_map *map);
bool map_find(struct block_map *map, const char *path, uint32_t *slot, uint32_t *generation);
bool map_is_leaving(struct block_map *map, const char *path);
int map_add(struct block_map *map, const char *path, uint32_t flags, uint32_t *slot,
            uint32_t *generation);
bool map_remove_begin(struct block_map *map, uint32_t slot, uint32_t generation);
void map_remove_end(struct block_map *map, uint32_t slot, bool removed);

/* block_states.c: the bytes */
int map_reserve(struct block_map *map, uint32_t slot, uint32_t blocks);
uint32_t map_claim(struct block_map *map, uint32_t slot, uint32_t first, uint32_t count);
void map_wait(struct block_map *map, uint32_t slot, uint32_t block, uint32_t timeout_ms);
int map_mark_dirty(struct block_map *map, uint32_t slot, uint32_t block);
void map_mark_used(struct block_map *map, uint32_t slot, uint32_t block);
void map_clear_all(struct block_map *map, uint32_t slot);
void map_finish(struct block_map *map, uint32_t slot, uint32_t first, uint32_t count,
                uint8_t cleared);
void map_lower(struct block_map *map, uint32_t slot, uint32_t blocks);

static inline _Atomic uint8_t *map_byte(struct block_map *map, uint32_t slot, uint32_t block)
{
	if (block < INLINE_BLOCKS)
		return &map->slots[slot].first[block];
	return map->bytes + (uint64_t)slot * FILE_BLOCKS_MAX + block;
}

/* The table has no checksum, since everybody writes to it: what is used to reach memory is bounded,
 * so that damage there is a wrong answer about a file at worst, and no crash. */
static inline uint32_t map_slots_used(struct block_map *map)
{
	uint32_t used = atomic_load(&map->table->slots_used);
	return used < map->header->slots_max ? used : map->header->slots_max;
}

static inline uint32_t map_ready(struct block_map *map, uint32_t slot)
{
	uint32_t ready = atomic_load_explicit(&map->slots[slot].ready, memory_order_acquire);
	return ready < FILE_BLOCKS_MAX ? ready : FILE_BLOCKS_MAX;
}

/* Never touches memory that was not reserved: a full file system would answer with SIGBUS. */
static inline uint8_t map_state(struct block_map *map, uint32_t slot, uint32_t block)
{
	if (block >= map_ready(map, slot))
		return 0;
	return atomic_load_explicit(map_byte(map, slot, block), memory_order_acquire);
}

/* A claimer looks after it has claimed, a truncater for claims after it has set cut_at: one of the
 * two sees the other. */
static inline bool map_is_cut(struct block_map *map, uint32_t slot, uint32_t block)
{
	uint32_t cut_at = atomic_load(&map->slots[slot].cut_at);
	return cut_at && block >= cut_at - 1;
}

/* Where changes are harvested, nothing is ever dropped. */
static inline bool map_may_drop(struct block_map *map)
{
	return !(map->header->flags & MAP_TRACKS_CHANGES);
}

static inline bool map_is_unclaimed(struct block_map *map, uint32_t slot, uint32_t block)
{
	return (map_state(map, slot, block) & (BLOCK_MISSING | BLOCK_BUSY)) == BLOCK_MISSING;
}

#endif
