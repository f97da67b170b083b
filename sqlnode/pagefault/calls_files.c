/* The interposed calls that open, close, create, remove and rename. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "real.h"

#define ALIAS(type, name, original, arguments) \
	EXPORT type name arguments __attribute__((alias(#original)))

/* Remember what a new descriptor refers to; the descriptor, or -1. */
static int follow(int fd, uint32_t slot, uint32_t generation)
{
	if ((unsigned)fd >= FAULT_FDS_MAX) {
		fault_say(fault_map.slots[slot].path, 0, "too many files; lower max_files_per_process");
		real_close(fd);
		errno = EMFILE;
		return -1;
	}
	struct fault_file *file = &fault_files[fd];
	*file = (struct fault_file){.tracked = true, .slot = slot, .generation = generation};
	fault_is_complete(file);
	return fd;
}

/* A data file that the map does not know cannot be told from one whose blocks are all MISSING. */
static int follow_known(int fd, const char *relative)
{
	uint32_t slot, generation;
	struct stat status;
	bool known = map_find(&fault_map, relative, &slot, &generation);
	int error = fstat(fd, &status) ? errno : 0;
	if (!error && S_ISDIR(status.st_mode))
		return fd;
	if (!error && (status.st_nlink == 0 || (!known && map_is_leaving(&fault_map, relative)))) {
		error = ENOENT; /* removed since we opened it: the slot is not, or soon not, this file's */
	} else if (!error && known) {
		return follow(fd, slot, generation);
	} else if (!error && status.st_size == 0) {
		error = map_add(&fault_map, relative, SLOT_NEW, &slot, &generation);
	} else if (!error) {
		fault_say(relative, 0, "not in the block map; it was put here by hand, or the map is of "
		          "another directory: rebuild the data directory");
		error = EIO;
	}
	if (!error || error == EEXIST)
		return follow(fd, slot, generation);
	real_close(fd);
	errno = error;
	return -1;
}

/* The map knows of a file before it exists, so that nobody can open it unknown. */
static int create(int at, const char *path, const char *relative, int flags, mode_t mode)
{
	uint32_t slot, generation;
	int error = map_add(&fault_map, relative, SLOT_NEW, &slot, &generation);
	bool known = error == EEXIST;
	if (error && !known) {
		fault_say(relative, 0, error == ENOSPC ? "the block map has no room for another file"
		                                       : "the block map cannot take this file");
		errno = error;
		return -1;
	}
	int fd = real_openat(at, path, flags, mode);
	if (fd >= 0 && atomic_load(&fault_map.slots[slot].generation) != generation)
		return follow_known(fd, relative); /* whoever added it took it back */
	if (fd >= 0) {
		COUNT(&fault_map, files_created, !known);
		return follow(fd, slot, generation);
	}
	error = errno;
	/* Somebody who found our slot may have made the file: then it stays. */
	if (!known && error != EEXIST && map_remove_begin(&fault_map, slot, generation))
		map_remove_end(&fault_map, slot, faccessat(at, path, F_OK, 0) != 0);
	errno = error;
	return -1;
}

static int open_tracked(int at, const char *path, const char *relative, int flags, mode_t mode)
{
	int plain = flags & ~(O_CREAT | O_EXCL | O_TRUNC);
	int kept = errno;
	int fd = real_openat(at, path, plain);
	if (fd < 0)
		return errno == ENOENT && (flags & O_CREAT) ? create(at, path, relative, flags, mode) : -1;
	if ((flags & O_CREAT) && (flags & O_EXCL)) {
		real_close(fd);
		errno = EEXIST;
		return -1;
	}
	fd = follow_known(fd, relative);
	if (fd < 0)
		return errno == ENOENT && (flags & O_CREAT) ? create(at, path, relative, flags, mode) : -1;
	if ((flags & O_TRUNC) && ftruncate(fd, 0)) {
		int error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	errno = kept;
	return fd;
}

static void forget(int fd)
{
	if ((unsigned)fd < FAULT_FDS_MAX && fault_files[fd].tracked)
		fault_files[fd].tracked = false;
}

static int open_any(int at, const char *path, int flags, mode_t mode)
{
	real_resolve();
	const char *relative =
		at == AT_FDCWD || path[0] == '/' ? fault_tracked(path) : NULL;
	if (!relative && at == AT_FDCWD && fault_is_astray(path)) {
		fault_say(path, 0, "the block map is of another directory; data directories cannot be "
		          "moved or copied, rebuild it here");
		errno = EIO;
		return -1;
	}
	if (!relative || (flags & O_PATH)) {
		int fd = real_openat(at, path, flags, mode);
		forget(fd); /* its number may be one that was closed behind our back, as fclose does */
		return fd;
	}
	if (flags & O_APPEND) {
		fault_say(relative, 0, "data files cannot be opened for appending here");
		errno = ENOTSUP;
		return -1;
	}
	return open_tracked(at, path, relative, flags, mode);
}

static mode_t mode_argument(int flags, va_list arguments)
{
	return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = mode_argument(flags, arguments);
	va_end(arguments);
	return open_any(AT_FDCWD, path, flags, mode);
}

EXPORT int openat(int at, const char *path, int flags, ...)
{
	va_list arguments;
	va_start(arguments, flags);
	mode_t mode = mode_argument(flags, arguments);
	va_end(arguments);
	return open_any(at, path, flags, mode);
}

EXPORT int creat(const char *path, mode_t mode)
{
	return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int __open_2(const char *path, int flags);
int __openat_2(int at, const char *path, int flags);

EXPORT int __open_2(const char *path, int flags)
{
	return open_any(AT_FDCWD, path, flags, 0);
}

EXPORT int __openat_2(int at, const char *path, int flags)
{
	return open_any(at, path, flags, 0);
}

ALIAS(int, open64, open, (const char *, int, ...));
ALIAS(int, openat64, openat, (int, const char *, int, ...));
ALIAS(int, creat64, creat, (const char *, mode_t));
ALIAS(int, __open64_2, __open_2, (const char *, int));
ALIAS(int, __openat64_2, __openat_2, (int, const char *, int));

EXPORT int close(int fd)
{
	real_resolve();
	forget(fd);
	return real_close(fd);
}

static void forget_range(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last && fd < FAULT_FDS_MAX; fd++)
		forget((int)fd);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	real_resolve();
	if (!real_close_range) {
		errno = ENOSYS;
		return -1;
	}
	int result = real_close_range(first, last, flags);
	if (!result && !(flags & CLOSE_RANGE_CLOEXEC))
		forget_range(first, last);
	return result;
}

EXPORT void closefrom(int first)
{
	real_resolve();
	forget_range(first < 0 ? 0 : (unsigned)first, FAULT_FDS_MAX - 1);
	if (real_closefrom)
		real_closefrom(first);
}

/* Never seen on data files; a copy of the descriptor refers to the same file. */
static int follow_copy(int from, int to)
{
	struct fault_file *file = fault_file_of(from);
	if (to >= 0)
		forget(to);
	if (to < 0 || !file)
		return to;
	COUNT(&fault_map, unexpected_dup, 1);
	return follow(to, file->slot, file->generation);
}

EXPORT int dup(int fd)
{
	real_resolve();
	return follow_copy(fd, real_dup(fd));
}

EXPORT int dup2(int fd, int target)
{
	real_resolve();
	int result = real_dup2(fd, target);
	return fd == target ? result : follow_copy(fd, result);
}

/* Remove a data file by whichever call: for everybody it is gone before it is. */
static int remove_tracked(const char *relative, int (*call)(const char *), const char *path)
{
	uint32_t slot, generation;
	bool known = map_find(&fault_map, relative, &slot, &generation) &&
	             map_remove_begin(&fault_map, slot, generation);
	int result = call(path);
	int kept = errno;
	if (known)
		map_remove_end(&fault_map, slot, result == 0 || kept == ENOENT);
	errno = kept;
	return result;
}

EXPORT int unlink(const char *path)
{
	real_resolve();
	const char *relative = fault_tracked(path);
	return relative ? remove_tracked(relative, real_unlink, path) : real_unlink(path);
}

EXPORT int remove(const char *path)
{
	real_resolve();
	const char *relative = fault_tracked(path);
	return relative ? remove_tracked(relative, real_remove, path) : real_remove(path);
}

EXPORT int unlinkat(int at, const char *path, int flags)
{
	real_resolve();
	const char *relative =
		!flags && (at == AT_FDCWD || path[0] == '/') ? fault_tracked(path) : NULL;
	return relative ? remove_tracked(relative, real_unlink, path) : real_unlinkat(at, path, flags);
}

/* The map goes by name and storage by file, so neither could follow: refused, and counted. */
EXPORT int rename(const char *from, const char *to)
{
	real_resolve();
	if (!fault_tracked(from) && !fault_tracked(to))
		return real_rename(from, to);
	COUNT(&fault_map, unexpected_rename, 1);
	fault_say(from, 0, "data files cannot be renamed here");
	errno = EPERM;
	return -1;
}

EXPORT int link(const char *from, const char *to)
{
	real_resolve();
	if (!fault_tracked(from) && !fault_tracked(to))
		return real_link(from, to);
	COUNT(&fault_map, unexpected_link, 1);
	fault_say(from, 0, "data files cannot be linked here");
	errno = EPERM;
	return -1;
}

/* CREATE TABLESPACE with a directory: a compute has none that would outlive it. */
EXPORT int symlink(const char *target, const char *path)
{
	real_resolve();
	if (!fault_active || strncmp(path, "pg_tblspc/", 10) != 0)
		return real_symlink(target, path);
	COUNT(&fault_map, refused_tablespaces, 1);
	fault_say(path, 0, "a compute has no directory of its own for a tablespace; use SET "
	          "allow_in_place_tablespaces = on and LOCATION ''");
	errno = EPERM;
	return -1;
}

/* Reading through stdio happens behind our back, so all of the file has to be here. */
EXPORT FILE *fopen(const char *path, const char *mode)
{
	real_resolve();
	if (!fault_tracked(path))
		return real_fopen(path, mode);
	COUNT(&fault_map, unexpected_fopen, 1);
	if (mode[0] != 'r' || strchr(mode, '+')) {
		errno = ENOTSUP;
		return NULL;
	}
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	struct fault_file *file = fault_file_of(fd);
	if (file)
		fault_keep(file);
	bool here = !file || (!fstat(fd, &status) && fault_in(file, 0, (size_t)status.st_size));
	int kept = errno;
	close(fd);
	errno = kept;
	return here ? real_fopen(path, mode) : NULL;
}

ALIAS(FILE *, fopen64, fopen, (const char *, const char *));
