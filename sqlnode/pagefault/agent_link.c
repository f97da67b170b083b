#define _GNU_SOURCE
#include "agent_link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "real.h"

enum {
	RETRY_MS = 5,          /* between attempts to reach an agent that is being restarted */
	PREFETCH_WAIT_MS = 100 /* how long a full queue may hold up a hint */
};

/* postgres is single-threaded: one connection, and never two questions at once. */
static int link_fd = -1;
static uint32_t last_tag;

uint64_t monotonic_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void link_forget(void)
{
	if (link_fd >= 0)
		real_close(link_fd);
	link_fd = -1;
}

static bool try_connect(struct block_map *map)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	memcpy(address.sun_path, map->header->socket_path, sizeof address.sun_path);
	/* Never blocks: connect would, for as long as an agent that hangs does not accept. */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
		real_close(fd);
		return false;
	}
	link_fd = fd;
	COUNT(map, reconnects, 1);
	return true;
}

/* An agent that restarts is away for a moment; one that is dead is away for good. */
static bool open_link(struct block_map *map)
{
	uint64_t deadline = monotonic_us() + (uint64_t)map->header->link_wait_ms * 1000;
	while (link_fd < 0 && !try_connect(map)) {
		if (monotonic_us() >= deadline)
			return false;
		poll(NULL, 0, RETRY_MS);
	}
	return true;
}

/* Milliseconds left, never negative. Interrupts of the wait are not ours to act on. */
static bool wait_for(short events, uint64_t deadline)
{
	for (;;) {
		uint64_t now = monotonic_us();
		struct pollfd ready = {.fd = link_fd, .events = events};
		if (now >= deadline)
			return false;
		int result = poll(&ready, 1, (int)((deadline - now) / 1000 + 1));
		if (result > 0)
			return true;
		if (result < 0 && errno != EINTR)
			return false;
	}
}

/* Requests go out whole or the connection is closed: 24 bytes into a stream socket's buffer. */
static bool send_request(const struct link_request *request, uint64_t deadline)
{
	size_t sent = 0;
	while (sent < sizeof *request) {
		ssize_t n = send(link_fd, (const char *)request + sent, sizeof *request - sent,
		                 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0)
			sent += (size_t)n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK))
			break;
		else if (!wait_for(POLLOUT, deadline))
			break;
	}
	if (sent == sizeof *request)
		return true;
	if (sent || (errno != EAGAIN && errno != EWOULDBLOCK))
		link_forget();
	return false;
}

enum received { RECEIVED, LOST, LATE };

static enum received receive_answer(uint32_t tag, uint32_t *status, uint64_t deadline)
{
	struct link_answer answer;
	size_t got = 0;
	for (;;) {
		ssize_t n = recv(link_fd, (char *)&answer + got, sizeof answer - got, MSG_DONTWAIT);
		if (n > 0)
			got += (size_t)n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
			return LOST;
		else if (errno != EINTR && !wait_for(POLLIN, deadline))
			return LATE;
		if (got < sizeof answer)
			continue;
		if (answer.tag == tag) {
			*status = answer.status;
			return RECEIVED;
		}
		got = 0;
	}
}

/* Asked again after a lost connection as often as it takes: the agent is idempotent. What was
 * claimed stays claimed when this fails, because only the agent knows whether it still writes. */
int link_fault(struct block_map *map, uint32_t kind, uint32_t slot, uint32_t generation,
               uint32_t first, uint32_t count, const char **why)
{
	struct link_request request = {++last_tag, kind, slot, generation, first, count};
	uint64_t deadline = monotonic_us() + (uint64_t)map->header->reply_wait_ms * 1000;
	while (monotonic_us() < deadline) {
		uint32_t status;
		if (!open_link(map)) {
			*why = "no agent listens; start it again";
			return -1;
		}
		bool sent = send_request(&request, deadline);
		request.kind = LINK_AGAIN;
		if (!sent)
			continue;
		switch (receive_answer(request.tag, &status, deadline)) {
		case RECEIVED:
			return (int)status;
		case LOST:
			link_forget();
			poll(NULL, 0, RETRY_MS); /* some hang up on everybody: no busy loop */
			continue;
		case LATE:
			break;
		}
		break;
	}
	link_forget(); /* a late answer must not meet the next question */
	*why = "the agent did not answer in time; look at its log";
	return -1;
}

bool link_prefetch(struct block_map *map, uint32_t slot, uint32_t generation, uint32_t first,
                   uint32_t count)
{
	struct link_request request = {0, LINK_PREFETCH, slot, generation, first, count};
	if (link_fd < 0 && !try_connect(map))
		return false;
	return send_request(&request, monotonic_us() + PREFETCH_WAIT_MS * 1000);
}
