/*
 * Faults that a process cannot be given from outside, for LD_PRELOAD. What each does is in shim.rs.
 *
 * SHIM_DATA_DIR    the directory whose files are meant
 * SHIM_LEDGER      a file that gets a struct record for each file that was synced, removed or replaced there
 * SHIM_FAIL_SYNC   as long as a file of this name exists, no sync in the directory succeeds
 * SHIM_HOLD_SYNC   as long as a file of this name exists, each sync in the directory waits, and writes a line to it that names its file
 * SHIM_HOLD_ENDING of files whose names end so only
 * SHIM_CLOCK_RATE  how fast the monotonic clock runs, 1 by default
 * SHIM_CLOCK       a file that gets a struct reading of the clock
 * SHIM_STEPS       a file that gets a line before each step: a sync, removal, renaming or making of something in the directory
 * SHIM_KILL_AT     the number of the step before which the process is killed, from 1
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* From the beginning of the file, durable_bytes are on the disk. */
struct record {
    uint64_t inode;
    uint64_t durable_bytes;
};

/* Nanoseconds that have passed since the process started. */
struct reading {
    volatile int64_t real_ns;
    volatile int64_t shown_ns;
};

static const char *data_dir, *fail_sync, *hold_sync, *hold_ending = "";
static int ledger = -1, steps = -1;
static long step_count, kill_at;
static double rate = 1;
static int64_t started_ns;
static struct reading *reading;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void die(const char *what)
{
    perror(what);
    _exit(70);
}

/* ---- syncs ---- */

static int is_data(const char *path)
{
    size_t length = data_dir ? strlen(data_dir) : 0;
    return length && !strncmp(path, data_dir, length) && path[length] == '/';
}

static void note(uint64_t inode, uint64_t durable_bytes)
{
    struct record record = {inode, durable_bytes};
    if (ledger >= 0 && write(ledger, &record, sizeof record) != sizeof record)
        die("the ledger");
}

static void step(const char *what, const char *path)
{
    if (steps < 0)
        return;
    char line[PATH_MAX + 16];
    int length = snprintf(line, sizeof line, "%s %s\n", what, path + strlen(data_dir) + 1);
    if (write(steps, line, length) != length)
        die("the steps");
    if (__atomic_add_fetch(&step_count, 1, __ATOMIC_SEQ_CST) == kill_at) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
}

static int ends_with(const char *path, const char *ending)
{
    size_t length = strlen(path), ending_length = strlen(ending);
    return length >= ending_length && !strcmp(path + length - ending_length, ending);
}

static void wait_while_held(const char *path)
{
    int holding = hold_sync && ends_with(path, hold_ending) ? open(hold_sync, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (holding < 0)
        return;
    dprintf(holding, "%s\n", path + strlen(data_dir) + 1);
    close(holding);
    struct timespec pause = {0, 1000000};
    while (!access(hold_sync, F_OK))
        nanosleep(&pause, NULL);
}

static int sync_file(int fd, int (*sync)(int))
{
    char link[64], path[PATH_MAX] = "";
    struct stat file;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || !is_data(path) || fstat(fd, &file))
        return sync(fd);
    step("sync", path);
    wait_while_held(path);
    if (fail_sync && !access(fail_sync, F_OK)) {
        errno = EIO;
        return -1;
    }
    int result = sync(fd);
    if (!result && S_ISREG(file.st_mode))
        note(file.st_ino, file.st_size);
    return result;
}

int fsync(int fd)
{
    return sync_file(fd, REAL(fsync));
}

int fdatasync(int fd)
{
    return sync_file(fd, REAL(fdatasync));
}

/* The next file may get the same inode. */
static void note_loss(const char *path)
{
    struct stat file;
    if (!lstat(path, &file) && S_ISREG(file.st_mode) && file.st_nlink == 1)
        note(file.st_ino, 0);
}

static void note_removal(const char *path)
{
    if (!is_data(path))
        return;
    step("remove", path);
    note_loss(path);
}

int unlink(const char *path)
{
    note_removal(path);
    return REAL(unlink)(path);
}

/* Directories are removed with all that they hold by names within them. */
int unlinkat(int directory, const char *name, int flags)
{
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = *name == '/' ? 0 : readlink(link, path, sizeof path - 1);
    if (length >= 0) {
        snprintf(path + length, sizeof path - length, "%s%s", length ? "/" : "", name);
        note_removal(path);
    }
    return REAL(unlinkat)(directory, name, flags);
}

int rmdir(const char *path)
{
    note_removal(path);
    return REAL(rmdir)(path);
}

int rename(const char *from, const char *to)
{
    if (is_data(to)) {
        step("rename", to);
        note_loss(to);
    }
    return REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode)
{
    if (is_data(path))
        step("make", path);
    return REAL(mkdir)(path, mode);
}

/* ---- the clock ---- */

static int64_t nanoseconds(const struct timespec *time)
{
    return time->tv_sec * INT64_C(1000000000) + time->tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

static int is_scaled(clockid_t id)
{
    return rate != 1 && (id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE);
}

/* When the real clock shows what is the given time here. */
static struct timespec real_deadline(const struct timespec *time)
{
    return timespec_of(started_ns + (int64_t)((nanoseconds(time) - started_ns) / rate));
}

static struct timespec real_pause(const struct timespec *time)
{
    return timespec_of((int64_t)(nanoseconds(time) / rate));
}

int clock_gettime(clockid_t id, struct timespec *time)
{
    static __typeof__(&clock_gettime) get;
    if (!get)
        get = REAL(clock_gettime);
    int result = get(id, time);
    if (!result && is_scaled(id)) {
        int64_t passed = nanoseconds(time) - started_ns, shown = (int64_t)(passed * rate);
        *time = timespec_of(started_ns + shown);
        if (reading) {
            reading->real_ns = passed;
            reading->shown_ns = shown;
        }
    }
    return result;
}

static int real_timeout(int timeout_ms)
{
    return timeout_ms > 0 && rate != 1 ? (int)(timeout_ms / rate) + 1 : timeout_ms;
}

int epoll_wait(int fd, struct epoll_event *events, int count, int timeout_ms)
{
    return REAL(epoll_wait)(fd, events, count, real_timeout(timeout_ms));
}

int pthread_cond_clockwait(pthread_cond_t *condition, pthread_mutex_t *mutex, clockid_t id, const struct timespec *deadline)
{
    struct timespec scaled;
    if (is_scaled(id)) {
        scaled = real_deadline(deadline);
        deadline = &scaled;
    }
    return REAL(pthread_cond_clockwait)(condition, mutex, id, deadline);
}

/* Rust's standard library waits by futex. */
long syscall(long number, ...)
{
    long arguments[6];
    struct timespec scaled;
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_futex && rate != 1 && arguments[3]) {
        long operation = arguments[1] & FUTEX_CMD_MASK;
        const struct timespec *time = (const struct timespec *)arguments[3];
        if (operation == FUTEX_WAIT_BITSET && !(arguments[1] & FUTEX_CLOCK_REALTIME)) {
            scaled = real_deadline(time);
            arguments[3] = (long)&scaled;
        } else if (operation == FUTEX_WAIT) {
            scaled = real_pause(time);
            arguments[3] = (long)&scaled;
        }
    }
    return REAL(syscall)(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

/* ---- */

__attribute__((constructor)) static void begin(void)
{
    const char *path;
    data_dir = getenv("SHIM_DATA_DIR");
    fail_sync = getenv("SHIM_FAIL_SYNC");
    hold_sync = getenv("SHIM_HOLD_SYNC");
    if ((path = getenv("SHIM_HOLD_ENDING")))
        hold_ending = path;
    if ((path = getenv("SHIM_LEDGER")) && (ledger = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        die("SHIM_LEDGER");
    if ((path = getenv("SHIM_STEPS")) && (steps = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        die("SHIM_STEPS");
    if ((path = getenv("SHIM_KILL_AT")))
        kill_at = atol(path);
    if ((path = getenv("SHIM_CLOCK"))) {
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || ftruncate(file, sizeof *reading))
            die("SHIM_CLOCK");
        reading = mmap(NULL, sizeof *reading, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (reading == MAP_FAILED)
            die("SHIM_CLOCK");
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    started_ns = nanoseconds(&now);
    const char *wanted = getenv("SHIM_CLOCK_RATE");
    if (wanted)
        rate = atof(wanted);
}
