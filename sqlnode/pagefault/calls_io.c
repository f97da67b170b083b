/* The interposed calls that read, write and resize: fault or mark, then call the real one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "real.h"

/* The last is the name that a program gets which was built with 64-bit offsets asked for. */
#define ALIAS(type, name, original, arguments) \
	EXPORT type name arguments __attribute__((alias(#original)))

static off_t position(int fd)
{
	return lseek(fd, 0, SEEK_CUR);
}

static size_t total(const struct iovec *vectors, int count)
{
	size_t bytes = 0;
	for (int i = 0; i < count; i++)
		bytes += vectors[i].iov_len;
	return bytes;
}

static inline bool may_read(struct fault_file *file, off_t offset, size_t bytes)
{
	return bytes == 0 || fault_is_complete(file) || fault_in(file, offset, bytes);
}

/* `again` undoes what a call has done besides reading; drop.c says why it is repeated. */
#define READ(file, offset, bytes, call, again) \
	for (;;) { \
		uint32_t drops = fault_drops(file); \
		if (!may_read(file, offset, bytes)) \
			return -1; \
		ssize_t got = call; \
		if (got <= 0 || !fault_dropped_since(file, drops)) \
			return got; \
		again; \
	}

#define HERE (void)0
#define BACK lseek(fd, offset, SEEK_SET)
#define BACK_IF_MOVED offset == -1 ? lseek(fd, from, SEEK_SET) : 0

EXPORT ssize_t read(int fd, void *buffer, size_t bytes)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_read(fd, buffer, bytes);
	off_t offset = position(fd);
	READ(file, offset, bytes, real_read(fd, buffer, bytes), BACK);
}

EXPORT ssize_t readv(int fd, const struct iovec *vectors, int count)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_readv(fd, vectors, count);
	off_t offset = position(fd);
	READ(file, offset, total(vectors, count), real_readv(fd, vectors, count), BACK);
}

EXPORT ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_pread(fd, buffer, bytes, offset);
	READ(file, offset, bytes, real_pread(fd, buffer, bytes, offset), HERE);
}

EXPORT ssize_t preadv(int fd, const struct iovec *vectors, int count, off_t offset)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_preadv(fd, vectors, count, offset);
	READ(file, offset, total(vectors, count), real_preadv(fd, vectors, count, offset), HERE);
}

ALIAS(ssize_t, pread64, pread, (int, void *, size_t, off_t));
ALIAS(ssize_t, preadv64, preadv, (int, const struct iovec *, int, off_t));

/* What a program that was built with _FORTIFY_SOURCE calls where it knows the buffer's size. */
ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t buffer_bytes);
ssize_t __pread_chk(int fd, void *buffer, size_t bytes, off_t offset, size_t buffer_bytes);

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t buffer_bytes)
{
	if (bytes > buffer_bytes)
		abort();
	return read(fd, buffer, bytes);
}

EXPORT ssize_t __pread_chk(int fd, void *buffer, size_t bytes, off_t offset, size_t buffer_bytes)
{
	if (bytes > buffer_bytes)
		abort();
	return pread(fd, buffer, bytes, offset);
}

ALIAS(ssize_t, __pread64_chk, __pread_chk, (int, void *, size_t, off_t, size_t));

#define WRITE(file, offset, bytes, call, again) \
	for (;;) { \
		uint32_t drops = fault_drops(file); \
		if (!fault_before_write(file, offset, bytes)) \
			return -1; \
		ssize_t written = call; \
		fault_after_write(file, offset, written); \
		if (written <= 0 || !fault_dropped_since(file, drops)) \
			return written; \
		again; \
	}

EXPORT ssize_t write(int fd, const void *buffer, size_t bytes)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_write(fd, buffer, bytes);
	off_t offset = position(fd);
	WRITE(file, offset, bytes, real_write(fd, buffer, bytes), BACK);
}

EXPORT ssize_t writev(int fd, const struct iovec *vectors, int count)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_writev(fd, vectors, count);
	off_t offset = position(fd);
	WRITE(file, offset, total(vectors, count), real_writev(fd, vectors, count), BACK);
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_pwrite(fd, buffer, bytes, offset);
	WRITE(file, offset, bytes, real_pwrite(fd, buffer, bytes, offset), HERE);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *vectors, int count, off_t offset)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_pwritev(fd, vectors, count, offset);
	WRITE(file, offset, total(vectors, count), real_pwritev(fd, vectors, count, offset), HERE);
}

/* An offset of -1 means the file's own position. */
EXPORT ssize_t preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_preadv2(fd, vectors, count, offset, flags);
	off_t from = offset == -1 ? position(fd) : offset;
	READ(file, from, total(vectors, count), real_preadv2(fd, vectors, count, offset, flags),
	     BACK_IF_MOVED);
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *vectors, int count, off_t offset, int flags)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_pwritev2(fd, vectors, count, offset, flags);
	off_t from = offset == -1 ? position(fd) : offset;
	WRITE(file, from, total(vectors, count), real_pwritev2(fd, vectors, count, offset, flags),
	      BACK_IF_MOVED);
}

ALIAS(ssize_t, preadv64v2, preadv2, (int, const struct iovec *, int, off_t, int));
ALIAS(ssize_t, pwritev64v2, pwritev2, (int, const struct iovec *, int, off_t, int));
ALIAS(ssize_t, pwrite64, pwrite, (int, const void *, size_t, off_t));
ALIAS(ssize_t, pwritev64, pwritev, (int, const struct iovec *, int, off_t));

/* How much of the source is really there to be copied; -1 with errno when it cannot be had. */
static ssize_t copyable(int fd, const off_t *offset, size_t bytes)
{
	struct stat status;
	struct fault_file *file = fault_file_of(fd);
	off_t from = offset ? *offset : position(fd);
	if (fstat(fd, &status) || from < 0)
		return -1;
	if (from >= status.st_size)
		return 0;
	if ((off_t)bytes > status.st_size - from)
		bytes = (size_t)(status.st_size - from);
	return !file || may_read(file, from, bytes) ? (ssize_t)bytes : -1;
}

EXPORT ssize_t copy_file_range(int in, off_t *in_offset, int out, off_t *out_offset, size_t bytes,
                               unsigned flags)
{
	real_resolve();
	struct fault_file *source = fault_file_of(in), *target = fault_file_of(out);
	if (!source && !target)
		return real_copy_file_range(in, in_offset, out, out_offset, bytes, flags);
	if (source)
		fault_keep(source); /* rather than repeat a call that moves up to four positions */
	if (target)
		fault_keep(target);
	ssize_t there = copyable(in, in_offset, bytes);
	if (there < 0)
		return -1;
	bytes = (size_t)there; /* 0 is for the real call to judge: the target may be no file to write */
	if (!target)
		return real_copy_file_range(in, in_offset, out, out_offset, bytes, flags);
	off_t offset = out_offset ? *out_offset : position(out);
	if (!fault_before_write(target, offset, bytes))
		return -1;
	ssize_t written = real_copy_file_range(in, in_offset, out, out_offset, bytes, flags);
	fault_after_write(target, offset, written);
	return written;
}

EXPORT int ftruncate(int fd, off_t length)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (!file)
		return real_ftruncate(fd, length);
	if (!fault_before_truncate(file, length))
		return -1;
	int result = real_ftruncate(fd, length);
	fault_after_truncate(file, length, result == 0);
	return result;
}

/* By name, it is an open, an ftruncate and a close. */
EXPORT int truncate(const char *path, off_t length)
{
	real_resolve();
	if (!fault_tracked(path))
		return real_truncate(path, length);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int result = ftruncate(fd, length);
	int kept = errno;
	close(fd);
	errno = kept;
	return result;
}

ALIAS(int, ftruncate64, ftruncate, (int, off_t));
ALIAS(int, truncate64, truncate, (const char *, off_t));

/* Blocks added at the end are zeros, which a harvest tells by the file's new length. */
EXPORT int posix_fallocate(int fd, off_t offset, off_t bytes)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (file)
		atomic_fetch_or(&fault_map.slots[file->slot].flags, SLOT_RESIZED);
	return real_posix_fallocate(fd, offset, bytes);
}

/* Punching, collapsing and the like have never been seen and would go unnoticed: refused. */
EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (file && (mode & ~FALLOC_FL_KEEP_SIZE)) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (file)
		atomic_fetch_or(&fault_map.slots[file->slot].flags, SLOT_RESIZED);
	return real_fallocate(fd, mode, offset, bytes);
}

EXPORT int posix_fadvise(int fd, off_t offset, off_t bytes, int advice)
{
	real_resolve();
	struct fault_file *file = fault_file_of(fd);
	if (file && advice == POSIX_FADV_WILLNEED && !fault_is_complete(file)) {
		int kept = errno;
		fault_prefetch(file, offset, bytes);
		errno = kept;
		return 0; /* the kernel would read the hole into its cache, only to be overwritten */
	}
	return real_posix_fadvise(fd, offset, bytes, advice);
}

/* Never seen; a private or read-only view is right once everything below it is here. */
EXPORT void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	real_resolve();
	struct fault_file *file = fd >= 0 ? fault_file_of(fd) : NULL;
	if (!file)
		return real_mmap(address, bytes, protection, flags, fd, offset);
	COUNT(&fault_map, unexpected_mmap, 1);
	if ((flags & MAP_SHARED) && (protection & PROT_WRITE)) {
		errno = ENOTSUP;
		return MAP_FAILED;
	}
	fault_keep(file);
	if (!may_read(file, offset, bytes))
		return MAP_FAILED;
	return real_mmap(address, bytes, protection, flags, fd, offset);
}

ALIAS(int, posix_fallocate64, posix_fallocate, (int, off_t, off_t));
ALIAS(int, fallocate64, fallocate, (int, int, off_t, off_t));
ALIAS(int, posix_fadvise64, posix_fadvise, (int, off_t, off_t, int));
ALIAS(void *, mmap64, mmap, (void *, size_t, int, int, int, off_t));
