/* One process's connection to the agent, and the questions that go over it.
 *
 * A request is 24 bytes, an answer 8; both in the machine's byte order, since both ends share
 * memory anyway. A PREFETCH has no answer. The agent treats every request as idempotent. */
#ifndef SEAWALL_AGENT_LINK_H
#define SEAWALL_AGENT_LINK_H

#include "block_map.h"

enum {
	LINK_FAULT = 1,
	LINK_PREFETCH = 2,
	LINK_AGAIN = 3, /* a fault asked before, or about another process's claim */
};

struct link_request {
	uint32_t tag, kind, slot, generation, first, count;
};

enum { /* answers */
	LINK_OK = 0,
	LINK_GONE = 1,    /* the file was removed meanwhile */
	LINK_FAILED = 2,  /* no source could give the blocks */
	LINK_DAMAGED = 3, /* a source gave pages with wrong checksums */
	LINK_FULL = 4,    /* no space on this compute's disk */
	LINK_REFUSED = 5, /* the request made no sense */
};

struct link_answer {
	uint32_t tag, status;
};

/* Wait until the agent has dealt with the blocks: an answer, or -1 with a sentence in *why. */
int link_fault(struct block_map *map, uint32_t kind, uint32_t slot, uint32_t generation,
               uint32_t first, uint32_t count, const char **why);
/* Do not wait. False: the agent's queue is full, or it is not there; nothing was sent. */
bool link_prefetch(struct block_map *map, uint32_t slot, uint32_t generation, uint32_t first,
                   uint32_t count);
void link_forget(void); /* in the child of a fork: the connection is the parent's */
uint64_t monotonic_us(void);

#endif
