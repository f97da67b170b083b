/* The table of files: create, attach, find, add, remove. See block_map.h and docs/formats. */
#define _GNU_SOURCE
#include "agent_api.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "real.h"

static const char MAGIC[8] = "SWBLKMAP";

_Static_assert(sizeof(struct map_slot) == SLOT_BYTES, "docs/formats/block_map.md says so");
_Static_assert(sizeof(struct map_header) <= MAP_PAGE_BYTES, "page 0");
_Static_assert(sizeof(struct map_counters) <= MAP_PAGE_BYTES, "page 2");
_Static_assert(offsetof(struct map_slot, first) % 4 == 0 && INLINE_BLOCKS % 4 == 0, "futex words");

enum {
	TABLE_AT = MAP_PAGE_BYTES,
	COUNTERS_AT = 2 * MAP_PAGE_BYTES,
	BUCKETS_AT = 3 * MAP_PAGE_BYTES
};

static bool fail(char *error, size_t error_bytes, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(error, error_bytes, format, arguments);
	va_end(arguments);
	return false;
}

static uint32_t crc32_of(const void *data, size_t bytes)
{
	const uint8_t *at = data;
	uint32_t crc = ~0u;
	for (size_t i = 0; i < bytes; i++) {
		crc ^= at[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
	}
	return ~crc;
}

static uint32_t header_crc(const struct map_header *header)
{
	return crc32_of(header, offsetof(struct map_header, crc32));
}

static uint64_t page_up(uint64_t bytes)
{
	return (bytes + MAP_PAGE_BYTES - 1) & ~(uint64_t)(MAP_PAGE_BYTES - 1);
}

static void lay_out(struct map_header *header)
{
	header->buckets = 1;
	while (header->buckets < header->slots_max)
		header->buckets *= 2;
	header->buckets_at = BUCKETS_AT;
	header->slots_at = page_up(BUCKETS_AT + header->buckets * sizeof(uint32_t));
	header->bytes_at = page_up(header->slots_at + (uint64_t)header->slots_max * SLOT_BYTES);
	header->map_bytes = header->bytes_at + (uint64_t)header->slots_max * FILE_BLOCKS_MAX;
}

static bool copy_text(char *to, size_t bytes, const char *from)
{
	if (strlen(from) + 2 > bytes) /* + 2: the list of SLRUs ends with an empty name */
		return false;
	strcpy(to, from);
	return true;
}

static bool fill_header(struct map_header *header, const struct map_options *options)
{
	memset(header, 0, sizeof *header);
	memcpy(header->magic, MAGIC, sizeof MAGIC);
	header->version = MAP_VERSION;
	header->flags = options->flags;
	header->slots_max = options->slots_max;
	header->slot_bytes = SLOT_BYTES;
	header->inline_blocks = INLINE_BLOCKS;
	header->block_bytes = BLOCK_BYTES;
	header->file_blocks_max = FILE_BLOCKS_MAX;
	header->link_wait_ms = options->link_wait_ms;
	header->reply_wait_ms = options->reply_wait_ms;
	header->busy_wait_ms = options->busy_wait_ms;
	header->system_identifier = options->system_identifier;
	lay_out(header);
	if (!copy_text(header->data_dir, DATA_DIR_BYTES, options->data_dir) ||
	    !copy_text(header->socket_path, SOCKET_PATH_BYTES, options->socket_path) ||
	    !copy_text(header->slru_dirs, SLRU_DIRS_BYTES, options->slru_dirs))
		return false;
	for (char *at = header->slru_dirs; *at; at++)
		if (*at == ',')
			*at = 0;
	header->crc32 = header_crc(header);
	return true;
}

/* Reserve file space before memory is touched, because a store to a mapped hole of a full file
 * system is a SIGBUS. A file system that cannot reserve is taken at its word. */
static int reserve(int fd, uint64_t at, uint64_t bytes)
{
	if (real_fallocate(fd, 0, (off_t)at, (off_t)bytes) == 0 || errno == EOPNOTSUPP)
		return 0;
	return errno;
}

EXPORT int pagefault_map_create(const char *path, const struct map_options *options)
{
	struct map_header header;
	real_resolve();
	if (options->slots_max < 1 || options->slots_max > 1u << 24 || !fill_header(&header, options))
		return EINVAL;
	int fd = real_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return errno;
	int error = real_ftruncate(fd, (off_t)header.map_bytes) ? errno : 0;
	if (!error)
		error = reserve(fd, 0, header.slots_at);
	if (!error && real_pwrite(fd, &header, sizeof header, 0) != sizeof header)
		error = errno ? errno : EIO;
	real_close(fd);
	if (error)
		real_unlink(path);
	return error;
}

static bool header_is_sound(const struct map_header *header, uint64_t file_bytes)
{
	struct map_header expected = *header;
	if (memcmp(header->magic, MAGIC, sizeof MAGIC) || header->crc32 != header_crc(header))
		return false;
	lay_out(&expected);
	return header->slot_bytes == SLOT_BYTES && header->inline_blocks == INLINE_BLOCKS &&
	       header->block_bytes == BLOCK_BYTES && header->file_blocks_max == FILE_BLOCKS_MAX &&
	       memcmp(&expected, header, sizeof expected) == 0 && header->map_bytes == file_bytes;
}

bool map_attach(struct block_map *map, const char *path, char *error, size_t error_bytes)
{
	struct map_header header;
	struct stat status;
	int fd = real_open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fail(error, error_bytes, "block map %s: %s; rebuild the data directory", path,
		            strerror(errno));
	if (fstat(fd, &status) || real_pread(fd, &header, sizeof header, 0) != sizeof header ||
	    (header.version == MAP_VERSION && !header_is_sound(&header, (uint64_t)status.st_size))) {
		real_close(fd);
		return fail(error, error_bytes, "block map %s is damaged; rebuild the data directory",
		            path);
	}
	if (header.version != MAP_VERSION) {
		real_close(fd);
		return fail(error, error_bytes, "block map %s has version %u and this library knows %u "
		            "only; rebuild the data directory", path, header.version, MAP_VERSION);
	}
	char *base = real_mmap(NULL, header.map_bytes, PROT_READ | PROT_WRITE,
	                       MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (base == MAP_FAILED) {
		fail(error, error_bytes, "block map %s cannot be mapped: %s; allow the process more "
		     "address space", path, strerror(errno));
		real_close(fd);
		return false;
	}
	*map = (struct block_map){
		.fd = fd,
		.header = (struct map_header *)base,
		.table = (struct map_table *)(base + TABLE_AT),
		.counters = (struct map_counters *)(base + COUNTERS_AT),
		.buckets = (_Atomic uint32_t *)(base + header.buckets_at),
		.slots = (struct map_slot *)(base + header.slots_at),
		.bytes = (_Atomic uint8_t *)(base + header.bytes_at),
	};
	return true;
}

void map_detach(struct block_map *map)
{
	uint64_t bytes = map->header->map_bytes;
	munmap(map->header, bytes);
	real_close(map->fd);
}

/* A record lock belongs to a process and dies with it: nobody can leave the table locked. */
static int table_lock(struct block_map *map, short type)
{
	struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = TABLE_AT, .l_len = 1};
	int result;
	while ((result = fcntl(map->fd, F_SETLKW, &lock)) < 0 && errno == EINTR)
		continue;
	return result < 0 ? errno : 0;
}

static uint32_t hash_of(const char *path)
{
	uint32_t hash = 2166136261u; /* FNV-1a */
	for (; *path; path++)
		hash = (hash ^ (uint8_t)*path) * 16777619u;
	return hash;
}

static _Atomic uint32_t *bucket_of(struct block_map *map, uint32_t hash)
{
	return &map->buckets[hash & (map->header->buckets - 1)];
}

static bool slot_has_path(const struct map_slot *slot, const char *path, uint32_t hash)
{
	return slot->hash == hash && slot->path_bytes < MAP_PATH_BYTES &&
	       strncmp(slot->path, path, MAP_PATH_BYTES) == 0;
}

/* Walk a chain. Without the lock a slot may move to another chain below our feet; then the walk
 * misses, and the caller looks again under the lock. The bound makes a damaged chain a miss. */
static bool walk(struct block_map *map, const char *path, uint32_t hash, uint32_t state,
                 uint32_t *found, uint32_t *generation)
{
	uint32_t next = atomic_load_explicit(bucket_of(map, hash), memory_order_acquire);
	for (uint32_t steps = 0; next && steps < map->header->slots_max; steps++) {
		if (next > map->header->slots_max)
			return false;
		struct map_slot *slot = &map->slots[next - 1];
		uint32_t before = atomic_load_explicit(&slot->generation, memory_order_acquire);
		if (!(before & 1) && atomic_load(&slot->state) == state &&
		    slot_has_path(slot, path, hash) &&
		    atomic_load_explicit(&slot->generation, memory_order_acquire) == before) {
			*found = next - 1;
			*generation = before;
			return true;
		}
		next = atomic_load_explicit(&slot->next, memory_order_acquire);
	}
	return false;
}

bool map_find(struct block_map *map, const char *path, uint32_t *slot, uint32_t *generation)
{
	uint32_t hash = hash_of(path);
	if (walk(map, path, hash, SLOT_LIVE, slot, generation))
		return true;
	if (table_lock(map, F_WRLCK))
		return false;
	bool found = walk(map, path, hash, SLOT_LIVE, slot, generation);
	table_lock(map, F_UNLCK);
	return found;
}

/* Whether somebody is between map_remove_begin and map_remove_end with this file. */
bool map_is_leaving(struct block_map *map, const char *path)
{
	uint32_t hash = hash_of(path);
	bool leaving = false;
	if (table_lock(map, F_WRLCK))
		return false;
	uint32_t next = atomic_load(bucket_of(map, hash));
	for (uint32_t steps = 0; next && steps < map->header->slots_max; steps++) {
		if (next > map->header->slots_max)
			break;
		struct map_slot *slot = &map->slots[next - 1];
		if ((atomic_load(&slot->generation) & 1) && slot_has_path(slot, path, hash))
			leaving = true;
		next = atomic_load(&slot->next);
	}
	table_lock(map, F_UNLCK);
	return leaving;
}

static int take_free_slot(struct block_map *map, uint32_t *number)
{
	uint32_t head = atomic_load(&map->table->free_head);
	if (head > map->header->slots_max)
		return EIO;
	if (head) {
		*number = head - 1;
		atomic_store(&map->table->free_head, atomic_load(&map->slots[head - 1].next));
		return 0;
	}
	uint32_t used = map_slots_used(map);
	if (used >= map->header->slots_max)
		return ENOSPC;
	enum { SLOTS_PER_PAGE = MAP_PAGE_BYTES / SLOT_BYTES };
	if (used % SLOTS_PER_PAGE == 0) {
		int error = reserve(map->fd, map->header->slots_at + (uint64_t)used * SLOT_BYTES,
		                    MAP_PAGE_BYTES);
		if (error)
			return error;
	}
	atomic_store(&map->table->slots_used, used + 1);
	*number = used;
	return 0;
}

static void start_life(struct block_map *map, uint32_t number, uint32_t flags)
{
	struct map_slot *slot = &map->slots[number];
	map_clear_all(map, number);
	if (atomic_load(&slot->ready) < INLINE_BLOCKS)
		atomic_store(&slot->ready, INLINE_BLOCKS);
	atomic_store(&slot->cut_at, 0);
	atomic_store(&slot->low, SLOT_LOW_NONE);
	atomic_store(&slot->taken_low, SLOT_LOW_NONE);
	atomic_store(&slot->flags, flags);
	atomic_store(&slot->state, SLOT_LIVE);
}

static int add_locked(struct block_map *map, const char *path, uint32_t flags, uint32_t *number,
                      uint32_t *generation)
{
	uint32_t hash = hash_of(path);
	if (walk(map, path, hash, SLOT_LIVE, number, generation))
		return EEXIST;
	if (walk(map, path, hash, SLOT_REMOVED, number, generation)) {
		start_life(map, *number, flags | SLOT_REPLACES); /* same name, new file */
		*generation = atomic_fetch_add(&map->slots[*number].generation, 2) + 2;
		return 0;
	}
	int error = take_free_slot(map, number);
	if (error)
		return error;
	struct map_slot *slot = &map->slots[*number];
	_Atomic uint32_t *bucket = bucket_of(map, hash);
	slot->hash = hash;
	slot->path_bytes = (uint32_t)strlen(path);
	strcpy(slot->path, path);
	start_life(map, *number, flags);
	*generation = atomic_fetch_add(&slot->generation, 2) + 2;
	atomic_store(&slot->next, atomic_load(bucket));
	atomic_store_explicit(bucket, *number + 1, memory_order_release);
	return 0;
}

/* EEXIST with the slot filled in when the file is in the table already; ENOSPC when it is full. */
int map_add(struct block_map *map, const char *path, uint32_t flags, uint32_t *slot,
            uint32_t *generation)
{
	if (strlen(path) >= MAP_PATH_BYTES)
		return ENAMETOOLONG;
	int error = table_lock(map, F_WRLCK);
	if (error)
		return error;
	error = add_locked(map, path, flags, slot, generation);
	table_lock(map, F_UNLCK);
	return error;
}

/* From here until map_remove_end the file is found by nobody, and the agent calls it gone: whoever
 * opens the data file and sees the generation unchanged afterwards has the file that it meant. */
bool map_remove_begin(struct block_map *map, uint32_t slot, uint32_t generation)
{
	_Atomic uint32_t *current = &map->slots[slot].generation;
	return atomic_compare_exchange_strong(current, &generation, generation + 1);
}

static void unchain(struct block_map *map, uint32_t number)
{
	_Atomic uint32_t *link = bucket_of(map, map->slots[number].hash);
	for (uint32_t steps = 0; steps < map->header->slots_max; steps++) {
		uint32_t next = atomic_load(link);
		if (!next || next > map->header->slots_max)
			return;
		if (next == number + 1) {
			atomic_store(link, atomic_load(&map->slots[number].next));
			return;
		}
		link = &map->slots[next - 1].next;
	}
}

static void free_slot(struct block_map *map, uint32_t number)
{
	unchain(map, number);
	atomic_store(&map->slots[number].state, SLOT_FREE);
	atomic_store(&map->slots[number].next, atomic_load(&map->table->free_head));
	atomic_store(&map->table->free_head, number + 1);
}

void map_remove_end(struct block_map *map, uint32_t number, bool removed)
{
	struct map_slot *slot = &map->slots[number];
	if (!removed) {
		atomic_fetch_sub(&slot->generation, 1);
		return;
	}
	if (table_lock(map, F_WRLCK))
		return; /* the slot stays odd: lost to reuse, harmless */
	map_clear_all(map, number);
	bool never_harvested = (atomic_load(&slot->flags) & (SLOT_NEW | SLOT_REPLACES)) == SLOT_NEW;
	if ((map->header->flags & MAP_TRACKS_CHANGES) && !never_harvested)
		atomic_store(&slot->state, SLOT_REMOVED);
	else
		free_slot(map, number);
	atomic_fetch_add(&slot->generation, 1);
	COUNT(map, files_removed, 1);
	table_lock(map, F_UNLCK);
}

/* A committed harvest has told storage about the removal. The caller holds no lock. */
EXPORT void pagefault_forget_removed(struct block_map *map, uint32_t number)
{
	if (table_lock(map, F_WRLCK))
		return;
	if (atomic_load(&map->slots[number].state) == SLOT_REMOVED)
		free_slot(map, number);
	table_lock(map, F_UNLCK);
}
