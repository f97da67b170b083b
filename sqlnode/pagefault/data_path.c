/* Relation segments of every fork and SLRU segments. Strict, because a temporary file taken for a
 * data file would be harvested, and a data file missed would be read as zeros:
 *
 *   base/DB/N[_fork][.SEG]   global/N[_fork][.SEG]   pg_tblspc/SPC/PG_x/DB/N[_fork][.SEG]
 *   SLRU/HEX                 for each directory of the list in the map's header
 *
 * Not: t3_123 (temporary relations), pgsql_tmp, pg_filenode.map, PG_VERSION, pg_internal.init. */
#include "data_path.h"

#include <string.h>

static const char *digits(const char *at)
{
	const char *from = at;
	while (*at >= '0' && *at <= '9')
		at++;
	return at > from ? at : 0;
}

static const char *literal(const char *at, const char *text)
{
	size_t bytes = strlen(text);
	return strncmp(at, text, bytes) == 0 ? at + bytes : 0;
}

static bool is_relation_segment(const char *at)
{
	static const char *const forks[] = {"_fsm", "_vm", "_init"};
	if (!(at = digits(at)))
		return false;
	const char *behind = 0;
	for (unsigned i = 0; !behind && i < sizeof forks / sizeof *forks; i++)
		behind = literal(at, forks[i]);
	if (behind)
		at = behind;
	if (*at == '.' && !(at = digits(at + 1)))
		return false;
	return *at == 0;
}

/* DB/N... below base/ or a tablespace's version directory */
static bool is_database_file(const char *at)
{
	return (at = digits(at)) && *at == '/' && is_relation_segment(at + 1);
}

static bool is_tablespace_file(const char *at)
{
	if (!(at = digits(at)) || !(at = literal(at, "/PG_")))
		return false;
	at = strchr(at, '/');
	return at && is_database_file(at + 1);
}

static bool is_slru_segment(const char *at)
{
	size_t length = strspn(at, "0123456789ABCDEF");
	return length >= 4 && length <= 15 && at[length] == 0;
}

bool data_path_is_tracked(const char *path, const char *slru_dirs)
{
	const char *rest;
	if ((rest = literal(path, "base/")))
		return is_database_file(rest);
	if ((rest = literal(path, "global/")))
		return is_relation_segment(rest);
	if ((rest = literal(path, "pg_tblspc/")))
		return is_tablespace_file(rest);
	for (const char *dir = slru_dirs; *dir; dir += strlen(dir) + 1)
		if ((rest = literal(path, dir)) && *rest == '/')
			return is_slru_segment(rest + 1);
	return false;
}
