/*
 * The first process of a pid namespace: it holds the namespaces of a machine or of a pod, and waits
 * for orphans, which become its children. It leaves when it is told to.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave(int number)
{
	(void)number;
	_exit(0);
}

static void reap(int number)
{
	(void)number;
	while (waitpid(-1, 0, WNOHANG) > 0) {
	}
}

int main(void)
{
	signal(SIGINT, leave);
	signal(SIGTERM, leave);
	signal(SIGCHLD, reap);
	reap(0); /* those who ended before the handler was there */
	for (;;)
		pause();
}
