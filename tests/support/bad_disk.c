/* A disk that stops taking writes, for one folder of one program, while a file says so.

   Preloaded. With HOLDFAST_TEST_DISK=FOLDER: while FOLDER.fsync exists, flushes of files in FOLDER
   fail with EIO, as a dying disk's do; while FOLDER.readonly exists, whatever would change FOLDER
   fails with EROFS, as after the kernel has mounted it read-only for a fault. While FOLDER.once
   exists and says "ROUND N", the Nth write or flush of a file in FOLDER since it says so fails with
   EIO, that one alone; then it is gone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int bad(const char *how) {
    const char *folder = getenv("HOLDFAST_TEST_DISK");
    char flag[PATH_MAX];
    if (!folder) return 0;
    snprintf(flag, sizeof flag, "%s.%s", folder, how);
    int kept = errno;
    int found = syscall(SYS_faccessat, AT_FDCWD, flag, F_OK) == 0;
    errno = kept;
    return found;
}

static int inside(const char *path) {
    const char *folder = getenv("HOLDFAST_TEST_DISK");
    size_t length = folder ? strlen(folder) : 0;
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int named(int dir, const char *path) {
    char whole[PATH_MAX];
    if (path[0] == '/') return inside(path);
    if (dir != AT_FDCWD || !getcwd(whole, sizeof whole)) return 0;
    return inside(whole);
}

static int opened(int fd) {
    char link[64], path[PATH_MAX];
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0) return 0;
    path[length] = 0;
    return inside(path);
}

static int once(int fd) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int counted_round, counted;
    const char *folder = getenv("HOLDFAST_TEST_DISK");
    char flag[PATH_MAX], text[64];
    int kept = errno, round, wanted, fails = 0;
    if (!folder || !opened(fd)) return 0;
    snprintf(flag, sizeof flag, "%s.once", folder);
    pthread_mutex_lock(&lock);
    int file = syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        ssize_t length = syscall(SYS_read, file, text, sizeof text - 1);
        syscall(SYS_close, file);
        text[length > 0 ? length : 0] = 0;
        if (sscanf(text, "%d %d", &round, &wanted) == 2) {
            if (round != counted_round) { counted_round = round; counted = 0; }
            fails = ++counted == wanted;
            if (fails) syscall(SYS_unlinkat, AT_FDCWD, flag, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    errno = kept;
    return fails;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(code) do { errno = code; return -1; } while (0)
#define FLUSH(name) \
    int name(int fd) { \
        if ((bad("fsync") && opened(fd)) || once(fd)) FAIL(EIO); \
        if (bad("readonly") && opened(fd)) FAIL(EROFS); \
        return REAL(name)(fd); \
    }
#define CHANGE(type, name, arguments, passed) \
    type name arguments { \
        if (bad("readonly") && opened(fd)) FAIL(EROFS); \
        if (once(fd)) FAIL(EIO); \
        return REAL(name) passed; \
    }
#define RENAME(name, arguments, passed, dir) \
    int name arguments { \
        if (bad("readonly") && named(dir, path)) FAIL(EROFS); \
        return REAL(name) passed; \
    }
#define OPEN(name, dir, arguments, passed) \
    int name arguments { \
        mode_t mode = 0; \
        if (flags & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && bad("readonly") && named(dir, path)) FAIL(EROFS); \
        return REAL(name) passed; \
    }

FLUSH(fsync)
FLUSH(fdatasync)
CHANGE(ssize_t, write, (int fd, const void *from, size_t size), (fd, from, size))
CHANGE(ssize_t, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
CHANGE(ssize_t, pwrite64, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
CHANGE(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
CHANGE(int, ftruncate, (int fd, off_t size), (fd, size))
CHANGE(int, ftruncate64, (int fd, off64_t size), (fd, size))
RENAME(rename, (const char *path, const char *to), (path, to), AT_FDCWD)
RENAME(unlink, (const char *path), (path), AT_FDCWD)
RENAME(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD)
RENAME(mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), dir)
RENAME(unlinkat, (int dir, const char *path, int flags), (dir, path, flags), dir)
RENAME(renameat, (int dir, const char *path, int other, const char *to), (dir, path, other, to), dir)
OPEN(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPEN(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPEN(openat, dir, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
OPEN(openat64, dir, (int dir, const char *path, int flags, ...), (dir, path, flags, mode))
