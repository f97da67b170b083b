/* Fetched pages into their files: check, write, publish; many at a time.
 *
 * Nothing comes between looking at a block's state and publishing it, so that a page that arrives
 * late, for a block that was meanwhile filled or cut off, is dropped and overwrites nothing newer.
 * All pages are written before the first is published: whoever waits for one is then woken once and
 * finds the next ones there too. */
#define _GNU_SOURCE
#include "agent_api.h"

#include <errno.h>

#include "agent_link.h"
#include "real.h"

static uint32_t status_of(int error)
{
	return error == ENOSPC || error == EDQUOT ? LINK_FULL : LINK_FAILED;
}

static int write_all(int fd, const uint8_t *pages, size_t bytes, off_t offset)
{
	while (bytes) {
		ssize_t written = real_pwrite(fd, pages, bytes, offset);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written ? errno : EIO;
		pages += written;
		offset += written;
		bytes -= (size_t)written;
	}
	return 0;
}

/* Only the blocks that are still MISSING; the others have newer content, or are cut off. */
static void write_missing(struct block_map *map, struct install_item *item, const uint8_t *pages)
{
	for (uint32_t at = 0; at < item->count;) {
		uint32_t skipped, block, run;
		run = pagefault_adopt(map, item->slot, item->first + at, item->count - at, &skipped);
		at += skipped;
		if (!run)
			return;
		block = item->first + at;
		int error = write_all(item->fd, pages + (size_t)at * BLOCK_BYTES,
		                      (size_t)run * BLOCK_BYTES, (off_t)block * BLOCK_BYTES);
		if (error) {
			item->status = status_of(error);
			return;
		}
		at += run;
	}
}

static void check_and_write(struct block_map *map, struct install_item *item, const uint8_t *pages)
{
	item->status = LINK_OK;
	if (pagefault_generation(map, item->slot) != item->generation) {
		item->status = LINK_GONE;
		return;
	}
	if (item->relation_block >= 0) {
		uint32_t first = (uint32_t)item->relation_block + item->first;
		item->bad_block = pagefault_verify_pages(pages, item->count, first);
		if (item->bad_block < item->count) {
			item->status = LINK_DAMAGED;
			return;
		}
	}
	write_missing(map, item, pages);
}

/* `pages` holds the items' pages one after the other. Every item is published or released. */
EXPORT void pagefault_install(struct block_map *map, struct install_item *items, uint32_t count,
                              const uint8_t *pages)
{
	const uint8_t *at = pages;
	for (uint32_t i = 0; i < count; i++) {
		check_and_write(map, &items[i], at);
		at += (size_t)items[i].count * BLOCK_BYTES;
	}
	for (uint32_t i = 0; i < count; i++) {
		struct install_item *item = &items[i];
		if (item->status == LINK_OK)
			pagefault_publish(map, item->slot, item->generation, item->first, item->count);
		else
			pagefault_release(map, item->slot, item->generation, item->first, item->count);
	}
}
