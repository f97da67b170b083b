#define _GNU_SOURCE
#include "real.h"

#include <dlfcn.h>

#define X(type, name, arguments) type(*real_##name) arguments;
REAL_FUNCTIONS(X)
#undef X

bool real_resolved;

void real_resolve_now(void)
{
	/* POSIX promises that a data pointer can hold a function's address; ISO C only frowns. */
#define X(type, name, arguments) *(void **)&real_##name = dlsym(RTLD_NEXT, #name);
	REAL_FUNCTIONS(X)
#undef X
	real_resolved = true;
}
