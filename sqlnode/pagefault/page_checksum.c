/* PostgreSQL's data checksum (FNV-1a in 32 lanes over the page), to check pages as they arrive.
 *
 * The algorithm and its constants are those of PostgreSQL's storage/checksum_impl.h, which fixes
 * the on-disk format since 9.3; a page's own number is part of it, so that a right page in the
 * wrong place is found too. */
#include "agent_api.h"

#include <string.h>

enum { LANES = 32, PRIME = 16777619, CHECKSUM_AT = 8, UPPER_AT = 14 };

static const uint32_t SEEDS[LANES] = {
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
};

static inline void mix(uint32_t *sums, const uint32_t *values)
{
	for (int lane = 0; lane < LANES; lane++) {
		uint32_t mixed = sums[lane] ^ values[lane];
		sums[lane] = mixed * PRIME ^ mixed >> 17;
	}
}

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))
#else
__attribute__((optimize("O3")))
#endif
uint16_t page_checksum(const uint8_t *page, uint32_t block);

uint16_t page_checksum(const uint8_t *page, uint32_t block)
{
	static const uint32_t zeros[LANES];
	uint32_t sums[LANES], values[LANES], result = 0;
	memcpy(sums, SEEDS, sizeof sums);
	for (int at = 0; at < BLOCK_BYTES; at += (int)sizeof values) {
		memcpy(values, page + at, sizeof values);
		if (at == 0)
			values[CHECKSUM_AT / 4] &= 0xFFFF0000u; /* the field itself counts as zero */
		mix(sums, values);
	}
	mix(sums, zeros);
	mix(sums, zeros);
	for (int lane = 0; lane < LANES; lane++)
		result ^= sums[lane];
	return (uint16_t)((result ^ block) % 65535 + 1);
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, BLOCK_BYTES - 1) == 0;
}

/* The index of the first damaged page, or `count`. A page that PostgreSQL calls new (pd_upper is 0)
 * must be all zeros. `block` is the number inside the relation, not inside the segment. */
EXPORT uint32_t pagefault_verify_pages(const uint8_t *pages, uint32_t count, uint32_t block)
{
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *page = pages + (size_t)i * BLOCK_BYTES;
		uint16_t stored, upper;
		memcpy(&stored, page + CHECKSUM_AT, sizeof stored);
		memcpy(&upper, page + UPPER_AT, sizeof upper);
		if (upper == 0 ? !is_zero(page) : stored != page_checksum(page, block + i))
			return i;
	}
	return count;
}
