/* Faults at the calls by which a process touches files.

   Preloaded (LD_PRELOAD), every call below is counted while the shim is armed.
   At the call whose number was asked for, one thing goes wrong:

     LIST          nothing: calls are only counted and named
     KILL          the process is killed before the call
     KILL_AFTER    the process is killed after the call
     FAIL          the call does nothing and reports an error
     FAIL_AFTER    the call does its work, and reports an error all the same
     SHORT         a read or write takes only half of its bytes
     KILL_SHORT    a write takes only half of its bytes, then the process is killed
     FAIL_ON       this call and every later one that changes a file system fails

   Python arms it through ctypes, in a process forked for one fault. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { LIST, KILL, KILL_AFTER, FAIL, FAIL_AFTER, SHORT, KILL_SHORT, FAIL_ON };

static atomic_int armed, count;
static int target, action, code;
static char names[1 << 16];
static size_t used;

void fault_arm(int wanted, int what, int error)
{
    target = wanted, action = what, code = error, used = 0;
    atomic_store(&count, 0);
    atomic_store(&armed, 1);
}

int fault_disarm(void)
{
    atomic_store(&armed, 0);
    return atomic_load(&count);
}

/* The names of the calls seen by LIST, one per line, in order. */
const char *fault_names(void) { return names; }

/* What goes wrong at this call: LIST if nothing does. */
static int fault(const char *name, int changes)
{
    if (!atomic_load(&armed))
        return LIST;
    int number = atomic_fetch_add(&count, 1) + 1;
    if (action == LIST) {
        size_t length = strlen(name) + 1;
        if (used + length < sizeof names) {
            memcpy(names + used, name, length - 1);
            names[used + length - 1] = '\n';
            used += length;
        }
        return LIST;
    }
    if (action == FAIL_ON)
        return number >= target && changes ? FAIL : LIST;
    if (number != target)
        return LIST;
    if (action == KILL)
        raise(SIGKILL);
    return action;
}

#define REAL(type, name, ...)                                        \
    static type (*real)(__VA_ARGS__);                                \
    if (!real)                                                       \
        real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Do the call, and what is to go wrong with it. */
#define FINISH(type, failed, name, changes, call)                    \
    int what = fault(#name, changes);                                \
    if (what == FAIL) {                                              \
        errno = code;                                                \
        return failed;                                               \
    }                                                                \
    type result = call;                                              \
    if (what == KILL_AFTER)                                          \
        raise(SIGKILL);                                              \
    if (what == FAIL_AFTER) {                                        \
        errno = code;                                                \
        return failed;                                               \
    }                                                                \
    return result

#define CALL1(type, failed, name, changes, A)                        \
    type name(A a) { REAL(type, name, A); FINISH(type, failed, name, changes, real(a)); }
#define CALL2(type, failed, name, changes, A, B)                     \
    type name(A a, B b)                                              \
    { REAL(type, name, A, B); FINISH(type, failed, name, changes, real(a, b)); }
#define CALL3(type, failed, name, changes, A, B, C)                  \
    type name(A a, B b, C c)                                         \
    { REAL(type, name, A, B, C); FINISH(type, failed, name, changes, real(a, b, c)); }
#define CALL4(type, failed, name, changes, A, B, C, D)               \
    type name(A a, B b, C c, D d)                                    \
    { REAL(type, name, A, B, C, D); FINISH(type, failed, name, changes, real(a, b, c, d)); }
#define CALL5(type, failed, name, changes, A, B, C, D, E)            \
    type name(A a, B b, C c, D d, E e)                               \
    { REAL(type, name, A, B, C, D, E); FINISH(type, failed, name, changes, real(a, b, c, d, e)); }

/* Reads and writes, which may also take less than they were given. */
#define TRANSFER(name, changes, buffer, ...)                         \
    int what = fault(#name, changes);                                \
    if (what == FAIL) {                                              \
        errno = code;                                                \
        return -1;                                                   \
    }                                                                \
    if ((what == SHORT || what == KILL_SHORT) && c > 1)              \
        c /= 2;                                                      \
    ssize_t result = real(__VA_ARGS__);                              \
    if (what == KILL_AFTER || what == KILL_SHORT)                    \
        raise(SIGKILL);                                              \
    if (what == FAIL_AFTER) {                                        \
        errno = code;                                                \
        return -1;                                                   \
    }                                                                \
    return result

ssize_t read(int a, void *b, size_t c)
{
    REAL(ssize_t, read, int, void *, size_t);
    TRANSFER(read, 0, b, a, b, c);
}

ssize_t write(int a, const void *b, size_t c)
{
    REAL(ssize_t, write, int, const void *, size_t);
    TRANSFER(write, 1, b, a, b, c);
}

ssize_t pread64(int a, void *b, size_t c, off64_t d)
{
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    TRANSFER(pread64, 0, b, a, b, c, d);
}

ssize_t pwrite64(int a, const void *b, size_t c, off64_t d)
{
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    TRANSFER(pwrite64, 1, b, a, b, c, d);
}

static mode_t mode_of(int flags, va_list list)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
}

#define MAKES(flags) (((flags) & (O_CREAT | O_TRUNC)) != 0)

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...)                       \
    {                                                                \
        va_list list;                                                \
        va_start(list, flags);                                       \
        mode_t mode = mode_of(flags, list);                          \
        va_end(list);                                                \
        REAL(int, name, const char *, int, ...);                     \
        FINISH(int, -1, name, MAKES(flags), real(path, flags, mode)); \
    }

#define OPENAT(name)                                                 \
    int name(int folder, const char *path, int flags, ...)           \
    {                                                                \
        va_list list;                                                \
        va_start(list, flags);                                       \
        mode_t mode = mode_of(flags, list);                          \
        va_end(list);                                                \
        REAL(int, name, int, const char *, int, ...);                \
        FINISH(int, -1, name, MAKES(flags), real(folder, path, flags, mode)); \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* An error of close still closes the file, as in Linux. */
int close(int a)
{
    REAL(int, close, int);
    int what = fault("close", 0);
    int result = real(a);
    if (what == KILL_AFTER)
        raise(SIGKILL);
    if (what == FAIL || what == FAIL_AFTER) {
        errno = code;
        return -1;
    }
    return result;
}

int ioctl(int a, unsigned long b, ...)
{
    va_list list;
    va_start(list, b);
    void *c = va_arg(list, void *);
    va_end(list);
    REAL(int, ioctl, int, unsigned long, ...);
    FINISH(int, -1, ioctl, 0, real(a, b, c));
}

int fcntl64(int a, int b, ...)
{
    va_list list;
    va_start(list, b);
    void *c = va_arg(list, void *);
    va_end(list);
    REAL(int, fcntl64, int, int, ...);
    FINISH(int, -1, fcntl64, 0, real(a, b, c));
}

typedef const char *path;
typedef struct stat64 *status;
typedef const struct timespec *times;
typedef const struct iovec *vectors;

CALL2(int, -1, rename, 1, path, path)
CALL4(int, -1, renameat, 1, int, path, int, path)
CALL5(int, -1, renameat2, 1, int, path, int, path, unsigned)
CALL2(int, -1, link, 1, path, path)
CALL5(int, -1, linkat, 1, int, path, int, path, int)
CALL1(int, -1, unlink, 1, path)
CALL3(int, -1, unlinkat, 1, int, path, int)
CALL2(int, -1, symlink, 1, path, path)
CALL2(int, -1, mkdir, 1, path, mode_t)
CALL3(int, -1, mkdirat, 1, int, path, mode_t)
CALL2(int, -1, chmod, 1, path, mode_t)
CALL2(int, -1, fchmod, 1, int, mode_t)
CALL4(int, -1, fchmodat, 1, int, path, mode_t, int)
CALL3(int, -1, chown, 1, path, uid_t, gid_t)
CALL3(int, -1, fchown, 1, int, uid_t, gid_t)
CALL5(int, -1, fchownat, 1, int, path, uid_t, gid_t, int)
CALL1(int, -1, rmdir, 1, path)
CALL1(int, -1, fsync, 1, int)
CALL1(int, -1, fdatasync, 1, int)
CALL2(int, -1, ftruncate64, 1, int, off64_t)
CALL2(int, -1, truncate64, 1, path, off64_t)
CALL3(int, -1, posix_fallocate64, 1, int, off64_t, off64_t)
CALL4(int, -1, utimensat, 1, int, path, times, int)
CALL2(int, -1, futimens, 1, int, times)
CALL3(ssize_t, -1, writev, 1, int, vectors, int)
CALL3(ssize_t, -1, readv, 0, int, vectors, int)
CALL4(ssize_t, -1, sendfile64, 1, int, int, off64_t *, size_t)
CALL3(off64_t, -1, lseek64, 0, int, off64_t, int)
CALL2(int, -1, stat64, 0, path, status)
CALL2(int, -1, lstat64, 0, path, status)
CALL2(int, -1, fstat64, 0, int, status)
CALL4(int, -1, fstatat64, 0, int, path, status, int)
CALL2(int, -1, access, 0, path, int)
CALL4(int, -1, faccessat, 0, int, path, int, int)
CALL3(ssize_t, -1, readlink, 0, path, char *, size_t)
CALL4(ssize_t, -1, readlinkat, 0, int, path, char *, size_t)
CALL1(DIR *, NULL, opendir, 0, path)
CALL1(DIR *, NULL, fdopendir, 0, int)
CALL1(struct dirent64 *, NULL, readdir64, 0, DIR *)

ssize_t copy_file_range(int a, off64_t *b, int c, off64_t *d, size_t e, unsigned f)
{
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    FINISH(ssize_t, -1, copy_file_range, 1, real(a, b, c, d, e, f));
}

int closedir(DIR *a)
{
    REAL(int, closedir, DIR *);
    int what = fault("closedir", 0);
    int result = real(a);
    if (what == KILL_AFTER)
        raise(SIGKILL);
    if (what == FAIL || what == FAIL_AFTER) {
        errno = code;
        return -1;
    }
    return result;
}
