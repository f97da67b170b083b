/* Carries out file calls, one line of standard input each, and prints one line for each:
 *
 *   RESULT ERRNO DATA      "8192 - 5d3a11c0", "-1 EIO -"
 *
 * Run plain, preloaded with libpagefault, or linked with its sources under the sanitisers, it must
 * print the same. Files have names of one word; bytes that are written follow from a seed, bytes
 * that are read are printed as their CRC. `fork` and `many` prefix another command. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HANDLES_MAX = 64, WORDS_MAX = 24, LINE_BYTES = 1024 };

static struct {
	char name[16];
	int fd;
} handles[HANDLES_MAX];
static char *words[WORDS_MAX];

static void answer(long long result, const char *data)
{
	char line[LINE_BYTES];
	const char *error = result < 0 ? strerrorname_np(errno) : "-";
	int n = snprintf(line, sizeof line, "%lld %s %s\n", result, error ? error : "?", data);
	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		_exit(3);
}

static void usage(const char *what)
{
	fprintf(stderr, "driver: %s\n", what);
	_exit(2);
}

static char *word(int i)
{
	if (!words[i])
		usage("a word is missing");
	return words[i];
}

static long long number(int i)
{
	return strtoll(word(i), NULL, 0);
}

/* -1 is a legal descriptor here: calls on a name that is not open get EBADF. */
static int *handle(int i)
{
	for (int at = 0; at < HANDLES_MAX; at++) {
		if (!handles[at].name[0]) {
			snprintf(handles[at].name, sizeof handles[at].name, "%s", word(i));
			handles[at].fd = -1;
		}
		if (strcmp(handles[at].name, word(i)) == 0)
			return &handles[at].fd;
	}
	usage("too many handles");
	return NULL;
}

static int open_flags(const char *text)
{
	static const struct {
		const char *name;
		int flag;
	} known[] = {
		{"ro", O_RDONLY}, {"wo", O_WRONLY}, {"rw", O_RDWR}, {"creat", O_CREAT}, {"excl", O_EXCL},
		{"trunc", O_TRUNC}, {"append", O_APPEND}, {"cloexec", O_CLOEXEC}, {"path", O_PATH},
		{"directory", O_DIRECTORY},
	};
	int flags = 0;
	char copy[128];
	snprintf(copy, sizeof copy, "%s", text);
	for (char *rest = copy, *name; (name = strsep(&rest, ","));)
		for (size_t i = 0; i < sizeof known / sizeof *known; i++)
			if (strcmp(known[i].name, name) == 0)
				flags |= known[i].flag;
	return flags;
}

static const char *checksum(const void *bytes, long long count)
{
	static char text[16];
	const uint8_t *at = bytes;
	uint32_t crc = ~0u;
	if (count <= 0)
		return "-";
	for (long long i = 0; i < count; i++) {
		crc ^= at[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
	}
	snprintf(text, sizeof text, "%08x", ~crc);
	return text;
}

/* The same as native.harness.pattern. Never a zero, so that a hole is told from data. */
static uint8_t *pattern(long long bytes, long long seed)
{
	uint8_t *buffer = malloc((size_t)bytes + !bytes);
	for (long long i = 0; i < bytes; i++)
		buffer[i] = (uint8_t)((i * 7 + (i >> 8) * 13 + seed * 31) % 255 + 1);
	return buffer;
}

/* Three vectors: a byte, about half, the rest. */
static int split(struct iovec *vectors, uint8_t *buffer, size_t bytes)
{
	size_t first = bytes > 0, second = (bytes - first) / 2;
	vectors[0] = (struct iovec){buffer, first};
	vectors[1] = (struct iovec){buffer + first, second};
	vectors[2] = (struct iovec){buffer + first + second, bytes - first - second};
	return 3;
}

ssize_t __read_chk(int fd, void *buffer, size_t bytes, size_t buffer_bytes);
ssize_t __pread_chk(int fd, void *buffer, size_t bytes, off_t offset, size_t buffer_bytes);
int __open_2(const char *path, int flags);

/* read H BYTES ... pread H OFFSET BYTES ... */
static void do_read(void)
{
	const char *call = word(0);
	int fd = *handle(1), positioned = call[0] == 'p';
	off_t offset = positioned ? number(2) : 0;
	size_t bytes = (size_t)number(positioned ? 3 : 2);
	uint8_t *buffer = malloc(bytes + !bytes);
	struct iovec vectors[3];
	ssize_t got;
	split(vectors, buffer, bytes);
	if (!strcmp(call, "read"))
		got = read(fd, buffer, bytes);
	else if (!strcmp(call, "readv"))
		got = readv(fd, vectors, 3);
	else if (!strcmp(call, "read_chk"))
		got = __read_chk(fd, buffer, bytes, bytes);
	else if (!strcmp(call, "pread"))
		got = pread(fd, buffer, bytes, offset);
	else if (!strcmp(call, "preadv"))
		got = preadv(fd, vectors, 3, offset);
	else
		got = __pread_chk(fd, buffer, bytes, offset, bytes);
	answer(got, checksum(buffer, got));
	free(buffer);
}

/* write H BYTES SEED ... pwrite H OFFSET BYTES SEED ... */
static void do_write(void)
{
	const char *call = word(0);
	int fd = *handle(1), positioned = call[0] == 'p';
	off_t offset = positioned ? number(2) : 0;
	size_t bytes = (size_t)number(positioned ? 3 : 2);
	uint8_t *buffer = pattern((long long)bytes, number(positioned ? 4 : 3));
	struct iovec vectors[3];
	ssize_t put;
	split(vectors, buffer, bytes);
	if (!strcmp(call, "write"))
		put = write(fd, buffer, bytes);
	else if (!strcmp(call, "writev"))
		put = writev(fd, vectors, 3);
	else if (!strcmp(call, "pwrite"))
		put = pwrite(fd, buffer, bytes, offset);
	else
		put = pwritev(fd, vectors, 3, offset);
	answer(put, "-");
	free(buffer);
}

/* open H PATH FLAGS, openat, open_2 likewise; creat H PATH */
static void do_open(void)
{
	const char *call = word(0);
	int *fd = handle(1);
	if (*fd >= 0)
		close(*fd);
	if (!strcmp(call, "creat"))
		*fd = creat(word(2), 0600);
	else if (!strcmp(call, "open"))
		*fd = open(word(2), open_flags(word(3)), 0600);
	else if (!strcmp(call, "openat"))
		*fd = openat(AT_FDCWD, word(2), open_flags(word(3)), 0600);
	else
		*fd = __open_2(word(2), open_flags(word(3)));
	answer(*fd < 0 ? -1 : 0, "-");
}

/* copy_file_range IN OFFSET|here OUT OFFSET|here BYTES */
static void do_copy(void)
{
	off_t in = number(2), out = number(4);
	answer(copy_file_range(*handle(1), strcmp(word(2), "here") ? &in : NULL, *handle(3),
	                       strcmp(word(4), "here") ? &out : NULL, (size_t)number(5), 0), "-");
}

static void do_resize(void)
{
	const char *call = word(0);
	if (!strcmp(call, "truncate")) {
		answer(truncate(word(1), number(2)), "-");
	} else if (!strcmp(call, "ftruncate")) {
		answer(ftruncate(*handle(1), number(2)), "-");
	} else if (!strcmp(call, "fallocate")) {
		answer(fallocate(*handle(1), (int)number(2), number(3), number(4)), "-");
	} else {
		errno = posix_fallocate(*handle(1), number(2), number(3));
		answer(errno ? -1 : 0, "-");
	}
}

static void do_names(void)
{
	const char *call = word(0);
	if (!strcmp(call, "unlink"))
		answer(unlink(word(1)), "-");
	else if (!strcmp(call, "unlinkat"))
		answer(unlinkat(AT_FDCWD, word(1), 0), "-");
	else if (!strcmp(call, "remove"))
		answer(remove(word(1)), "-");
	else if (!strcmp(call, "rename"))
		answer(rename(word(1), word(2)), "-");
	else if (!strcmp(call, "link"))
		answer(link(word(1), word(2)), "-");
	else
		answer(symlink(word(1), word(2)), "-");
}

static void do_advise(void)
{
	errno = posix_fadvise(*handle(1), number(2), number(3), POSIX_FADV_WILLNEED);
	answer(errno ? -1 : 0, "-");
}

/* flood H BLOCKS TIMES: hints for the blocks of a file, round and round */
static void do_flood(void)
{
	long long blocks = number(2), times = number(3);
	for (long long i = 0; i < times; i++)
		posix_fadvise(*handle(1), i % blocks * 8192, 8192, POSIX_FADV_WILLNEED);
	answer(times, "-");
}

static void do_close(void)
{
	int *fd = handle(1);
	int result, first = *fd;
	if (!strcmp(word(0), "close"))
		result = close(first);
	else
		result = close_range((unsigned)first, (unsigned)first, (int)number(2));
	if (result == 0)
		*fd = -1;
	answer(result, "-");
}

/* dup NEW OLD: a second descriptor. dup2 NEW OLD: the one of NEW now refers to OLD's file. */
static void do_dup(void)
{
	int *copy = handle(1), result;
	if (!strcmp(word(0), "dup"))
		*copy = result = dup(*handle(2));
	else
		result = dup2(*handle(2), *copy);
	answer(result < 0 ? -1 : 0, "-");
}

/* reuse H PATH FLAGS: open a file under the number of H, closed behind the library's back */
static void do_reuse(void)
{
	int *fd = handle(1);
	FILE *stream = fdopen(*fd, "r");
	fclose(stream); /* the C library closes it by a call of its own */
	*fd = open(word(2), open_flags(word(3)), 0600);
	answer(*fd < 0 ? -1 : 0, "-");
}

static void do_position(void)
{
	struct stat status;
	if (!strcmp(word(0), "lseek"))
		answer(lseek(*handle(1), number(2), SEEK_SET), "-");
	else
		answer(fstat(*handle(1), &status) ? -1 : (long long)status.st_size, "-");
}

static void do_fopen(void)
{
	static uint8_t buffer[1 << 20];
	FILE *stream = fopen(word(1), word(2));
	long long got = stream ? (long long)fread(buffer, 1, sizeof buffer, stream) : -1;
	answer(got, checksum(buffer, got));
	if (stream)
		fclose(stream);
}

/* mmap H OFFSET BYTES private|shared */
static void do_mmap(void)
{
	int shared = !strcmp(word(4), "shared");
	size_t bytes = (size_t)number(3);
	void *at = mmap(NULL, bytes, shared ? PROT_READ | PROT_WRITE : PROT_READ,
	                shared ? MAP_SHARED : MAP_PRIVATE, *handle(1), number(2));
	answer(at == MAP_FAILED ? -1 : (long long)bytes,
	       at == MAP_FAILED ? "-" : checksum(at, (long long)bytes));
	if (at != MAP_FAILED)
		munmap(at, bytes);
}

/* exec PROGRAM WORD...: its output is the answer's data, its newlines become commas */
static void do_exec(void)
{
	char data[LINE_BYTES - 64];
	size_t got = 0;
	int ends[2];
	if (pipe2(ends, O_CLOEXEC))
		usage("no pipe");
	pid_t child = fork();
	if (child == 0) {
		dup2(ends[1], STDOUT_FILENO);
		execvp(words[1], words + 1);
		_exit(127);
	}
	close(ends[1]);
	FILE *output = fdopen(ends[0], "r");
	for (int c; (c = fgetc(output)) != EOF && got < sizeof data - 1;)
		data[got++] = (char)(c == '\n' ? ',' : c);
	data[got] = 0;
	fclose(output);
	int status = 0;
	waitpid(child, &status, 0);
	answer(WEXITSTATUS(status), got ? data : "-");
}

static void do_environment(void)
{
	const char *value = getenv(word(1));
	answer(value != NULL, value && *value ? value : "-");
}

static void do_command(void);

/* fork COMMAND...: in a child. many N COMMAND...: in N children at once. N lines, then ours. */
static void do_children(void)
{
	int several = !strcmp(word(0), "many"), ends[2];
	long long count = several ? number(1) : 1, died = 0;
	memmove(words, words + 1 + several, sizeof *words * (size_t)(WORDS_MAX - 1 - several));
	if (pipe2(ends, O_CLOEXEC))
		usage("no pipe");
	for (long long i = 0; i < count; i++) {
		pid_t child = fork();
		if (child < 0)
			usage("cannot fork");
		if (child == 0) {
			char go;
			close(ends[1]);
			if (read(ends[0], &go, 1) == 0) /* all start when the parent closes its end */
				do_command();
			exit(0);
		}
	}
	close(ends[0]);
	close(ends[1]);
	for (long long i = 0; i < count; i++) {
		int status = 0;
		wait(&status);
		died += status != 0;
	}
	answer(count - died, "-");
}

/* churn TIMES PATH: create, write, remove, in competition with others who do the same */
static void do_churn(void)
{
	long long rounds = number(1), made = 0;
	for (long long i = 0; i < rounds; i++) {
		int fd = open(word(2), O_RDWR | O_CREAT | O_EXCL, 0600);
		if (fd < 0 && errno == EEXIST)
			continue;
		if (fd < 0)
			break;
		uint8_t *page = pattern(8192, i);
		made += pwrite(fd, page, 8192, 0) == 8192 && unlink(word(2)) == 0;
		free(page);
		close(fd);
	}
	answer(made, "-");
}

/* probe TIMES PATH: open and read; how often that failed otherwise than by the file's absence */
static void do_probe(void)
{
	long long rounds = number(1), failures = 0;
	char page[8192];
	for (long long i = 0; i < rounds; i++) {
		int fd = open(word(2), O_RDONLY);
		if (fd < 0 || pread(fd, page, sizeof page, 0) < 0)
			failures += errno != ENOENT;
		if (fd >= 0)
			close(fd);
	}
	answer(failures, "-");
}

/* win PATH: 1 if it was this process that made it, and wrote a block */
static void do_win(void)
{
	int fd = open(word(1), O_RDWR | O_CREAT | O_EXCL, 0600);
	uint8_t *page = pattern(8192, 1);
	answer(fd >= 0 && pwrite(fd, page, 8192, 0) == 8192, "-");
	free(page);
}

/* PostgreSQL's data checksum, once more: the library's own is no witness for itself. */
static uint16_t page_checksum(const uint8_t *page, uint32_t block)
{
	static const uint32_t seeds[32] = {
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2,
		0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C,
		0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979,
		0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E,
		0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	};
	uint32_t sums[32], word, result = block;
	memcpy(sums, seeds, sizeof sums);
	for (int at = 0; at < 2048 + 64; at++) {
		memcpy(&word, page + (at < 2048 ? at * 4 : 0), sizeof word);
		word = at >= 2048 ? 0 : at == 2 ? word & 0xFFFF0000u : word;
		uint32_t mixed = sums[at % 32] ^ word;
		sums[at % 32] = mixed * 16777619u ^ mixed >> 17;
	}
	for (int lane = 0; lane < 32; lane++)
		result ^= sums[lane];
	return (uint16_t)(result % 65535 + 1);
}

/* The same as native.sources.versioned_page. */
static void make_version(uint8_t *page, uint32_t version, uint32_t block)
{
	uint8_t *content = pattern(8192, block);
	uint32_t lsn[2] = {0, version};
	uint16_t sum;
	memcpy(page, content, 8192);
	memcpy(page, lsn, sizeof lsn);
	sum = page_checksum(page, block);
	memcpy(page + 8, &sum, sizeof sum);
	free(content);
}

/* hammer H FIRST BLOCKS TIMES WAL: like a postgres whose buffers hold nothing. Each version of the
 * blocks is in the WAL before it is written; it must be there when read. How often it was not. */
static void do_hammer(void)
{
	uint32_t first = (uint32_t)number(2), blocks = (uint32_t)number(3), wrong = 0;
	int wal = open(word(5), O_RDWR | O_CREAT, 0600), fd = *handle(1);
	uint8_t page[8192], found[8192];
	for (uint32_t version = 2; version < 2 + number(4); version++) {
		if (pwrite(wal, &version, sizeof version, 0) != sizeof version)
			usage("no WAL");
		for (uint32_t block = first; block < first + blocks; block++) {
			make_version(page, version, block);
			if (pwrite(fd, page, 8192, (off_t)block * 8192) != 8192 ||
			    pread(fd, found, 8192, (off_t)block * 8192) != 8192 ||
			    memcmp(page, found, 8192))
				wrong++;
		}
	}
	close(wal);
	answer(wrong, "-");
}

/* regrow H FIRST BLOCKS TIMES WAL: cut off the end and lengthen the file again; how often that was
 * not zeros. What is cut off is in WAL, so that it may have been dropped. */
static void do_regrow(void)
{
	off_t from = (off_t)number(2) * 8192, bytes = (off_t)number(3) * 8192;
	uint8_t *expected = calloc(1, (size_t)bytes), *found = malloc((size_t)bytes), page[8192];
	uint32_t wrong = 0;
	for (long long i = 0; i < number(4); i++) {
		for (off_t at = 0; at < bytes; at += 8192) {
			make_version(page, 1, (uint32_t)((from + at) / 8192));
			wrong += pwrite(*handle(1), page, 8192, from + at) != 8192;
		}
		if (ftruncate(*handle(1), from) || posix_fallocate(*handle(1), from, bytes))
			usage("no truncation");
		wrong += pread(*handle(1), found, (size_t)bytes, from) != bytes ||
		         memcmp(expected, found, (size_t)bytes);
	}
	free(expected);
	free(found);
	answer(wrong, "-");
}

/* remake TIMES PATH: a new file of one name again and again; how often a page was not its own */
static void do_remake(void)
{
	uint8_t page[8192], found[8192];
	uint32_t wrong = 0;
	for (long long i = 0; i < number(1); i++) {
		int fd = open(word(2), O_RDWR | O_CREAT | O_EXCL, 0600);
		make_version(page, 100000 + (uint32_t)i, 0);
		wrong += pwrite(fd, page, 8192, 0) != 8192 || pread(fd, found, 8192, 0) != 8192 ||
		         memcmp(page, found, 8192);
		close(fd);
		wrong += unlink(word(2)) != 0;
	}
	answer(wrong, "-");
}

/* copy_page FROM OFFSET TO OFFSET: a block by an ordinary read and write */
static void do_copy_page(void)
{
	uint8_t page[8192];
	ssize_t got = pread(*handle(1), page, sizeof page, number(2));
	answer(got < 0 ? -1 : pwrite(*handle(3), page, (size_t)got, number(4)), "-");
}

/* watch H FIRST BLOCKS TIMES: read blocks of version 1; how often one was not that */
static void do_watch(void)
{
	uint32_t first = (uint32_t)number(2), blocks = (uint32_t)number(3), wrong = 0;
	uint8_t *expected = malloc((size_t)blocks * 8192), *found = malloc((size_t)blocks * 8192);
	for (uint32_t i = 0; i < blocks; i++)
		make_version(expected + (size_t)i * 8192, 1, first + i);
	for (long long i = 0; i < number(4); i++) {
		ssize_t got = pread(*handle(1), found, (size_t)blocks * 8192, (off_t)first * 8192);
		wrong += got != (ssize_t)blocks * 8192 || memcmp(expected, found, (size_t)got);
	}
	free(expected);
	free(found);
	answer(wrong, "-");
}

/* names FIRST COUNT: create base/5/FIRST ... with a block each, then remove every second one */
static void do_fill_table(void)
{
	long long first = number(1), count = number(2), removed = 0;
	uint8_t *page = pattern(8192, 1);
	char path[64];
	for (long long i = first; i < first + count; i++) {
		snprintf(path, sizeof path, "base/5/%lld", i);
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		if (fd < 0 || pwrite(fd, page, 8192, 0) != 8192) {
			answer(-1, path);
			return;
		}
		close(fd);
		removed += i % 2 && unlink(path) == 0;
	}
	free(page);
	answer(removed, "-");
}

static const struct {
	const char *names;
	void (*function)(void);
} commands[] = {
	{" read readv read_chk pread preadv pread_chk ", do_read},
	{" write writev pwrite pwritev ", do_write},
	{" open openat open_2 creat ", do_open},
	{" copy_file_range ", do_copy},
	{" truncate ftruncate posix_fallocate fallocate ", do_resize},
	{" unlink unlinkat remove rename link symlink ", do_names},
	{" posix_fadvise ", do_advise},
	{" flood ", do_flood},
	{" close close_range ", do_close},
	{" dup dup2 ", do_dup},
	{" reuse ", do_reuse},
	{" lseek size ", do_position},
	{" fopen ", do_fopen},
	{" mmap ", do_mmap},
	{" exec ", do_exec},
	{" environment ", do_environment},
	{" fork many ", do_children},
	{" churn ", do_churn},
	{" probe ", do_probe},
	{" win ", do_win},
	{" names ", do_fill_table},
	{" hammer ", do_hammer},
	{" watch ", do_watch},
	{" regrow ", do_regrow},
	{" remake ", do_remake},
	{" copy_page ", do_copy_page},
};

static void do_command(void)
{
	char name[40];
	snprintf(name, sizeof name, " %s ", word(0));
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		if (strstr(commands[i].names, name)) {
			commands[i].function();
			return;
		}
	usage(word(0));
}

int main(void)
{
	char line[LINE_BYTES];
	setvbuf(stdin, NULL, _IONBF, 0); /* so that a forked child has nothing of it */
	while (fgets(line, sizeof line, stdin)) {
		char *rest = line;
		int count = 0;
		line[strcspn(line, "\n")] = 0;
		memset(words, 0, sizeof words);
		while (count < WORDS_MAX - 1 && (words[count] = strsep(&rest, " ")))
			count++;
		words[count] = NULL;
		do_command();
	}
	return 0;
}
