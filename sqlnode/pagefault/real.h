/* The C library's own functions, looked up behind ours. Everything in this library calls these. */
#ifndef SEAWALL_REAL_H
#define SEAWALL_REAL_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>
#include <sys/uio.h>

#define REAL_FUNCTIONS(X) \
	X(int, open, (const char *, int, ...)) \
	X(int, openat, (int, const char *, int, ...)) \
	X(int, close, (int)) \
	X(int, close_range, (unsigned, unsigned, int)) \
	X(void, closefrom, (int)) \
	X(ssize_t, read, (int, void *, size_t)) \
	X(ssize_t, readv, (int, const struct iovec *, int)) \
	X(ssize_t, pread, (int, void *, size_t, off_t)) \
	X(ssize_t, preadv, (int, const struct iovec *, int, off_t)) \
	X(ssize_t, write, (int, const void *, size_t)) \
	X(ssize_t, writev, (int, const struct iovec *, int)) \
	X(ssize_t, pwrite, (int, const void *, size_t, off_t)) \
	X(ssize_t, pwritev, (int, const struct iovec *, int, off_t)) \
	X(ssize_t, preadv2, (int, const struct iovec *, int, off_t, int)) \
	X(ssize_t, pwritev2, (int, const struct iovec *, int, off_t, int)) \
	X(ssize_t, copy_file_range, (int, off_t *, int, off_t *, size_t, unsigned)) \
	X(int, ftruncate, (int, off_t)) \
	X(int, truncate, (const char *, off_t)) \
	X(int, posix_fallocate, (int, off_t, off_t)) \
	X(int, fallocate, (int, int, off_t, off_t)) \
	X(int, posix_fadvise, (int, off_t, off_t, int)) \
	X(int, unlink, (const char *)) \
	X(int, unlinkat, (int, const char *, int)) \
	X(int, remove, (const char *)) \
	X(int, rename, (const char *, const char *)) \
	X(int, link, (const char *, const char *)) \
	X(int, symlink, (const char *, const char *)) \
	X(int, dup, (int)) \
	X(int, dup2, (int, int)) \
	X(FILE *, fopen, (const char *, const char *)) \
	X(void *, mmap, (void *, size_t, int, int, int, off_t))

#define X(type, name, arguments) extern type(*real_##name) arguments;
REAL_FUNCTIONS(X)
#undef X

extern bool real_resolved;
void real_resolve_now(void);

/* Functions are called before constructors run, by one thread; and later on every call's way. */
static inline void real_resolve(void)
{
	if (__builtin_expect(!real_resolved, 0))
		real_resolve_now();
}

#endif
