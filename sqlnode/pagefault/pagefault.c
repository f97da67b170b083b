/* libpagefault: preloaded into an unmodified postgres, it makes the blocks of data files fault in.
 *
 * A read of a block that is MISSING asks the agent first; a write marks its blocks DIRTY; a file
 * that is created, truncated or removed is noted in the block map. Everything else passes through.
 * The state lives in the block map (block_map.h), the questions go through agent_link.h.
 *
 * Nothing here allocates, and nothing blocks but a fault. After a failure errno says what postgres
 * shall report, and one sentence on stderr (its log) says why. */
#define _GNU_SOURCE
#include "fault.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent_link.h"
#include "data_path.h"
#include "real.h"

enum {
	WINDOW_BLOCKS_MAX = 128, /* 1 MiB: where a sequential scan is bound by copying, not by asking */
	ROUNDS_MAX = 1000, /* more than backends that may fail on one block, one after the other */
};

struct block_map fault_map;
bool fault_active;
struct fault_file fault_files[FAULT_FDS_MAX];
static size_t data_dir_bytes;
static bool inside_data_dir;

void fault_say(const char *path, uint32_t block, const char *why)
{
	static uint64_t last_us;
	char line[512];
	int kept = errno;
	uint64_t now = monotonic_us();
	if (now - last_us < 100000 && last_us) { /* a broken disk must not fill another with messages */
		errno = kept;
		return;
	}
	last_us = now;
	snprintf(line, sizeof line, "seawall: %s block %u: %s\n", path, block, why);
	if (real_write(STDERR_FILENO, line, strlen(line))) {
		/* if the log cannot be written, errno still tells postgres */
	}
	errno = kept;
}

/* The program that the map is for is started clean, and so is all that it starts in turn: COPY
 * PROGRAM, archive commands. Only postgres itself takes the entry away, so that a shell in between
 * passes it on. */
static void leave_no_trace(void)
{
	if (strcmp(program_invocation_short_name, "postgres") != 0)
		return;
	char *preload = getenv("LD_PRELOAD");
	char *ours = preload ? strstr(preload, "libpagefault") : NULL;
	unsetenv("SEAWALL_BLOCK_MAP");
	unsetenv("SEAWALL_PARENT_PID");
	if (!ours)
		return;
	char *from = ours, *to = ours + strcspn(ours, ": ");
	while (from > preload && from[-1] != ':' && from[-1] != ' ')
		from--;
	memmove(from, *to ? to + 1 : to, strlen(*to ? to + 1 : to) + 1);
	if (!*preload)
		unsetenv("LD_PRELOAD");
}

/* A postmaster whose agent is gone answers nobody's faults, and serves for longer than its lease.
 * It alone is named: its backends are forked, and a program that it starts has another parent. */
static void end_with_parent(void)
{
	const char *named = getenv("SEAWALL_PARENT_PID");
	pid_t parent = named ? (pid_t)strtol(named, NULL, 10) : 0;
	if (parent <= 1 || getppid() != parent)
		return;
	if (prctl(PR_SET_PDEATHSIG, SIGQUIT) || getppid() != parent) {
		fprintf(stderr, "seawall: the agent (process %d) has ended\n", (int)parent);
		_exit(1);
	}
}

__attribute__((constructor)) static void start(void)
{
	char error[1200];
	real_resolve();
	const char *path = getenv("SEAWALL_BLOCK_MAP"); /* postgres overwrites its environment later */
	if (!path || fault_active)
		return;
	if (!map_attach(&fault_map, path, error, sizeof error)) {
		fprintf(stderr, "seawall: %s\n", error);
		_exit(1); /* without its map this directory reads as zeros */
	}
	data_dir_bytes = strlen(fault_map.header->data_dir);
	pthread_atfork(NULL, NULL, link_forget);
	COUNT(&fault_map, attached, 1);
	fault_active = true;
	end_with_parent();
	leave_no_trace();
}

static bool in_data_dir(void)
{
	struct stat here, there;
	if (!inside_data_dir) /* postgres goes there once, early, and stays */
		inside_data_dir = !stat(".", &here) && !stat(fault_map.header->data_dir, &there) &&
		                  here.st_dev == there.st_dev && here.st_ino == there.st_ino;
	return inside_data_dir;
}

const char *fault_tracked(const char *path)
{
	if (!fault_active)
		return NULL;
	if (path[0] == '/') {
		if (strncmp(path, fault_map.header->data_dir, data_dir_bytes) ||
		    path[data_dir_bytes] != '/')
			return NULL;
		path += data_dir_bytes;
		while (*path == '/')
			path++;
		return data_path_is_tracked(path, fault_map.header->slru_dirs) ? path : NULL;
	}
	while (path[0] == '.' && path[1] == '/')
		path += 2;
	if (!data_path_is_tracked(path, fault_map.header->slru_dirs) || !in_data_dir())
		return NULL;
	return path;
}

/* Whether a path names a data file of the directory that we are in, and the map is of another one:
 * a data directory that was copied or moved has holes where pages should be. */
bool fault_is_astray(const char *path)
{
	if (!fault_active || path[0] == '/')
		return false;
	while (path[0] == '.' && path[1] == '/')
		path += 2;
	return data_path_is_tracked(path, fault_map.header->slru_dirs) && !in_data_dir();
}

static struct map_slot *slot_of(const struct fault_file *file)
{
	return &fault_map.slots[file->slot];
}

/* Removed since it was opened; perhaps another file has its slot. */
static bool is_gone(const struct fault_file *file)
{
	return atomic_load(&slot_of(file)->generation) != file->generation;
}

static int failed(const struct fault_file *file, uint32_t block, int error, const char *why)
{
	COUNT(&fault_map, failed, 1);
	fault_say(slot_of(file)->path, block, why);
	return error;
}

static int ask(const struct fault_file *file, uint32_t kind, uint32_t block, uint32_t count)
{
	const char *why = "";
	uint64_t from = monotonic_us();
	int answer = link_fault(&fault_map, kind, file->slot, file->generation, block, count, &why);
	COUNT(&fault_map, faults, 1);
	COUNT(&fault_map, fault_us, monotonic_us() - from);
	switch (answer) {
	case LINK_OK:
		return 0;
	case LINK_GONE:
		COUNT(&fault_map, gone, 1);
		return 0; /* the caller looks again and finds another generation */
	case LINK_DAMAGED:
		return failed(file, block, EIO, "storage gave a wrong checksum; check its disks");
	case LINK_FULL:
		return failed(file, block, ENOSPC, "no space for a fetched page; free some on this disk");
	case LINK_FAILED:
		return failed(file, block, EIO, "storage could not give the page; see the agent's log");
	case LINK_REFUSED:
		return failed(file, block, EIO, "the agent is of another version; start it again");
	default:
		return failed(file, block, EIO, why);
	}
}

/* Somebody else claimed it. If that takes too long, ask the agent, which knows whether it is at
 * work: the claimer may have died before it asked. */
static int wait_for_claimer(const struct fault_file *file, uint32_t block)
{
	uint32_t patience_ms = fault_map.header->busy_wait_ms;
	uint64_t deadline = monotonic_us() + (uint64_t)patience_ms * 1000;
	COUNT(&fault_map, waits, 1);
	while (map_state(&fault_map, file->slot, block) & BLOCK_BUSY) {
		uint64_t now = monotonic_us();
		if (now >= deadline) {
			COUNT(&fault_map, wait_timeouts, 1);
			return ask(file, LINK_AGAIN, block, 1);
		}
		map_wait(&fault_map, file->slot, block, (uint32_t)((deadline - now) / 1000 + 1));
	}
	return 0;
}

/* How far to read beyond what is wanted: twice the run of blocks just before that are here or on
 * their way. Kept nowhere, so that it holds across processes (the I/O workers of PostgreSQL 18). */
static uint32_t window(const struct fault_file *file, uint32_t block, uint32_t wanted)
{
	uint32_t run = 0;
	while (run < WINDOW_BLOCKS_MAX && run < block &&
	       !map_is_unclaimed(&fault_map, file->slot, block - run - 1))
		run++;
	uint32_t wide = 2 * run < WINDOW_BLOCKS_MAX ? 2 * run : WINDOW_BLOCKS_MAX;
	return wanted > wide ? wanted : wide;
}

static void prefetch(const struct fault_file *file, uint32_t first, uint32_t count)
{
	uint32_t claimed = map_claim(&fault_map, file->slot, first, count);
	if (!claimed)
		return;
	if (link_prefetch(&fault_map, file->slot, file->generation, first, claimed)) {
		COUNT(&fault_map, prefetches, 1);
		COUNT(&fault_map, prefetch_blocks, claimed);
		return;
	}
	/* Nothing was sent, so the claims are still ours alone. */
	map_finish(&fault_map, file->slot, first, claimed, BLOCK_BUSY | BLOCK_WAITED);
	COUNT(&fault_map, prefetches_dropped, 1);
}

/* In a scan, entering one window sends for the next, so that fetching and scanning overlap. */
static void read_ahead(const struct fault_file *file, uint32_t block)
{
	uint32_t next = block + WINDOW_BLOCKS_MAX;
	if (block < WINDOW_BLOCKS_MAX || next >= FILE_BLOCKS_MAX)
		return;
	if (map_is_unclaimed(&fault_map, file->slot, next) &&
	    window(file, block, 0) == WINDOW_BLOCKS_MAX)
		prefetch(file, next, WINDOW_BLOCKS_MAX);
}

int fault_block(const struct fault_file *file, uint32_t block, uint32_t wanted)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		uint8_t state = map_state(&fault_map, file->slot, block);
		int error = 0;
		if (is_gone(file))
			return ENOENT;
		if (state & ~BLOCK_BITS)
			return failed(file, block, EIO, "the block map is damaged; rebuild the data directory");
		if (!(state & BLOCK_MISSING))
			return 0;
		if (state & BLOCK_BUSY) {
			error = wait_for_claimer(file, block);
		} else {
			uint32_t wide = window(file, block, wanted);
			uint32_t claimed = map_claim(&fault_map, file->slot, block, wide);
			if (!claimed)
				continue;
			COUNT(&fault_map, fault_blocks, claimed);
			if (wide == WINDOW_BLOCKS_MAX && claimed == wide)
				prefetch(file, block + wide, WINDOW_BLOCKS_MAX);
			error = ask(file, LINK_FAULT, block, claimed);
		}
		if (error)
			return error;
	}
	return failed(file, block, EIO, "the agent's answers have no effect; start it again");
}

/* Whether blocks of the file were dropped below a call that has just been made: repeat it then. */
bool fault_dropped_since(const struct fault_file *file, uint32_t drops)
{
	if (fault_drops(file) == drops)
		return false;
	COUNT(&fault_map, repeats, 1);
	return true;
}

/* From now on none of its blocks is dropped: somebody reads the file without us. */
void fault_keep(const struct fault_file *file)
{
	if (map_may_drop(&fault_map))
		atomic_fetch_or(&slot_of(file)->flags, SLOT_KEPT);
}

/* Every block of the range is here, or errno says why not. */
bool fault_in(struct fault_file *file, off_t offset, size_t bytes)
{
	if (is_gone(file)) {
		if (file->complete && file->complete_drops == fault_drops(file))
			return true; /* unlinked, but it was all here: as with any open unlinked file */
		errno = ENOENT;
		return false;
	}
	if (offset < 0)
		return true; /* the call itself will fail */
	uint32_t first = (uint32_t)(offset / BLOCK_BYTES);
	uint64_t end = ((uint64_t)offset + bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
	bool notes_use = map_may_drop(&fault_map);
	for (uint64_t block = first; block < end && block < FILE_BLOCKS_MAX; block++) {
		if (block % WINDOW_BLOCKS_MAX == 0)
			read_ahead(file, (uint32_t)block);
		uint8_t state = map_state(&fault_map, file->slot, (uint32_t)block);
		int error = state & BLOCK_MISSING
			? fault_block(file, (uint32_t)block, (uint32_t)(end - block)) : 0;
		if (error) {
			errno = error;
			return false;
		}
		if (notes_use && !(state & BLOCK_USED))
			map_mark_used(&fault_map, file->slot, (uint32_t)block);
	}
	return true;
}

/* Before a write: nothing MISSING below it, everything under it DIRTY. A whole block could do
 * without its old content, but then a claim would be held by a process that may die. */
bool fault_before_write(struct fault_file *file, off_t offset, size_t bytes)
{
	if (!fault_is_complete(file) && !fault_in(file, offset, bytes))
		return false;
	uint64_t end = ((uint64_t)offset + bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
	if (offset < 0 || !bytes || is_gone(file))
		return true;
	if (end > FILE_BLOCKS_MAX) {
		errno = EFBIG; /* not a PostgreSQL with segments of 1 GiB */
		return false;
	}
	for (uint64_t block = (uint64_t)offset / BLOCK_BYTES; block < end; block++) {
		int error = map_mark_dirty(&fault_map, file->slot, (uint32_t)block);
		if (error) {
			errno = failed(file, (uint32_t)block, error, "the block map cannot grow");
			return false;
		}
	}
	return true;
}

/* After it: a harvest that ran in between took the mark without the bytes. */
void fault_after_write(struct fault_file *file, off_t offset, ssize_t written)
{
	int kept = errno;
	if (written <= 0 || offset < 0 || is_gone(file))
		return;
	uint64_t end = ((uint64_t)offset + (uint64_t)written + BLOCK_BYTES - 1) / BLOCK_BYTES;
	for (uint64_t block = (uint64_t)offset / BLOCK_BYTES; block < end; block++)
		map_mark_dirty(&fault_map, file->slot, (uint32_t)block); /* reserved before the write */
	errno = kept;
}

void fault_prefetch(struct fault_file *file, off_t offset, off_t bytes)
{
	if (offset < 0 || bytes <= 0 || fault_is_complete(file) || is_gone(file))
		return;
	uint64_t block = (uint64_t)offset / BLOCK_BYTES;
	uint64_t end = ((uint64_t)offset + (uint64_t)bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
	while (block < end && block < FILE_BLOCKS_MAX) {
		uint64_t run = end - block < WINDOW_BLOCKS_MAX ? end - block : WINDOW_BLOCKS_MAX;
		prefetch(file, (uint32_t)block, (uint32_t)run);
		block += run;
	}
}

/* BUSY alone is no claim, and no agent would take it back. */
static bool is_on_its_way(const struct fault_file *file, uint32_t block)
{
	uint8_t state = map_state(&fault_map, file->slot, block);
	return (state & BLOCK_MISSING) && (state & BLOCK_BUSY);
}

static uint32_t ready_blocks(struct fault_file *file)
{
	return map_ready(&fault_map, file->slot);
}

/* No page that is on its way may land behind the new end afterwards: it would grow the file again,
 * with rows that are gone. Nobody asks for these blocks any more (postgres holds its lock). */
bool fault_before_truncate(struct fault_file *file, off_t length)
{
	if (length < 0 || is_gone(file))
		return true;
	uint32_t blocks = (uint32_t)(((uint64_t)length + BLOCK_BYTES - 1) / BLOCK_BYTES);
	if (length % BLOCK_BYTES) {
		fault_keep(file); /* the last block would be half a page, and cannot come again */
		if (!fault_in(file, length, 1))
			return false;
	}
	atomic_store(&slot_of(file)->cut_at, blocks + 1);
	if (!atomic_load(&slot_of(file)->missing))
		return true; /* and whoever drops a block raises it before it looks at cut_at */
	for (uint32_t block = blocks; block < ready_blocks(file); block++)
		while (is_on_its_way(file, block)) {
			int error = wait_for_claimer(file, block);
			if (error) {
				atomic_store(&slot_of(file)->cut_at, 0);
				errno = error;
				return false;
			}
		}
	return true;
}

/* Whether it happened or not, claims are allowed again. */
static void end_truncation(struct fault_file *file, off_t length, bool truncated)
{
	uint32_t blocks = (uint32_t)(((uint64_t)length + BLOCK_BYTES - 1) / BLOCK_BYTES);
	if (truncated && blocks < FILE_BLOCKS_MAX)
		map_finish(&fault_map, file->slot, blocks, FILE_BLOCKS_MAX - blocks, BLOCK_BITS);
	atomic_store(&slot_of(file)->cut_at, 0);
}

void fault_after_truncate(struct fault_file *file, off_t length, bool truncated)
{
	int kept = errno;
	if (length < 0 || is_gone(file))
		return;
	end_truncation(file, length, truncated);
	errno = kept;
	if (!truncated)
		return;
	uint32_t blocks = (uint32_t)(((uint64_t)length + BLOCK_BYTES - 1) / BLOCK_BYTES);
	map_lower(&fault_map, file->slot, blocks);
	if (length % BLOCK_BYTES)
		map_mark_dirty(&fault_map, file->slot, blocks - 1);
	atomic_fetch_or(&slot_of(file)->flags, SLOT_RESIZED);
	COUNT(&fault_map, truncations, 1);
	errno = kept;
}
