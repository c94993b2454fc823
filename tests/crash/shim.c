/* A disk that fails, and one that forgets: preloaded into a process by tests/crash.
 *
 * Files under CRASH_FOLDER are watched. What is written to them since their last successful fsync is undoable: before
 * each write the old bytes go to a file of the same name under CRASH_UNDO, which an fsync empties. After a SIGKILL the
 * harness puts the old bytes back, as a power cut would. CRASH_CONTROL is one byte that the harness changes while the
 * process runs: 0 works, 1 disk full, 2 fsync fails, 3 read-only.
 * SQLite's shared memory (-shm) is no file that has to survive, and is left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WORKS, FULL, FSYNC_FAILS, READ_ONLY };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *undo;
static volatile unsigned char *control;
static unsigned char always_works = WORKS;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void prepare(void) {
    static int done;
    if (done) return;
    done = 1;
    folder = getenv("CRASH_FOLDER");
    undo = getenv("CRASH_UNDO");
    const char *path = getenv("CRASH_CONTROL");
    control = &always_works;
    if (!path) return;
    int fd = REAL(open)(path, O_RDONLY);
    if (fd < 0) return;
    void *mapped = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) control = mapped;
    close(fd);
}

static int watched_path(const char *path) {
    prepare();
    if (!folder || !path) return 0;
    size_t length = strlen(folder), whole = strlen(path);
    if (strncmp(path, folder, length) != 0 || path[length] != '/') return 0;
    return whole < 4 || strcmp(path + whole - 4, "-shm") != 0;
}

/* The path of a watched descriptor, or 0. */
static int watched(int fd, char path[PATH_MAX]) {
    prepare();
    if (!folder) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return watched_path(path);
}

static void undo_path(const char *path, char out[PATH_MAX]) {
    const char *name = strrchr(path, '/');
    snprintf(out, PATH_MAX, "%s/%s", undo, name ? name + 1 : path);
}

/* Keep what lies at offset…offset+size, and how long the file is. */
static void keep(int fd, const char *path, off_t offset, size_t size) {
    struct stat status;
    if (!undo || fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return;
    size_t old = offset >= status.st_size ? 0 : (size_t)(status.st_size - offset);
    if (old > size) old = size;
    unsigned char *record = malloc(24 + old);
    if (!record) abort();
    uint64_t head[3] = {(uint64_t)offset, (uint64_t)status.st_size, old};
    memcpy(record, head, 24);
    size_t got = 0;
    if (old) {
        /* The descriptor may be open for writing alone. */
        int reader = REAL(open)(path, O_RDONLY);
        while (reader >= 0 && got < old) {
            ssize_t more = pread(reader, record + 24 + got, old - got, offset + (off_t)got);
            if (more <= 0) break;
            got += (size_t)more;
        }
        if (reader >= 0) close(reader);
    }
    char name[PATH_MAX];
    undo_path(path, name);
    int file = REAL(open)(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0) {
        if (REAL(write)(file, record, 24 + old) < 0) abort();
        close(file);
    }
    free(record);
}

static int refuses_writes(void) {
    if (*control == FULL) return errno = ENOSPC, 1;
    if (*control == READ_ONLY) return errno = EROFS, 1;
    return 0;
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset) {
    char path[PATH_MAX];
    if (!watched(fd, path)) return REAL(pwrite64)(fd, data, size, offset);
    if (refuses_writes()) return -1;
    pthread_mutex_lock(&lock);
    keep(fd, path, offset, size);
    ssize_t done = REAL(pwrite64)(fd, data, size, offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (fd <= 2 || !watched(fd, path)) return REAL(write)(fd, data, size);
    if (refuses_writes()) return -1;
    pthread_mutex_lock(&lock);
    struct stat status;
    int append = fcntl(fd, F_GETFL) & O_APPEND;
    off_t at = append && fstat(fd, &status) == 0 ? status.st_size : lseek(fd, 0, SEEK_CUR);
    if (at >= 0) keep(fd, path, at, size);
    ssize_t done = REAL(write)(fd, data, size);
    pthread_mutex_unlock(&lock);
    return done;
}

static int cut(int fd, off_t size) {
    char path[PATH_MAX];
    if (!watched(fd, path)) return REAL(ftruncate64)(fd, size);
    if (*control == READ_ONLY) return errno = EROFS, -1;
    pthread_mutex_lock(&lock);
    struct stat status;
    if (fstat(fd, &status) == 0) keep(fd, path, size, status.st_size > size ? (size_t)(status.st_size - size) : 0);
    int done = REAL(ftruncate64)(fd, size);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off_t size) { return cut(fd, size); }

int posix_fallocate(int fd, off_t offset, off_t size) {
    char path[PATH_MAX];
    if (watched(fd, path) && refuses_writes()) return errno;
    return REAL(posix_fallocate)(fd, offset, size);
}

static int settle(int fd, int (*call)(int)) {
    char path[PATH_MAX], name[PATH_MAX];
    if (!watched(fd, path)) return call(fd);
    if (*control == FSYNC_FAILS || *control == READ_ONLY) return errno = EIO, -1;
    pthread_mutex_lock(&lock);
    int done = call(fd);
    if (done == 0 && undo) {
        undo_path(path, name);
        unlinkat(AT_FDCWD, name, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return settle(fd, REAL(fsync)); }
int fdatasync(int fd) { return settle(fd, REAL(fdatasync)); }

#define OPEN(name)                                                                      \
    int name(const char *path, int flags, ...) {                                        \
        mode_t mode = 0;                                                                \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                          \
            va_list more;                                                               \
            va_start(more, flags);                                                      \
            mode = va_arg(more, mode_t);                                                \
            va_end(more);                                                               \
        }                                                                               \
        if ((flags & (O_WRONLY | O_RDWR)) && watched_path(path) && *control == READ_ONLY) \
            return errno = EROFS, -1;                                                   \
        return REAL(name)(path, flags, mode);                                           \
    }
OPEN(open)
OPEN(open64)

int unlink(const char *path) {
    if (watched_path(path)) {
        if (*control == READ_ONLY) return errno = EROFS, -1;
        if (undo) {
            char name[PATH_MAX];
            undo_path(path, name);
            unlinkat(AT_FDCWD, name, 0);
        }
    }
    return unlinkat(AT_FDCWD, path, 0);
}

int rename(const char *from, const char *to) {
    if (watched_path(from)) {
        if (*control == READ_ONLY) return errno = EROFS, -1;
        if (undo) {
            char was[PATH_MAX], is[PATH_MAX];
            undo_path(from, was);
            undo_path(to, is);
            unlinkat(AT_FDCWD, is, 0);
            REAL(rename)(was, is);
        }
    }
    return REAL(rename)(from, to);
}
