/* What the interposed calls (calls_*.c) need of the faulting logic (pagefault.c). */
#ifndef SEAWALL_FAULT_H
#define SEAWALL_FAULT_H

#include "block_map.h"

enum { FAULT_FDS_MAX = 65536 }; /* postgres opens max_files_per_process, 1000 by default */

/* What a file descriptor of a tracked file refers to. */
struct fault_file {
	bool tracked;
	bool complete; /* nothing was MISSING when last looked at; of use only after the file is gone */
	uint32_t slot, generation;
	uint32_t complete_drops; /* the file's `drops` then */
};

extern struct block_map fault_map;
extern bool fault_active;
extern struct fault_file fault_files[FAULT_FDS_MAX];

const char *fault_tracked(const char *path);
bool fault_is_astray(const char *path);
void fault_say(const char *path, uint32_t block, const char *why);
int fault_block(const struct fault_file *file, uint32_t block, uint32_t wanted);
bool fault_dropped_since(const struct fault_file *file, uint32_t drops);
void fault_keep(const struct fault_file *file);
bool fault_in(struct fault_file *file, off_t offset, size_t bytes);
bool fault_before_write(struct fault_file *file, off_t offset, size_t bytes);
void fault_after_write(struct fault_file *file, off_t offset, ssize_t written);
void fault_prefetch(struct fault_file *file, off_t offset, off_t bytes);
bool fault_before_truncate(struct fault_file *file, off_t length);
void fault_after_truncate(struct fault_file *file, off_t length, bool truncated);

static inline struct fault_file *fault_file_of(int fd)
{
	return (unsigned)fd < FAULT_FDS_MAX && fault_files[fd].tracked ? &fault_files[fd] : NULL;
}

/* See drop.c: before a call looks at what is MISSING, and after it. */
static inline uint32_t fault_drops(const struct fault_file *file)
{
	return atomic_load(&fault_map.slots[file->slot].drops);
}

/* The fast path: one cache line of shared memory, shared by all and written by nobody. */
static inline bool fault_is_complete(struct fault_file *file)
{
	struct map_slot *slot = &fault_map.slots[file->slot];
	uint32_t drops = fault_drops(file);
	if (atomic_load_explicit(&slot->missing, memory_order_acquire) ||
	    atomic_load_explicit(&slot->generation, memory_order_relaxed) != file->generation)
		return false;
	file->complete = true;
	file->complete_drops = drops;
	return true;
}

#endif
