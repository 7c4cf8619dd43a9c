// Shifts the wall clock of a process by the seconds in the file that SHIM_FILE names; loaded with LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long long *offset;
static long long none = 0;

__attribute__((constructor)) static void init(void) {
    const char *path = getenv("SHIM_FILE");
    int file = path ? open(path, O_RDONLY) : -1;
    offset = file >= 0 ? mmap(0, 8, PROT_READ, MAP_SHARED, file, 0) : &none;
    if (offset == MAP_FAILED) offset = &none;
}

static long long shift(void) { return offset ? *offset : 0; }

int clock_gettime(clockid_t clock, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, t);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *t, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(t, zone);
    if (!result) t->tv_sec += shift();
    return result;
}
