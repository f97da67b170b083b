#define _GNU_SOURCE
#include "real.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdbool.h>

#define X(type, name, arguments) type(*real_##name) arguments;
REAL_FUNCTIONS(X)
#undef X

void real_resolve(void)
{
	static atomic_bool resolved;
	if (atomic_load_explicit(&resolved, memory_order_acquire))
		return;
	/* POSIX promises that a data pointer can hold a function's address; ISO C only frowns. */
#define X(type, name, arguments) *(void **)&real_##name = dlsym(RTLD_NEXT, #name);
	REAL_FUNCTIONS(X)
#undef X
	atomic_store_explicit(&resolved, true, memory_order_release);
}
