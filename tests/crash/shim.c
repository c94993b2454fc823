/* A disk that fails and forgets, and a clock that is set: preloaded into a process by tests/crash.
 *
 * Files under CRASH_FOLDER are watched. For each, CRASH_UNDO has what a disk would have: <inode>.shadow, the bytes that
 * a successful fsync brought there, and <inode>.pending, the writes since. Directory changes are in `changes`; what was
 * unlinked or replaced stays linked as <inode>.grave until its going is durable. After a SIGKILL the harness makes of
 * these what a power cut could have left (broken_disk.py).
 *
 * As on Linux, an fsync that fails forgets: the pages count as clean, stay to be read, and no later fsync brings them
 * to the disk unless they are written again. Directory changes keep their order, as on a journalling file system;
 * fsync of the directory makes all of them durable, fsync of a file those up to its own.
 *
 * CRASH_CONTROL is a page that the harness changes while the process runs; see struct control.
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
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { WORKS, FULL, FSYNC_FAILS, READ_ONLY, NO_GROWTH };
enum { WRITE, TRUNCATE };
enum { DESCRIPTORS = 1024, FILES = 512, CHANGES = 64, PAGE = 4096 };

struct control {
    int64_t fault;
    int64_t ahead_ns;  /* of CLOCK_REALTIME */
    int64_t stopped_ns; /* not 0: the clock stands there */
};

struct range {
    uint64_t offset, length, kind;
};

struct file {
    ino_t inode; /* 0: free */
    int pending, shadow;
    struct range *ranges;
    size_t count, room;
};

struct descriptor {
    dev_t device;
    ino_t inode;
    struct file *file; /* 0: not watched */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *folder, *undo;
static size_t folder_length;
static struct control none;
static volatile struct control *control = &none;
static struct file files[FILES];
static struct descriptor descriptors[DESCRIPTORS];
static struct {
    char line[2 * PATH_MAX + 64];
    ino_t inode, replaced;
} changes[CHANGES];
static int change_count;

static __typeof__(&open) real_open;
static __typeof__(&pwrite64) real_pwrite;
static __typeof__(&write) real_write;
static __typeof__(&ftruncate64) real_truncate;
static __typeof__(&fsync) real_fsync, real_fdatasync;
static __typeof__(&posix_fallocate) real_fallocate;
static __typeof__(&rename) real_rename;
static __typeof__(&clock_gettime) real_clock;

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void prepare(void) {
    if (real_clock) return;
    real_open = real("open64");
    real_pwrite = real("pwrite64");
    real_write = real("write");
    real_truncate = real("ftruncate64");
    real_fsync = real("fsync");
    real_fdatasync = real("fdatasync");
    real_fallocate = real("posix_fallocate");
    real_rename = real("rename");
    real_clock = real("clock_gettime");
    const char *path = getenv("CRASH_CONTROL");
    undo = getenv("CRASH_UNDO");
    if (!path || !undo) return;
    int fd = real_open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) abort();
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) abort();
    control = mapped;
    close(fd);
    folder = getenv("CRASH_FOLDER");
    folder_length = folder ? strlen(folder) : 0;
}

/* -- what is watched ------------------------------------------------------------------------------------------- */

static int watched_path(const char *path) {
    prepare();
    if (!folder || !path) return 0;
    size_t whole = strlen(path);
    if (strncmp(path, folder, folder_length) != 0 || path[folder_length] != '/') return 0;
    return whole < 4 || strcmp(path + whole - 4, "-shm") != 0;
}

static void undo_path(char out[PATH_MAX], ino_t inode, const char *what) {
    snprintf(out, PATH_MAX, "%s/%llu.%s", undo, (unsigned long long)inode, what);
}

static void put(int fd, const void *data, size_t size, off_t offset) {
    while (size) {
        ssize_t done = real_pwrite(fd, data, size, offset);
        if (done <= 0) abort();
        data = (const char *)data + done;
        size -= (size_t)done;
        offset += done;
    }
}

static void copy(int from, int to, off_t offset, off_t end) {
    static char buffer[1 << 16];
    while (offset < end) {
        size_t size = (size_t)(end - offset) < sizeof buffer ? (size_t)(end - offset) : sizeof buffer;
        ssize_t got = pread(from, buffer, size, offset);
        if (got <= 0) return;
        put(to, buffer, (size_t)got, offset);
        offset += got;
    }
}

static int reader_of(int fd) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return real_open(path, O_RDONLY | O_CLOEXEC);
}

static void add_range(struct file *file, uint64_t offset, uint64_t length, uint64_t kind) {
    if (file->count && kind == WRITE) {
        struct range *last = &file->ranges[file->count - 1];
        if (last->kind == WRITE && last->offset + last->length == offset) {
            last->length += length;
            return;
        }
    }
    if (file->count == file->room) {
        file->room = file->room ? 2 * file->room : 64;
        file->ranges = realloc(file->ranges, file->room * sizeof *file->ranges);
        if (!file->ranges) abort();
    }
    file->ranges[file->count++] = (struct range){offset, length, kind};
}

/* The books about an inode; what a process before this one left of them is taken over. */
static struct file *books(int fd, ino_t inode) {
    struct file *file = NULL;
    for (int at = 0; at < FILES; at++) {
        if (files[at].inode == inode) return &files[at];
        if (!file && !files[at].inode) file = &files[at];
    }
    if (!file) abort();
    char path[PATH_MAX];
    undo_path(path, inode, "shadow");
    int fresh = access(path, F_OK) != 0;
    file->shadow = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    undo_path(path, inode, "pending");
    file->pending = real_open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file->shadow < 0 || file->pending < 0) abort();
    file->inode = inode;
    file->count = 0;
    if (fresh) { /* was there before anybody watched */
        int reader = reader_of(fd);
        if (reader >= 0) {
            copy(reader, file->shadow, 0, INT64_MAX);
            close(reader);
        }
    }
    struct range head;
    off_t at = 0;
    while (pread(file->pending, &head, sizeof head, at) == sizeof head) {
        add_range(file, head.offset, head.length, head.kind);
        at += (off_t)sizeof head + (head.kind == WRITE ? (off_t)head.length : 0);
    }
    return file;
}

static void forget(ino_t inode) {
    for (int at = 0; at < FILES; at++)
        if (files[at].inode == inode) {
            close(files[at].pending);
            close(files[at].shadow);
            files[at].inode = 0;
            for (int fd = 0; fd < DESCRIPTORS; fd++)
                if (descriptors[fd].file == &files[at]) descriptors[fd] = (struct descriptor){0};
        }
    static const char *const kinds[] = {"grave", "pending", "shadow"};
    for (int kind = 0; kind < 3; kind++) {
        char path[PATH_MAX];
        undo_path(path, inode, kinds[kind]);
        unlinkat(AT_FDCWD, path, 0);
    }
}

/* The books about what a descriptor has open, or 0. With the lock held. */
static struct file *of(int fd, struct stat *status) {
    if (!folder || fd < 0 || fd >= DESCRIPTORS || fstat(fd, status) != 0 || !S_ISREG(status->st_mode)) return NULL;
    struct descriptor *known = &descriptors[fd];
    if (known->inode == status->st_ino && known->device == status->st_dev) return known->file;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    *known = (struct descriptor){status->st_dev, status->st_ino, NULL};
    if (watched_path(path)) known->file = books(fd, status->st_ino);
    return known->file;
}

static void note(struct file *file, uint64_t offset, const void *data, uint64_t length, uint64_t kind) {
    struct range head = {offset, length, kind};
    if (real_write(file->pending, &head, sizeof head) != sizeof head) abort();
    if (kind == WRITE && real_write(file->pending, data, length) != (ssize_t)length) abort();
    add_range(file, offset, length, kind);
}

/* -- directory changes ----------------------------------------------------------------------------------------- */

static void write_changes(void) {
    char path[PATH_MAX], fresh[PATH_MAX]; /* in one step: a kill may come at any moment */
    snprintf(path, sizeof path, "%s/changes", undo);
    snprintf(fresh, sizeof fresh, "%s/changes.new", undo);
    int fd = real_open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) abort();
    for (int at = 0; at < change_count; at++)
        if (real_write(fd, changes[at].line, strlen(changes[at].line)) < 0) abort();
    close(fd);
    if (real_rename(fresh, path) != 0) abort();
}

/* The first so many changes are durable. */
static void settle_changes(int count) {
    if (!count) return;
    for (int at = 0; at < count; at++)
        if (changes[at].replaced) forget(changes[at].replaced);
    change_count -= count;
    memmove(changes, changes + count, (size_t)change_count * sizeof *changes);
    write_changes();
}

static void change(const char *what, const char *from, const char *to, ino_t inode, ino_t replaced) {
    if (change_count == CHANGES) settle_changes(CHANGES / 2); /* the file system commits by itself, now and then */
    snprintf(changes[change_count].line, sizeof changes[0].line, "%s\t%s\t%s\t%llu\n", what, from, to,
             (unsigned long long)replaced);
    changes[change_count].inode = inode;
    changes[change_count].replaced = replaced;
    change_count++;
    write_changes();
}

/* The last change, noted before it was made, was not made. */
static void take_back(void) {
    int reason = errno;
    change_count--;
    write_changes();
    errno = reason;
}

/* Keep a file that is about to lose its name; its inode, or 0. */
static ino_t bury(const char *path) {
    struct stat status;
    char grave[PATH_MAX];
    if (lstat(path, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    undo_path(grave, status.st_ino, "grave");
    unlinkat(AT_FDCWD, grave, 0);
    if (link(path, grave) != 0) abort();
    return status.st_ino;
}

/* -- writing --------------------------------------------------------------------------------------------------- */

static int refuses(off_t end, off_t size) {
    int64_t fault = control->fault;
    if (fault == FULL || (fault == NO_GROWTH && end > size)) return errno = ENOSPC, 1;
    if (fault == READ_ONLY) return errno = EROFS, 1;
    return 0;
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset) {
    prepare();
    if (!folder) return real_pwrite(fd, data, size, offset);
    struct stat status;
    pthread_mutex_lock(&lock);
    struct file *file = of(fd, &status);
    ssize_t done = -1;
    if (!file) {
        pthread_mutex_unlock(&lock);
        return real_pwrite(fd, data, size, offset);
    }
    if (control->fault == NO_GROWTH && offset < status.st_size && offset + (off_t)size > status.st_size)
        size = (size_t)(status.st_size - offset); /* a short write, as far as there is room */
    if (!refuses(offset + (off_t)size, status.st_size)) {
        done = real_pwrite(fd, data, size, offset);
        if (done > 0) note(file, (uint64_t)offset, data, (uint64_t)done, WRITE);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) { return write_at(fd, data, size, offset); }

ssize_t write(int fd, const void *data, size_t size) {
    prepare();
    if (!folder || fd <= 2) return real_write(fd, data, size);
    struct stat status;
    pthread_mutex_lock(&lock);
    struct file *file = of(fd, &status);
    if (!file) {
        pthread_mutex_unlock(&lock);
        return real_write(fd, data, size);
    }
    ssize_t done = -1;
    off_t at = fcntl(fd, F_GETFL) & O_APPEND ? status.st_size : lseek(fd, 0, SEEK_CUR);
    if (!refuses(at + (off_t)size, status.st_size)) {
        done = real_write(fd, data, size);
        if (done > 0) note(file, (uint64_t)at, data, (uint64_t)done, WRITE);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

static int cut(int fd, off_t size) {
    prepare();
    struct stat status;
    pthread_mutex_lock(&lock);
    struct file *file = of(fd, &status);
    int done = -1;
    if (file && control->fault == READ_ONLY) {
        errno = EROFS;
    } else {
        done = real_truncate(fd, size);
        if (done == 0 && file) note(file, (uint64_t)size, NULL, 0, TRUNCATE);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t size) { return cut(fd, size); }
int ftruncate64(int fd, off_t size) { return cut(fd, size); }

int posix_fallocate(int fd, off_t offset, off_t size) {
    prepare();
    struct stat status;
    pthread_mutex_lock(&lock);
    int refused = of(fd, &status) && refuses(offset + size, status.st_size);
    pthread_mutex_unlock(&lock);
    return refused ? errno : real_fallocate(fd, offset, size);
}

/* -- bringing it to the disk ----------------------------------------------------------------------------------- */

static void clean(struct file *file) {
    file->count = 0;
    if (real_truncate(file->pending, 0) != 0) abort();
}

static void make_durable(int fd, struct file *file, off_t size) {
    int reader = reader_of(fd);
    for (size_t at = 0; at < file->count; at++) {
        struct range *each = &file->ranges[at];
        if (each->kind == TRUNCATE) {
            struct stat shadow;
            if (fstat(file->shadow, &shadow) == 0 && shadow.st_size > (off_t)each->offset)
                if (real_truncate(file->shadow, (off_t)each->offset) != 0) abort();
            continue;
        }
        off_t first = (off_t)each->offset / PAGE * PAGE; /* pages go whole */
        off_t end = ((off_t)(each->offset + each->length) + PAGE - 1) / PAGE * PAGE;
        if (reader < 0) abort();
        copy(reader, file->shadow, first, end < size ? end : size);
    }
    if (reader >= 0) close(reader);
    if (real_truncate(file->shadow, size) != 0) abort();
    clean(file);
}

static int settle(int fd, int (*call)(int)) {
    prepare();
    if (!folder) return call(fd);
    struct stat status;
    pthread_mutex_lock(&lock);
    int done = -1, count = 0;
    struct file *file = of(fd, &status);
    if (file) {
        if (control->fault == FSYNC_FAILS || control->fault == READ_ONLY) {
            clean(file);
            errno = EIO;
        } else if ((done = call(fd)) == 0) {
            make_durable(fd, file, status.st_size);
            for (int at = 0; at < change_count; at++)
                if (changes[at].inode == status.st_ino) count = at + 1;
            settle_changes(count);
        }
        pthread_mutex_unlock(&lock);
        return done;
    }
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    if (strcmp(path, folder) == 0) {
        if (control->fault == FSYNC_FAILS || control->fault == READ_ONLY)
            errno = EIO;
        else if ((done = call(fd)) == 0)
            settle_changes(change_count);
    } else {
        done = call(fd);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return prepare(), settle(fd, real_fsync); }
int fdatasync(int fd) { return prepare(), settle(fd, real_fdatasync); }

/* -- names ----------------------------------------------------------------------------------------------------- */

static int open_watched(const char *path, int flags, mode_t mode) {
    struct stat status;
    pthread_mutex_lock(&lock);
    int existed = lstat(path, &status) == 0, fd = -1;
    if ((flags & (O_WRONLY | O_RDWR)) && control->fault == READ_ONLY) {
        errno = EROFS;
    } else if (!existed && (flags & O_CREAT) && (control->fault == FULL || control->fault == NO_GROWTH)) {
        errno = ENOSPC;
    } else if ((fd = real_open(path, flags, mode)) >= 0 && (flags & (O_WRONLY | O_RDWR))) {
        struct file *file = of(fd, &status);
        if (file && !existed) change("create", path, "", status.st_ino, 0);
        if (file && existed && (flags & O_TRUNC)) note(file, 0, NULL, 0, TRUNCATE);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        mode_t mode = 0;                                                   \
        if (flags & (O_CREAT | __O_TMPFILE)) {                             \
            va_list more;                                                  \
            va_start(more, flags);                                         \
            mode = va_arg(more, mode_t);                                   \
            va_end(more);                                                  \
        }                                                                  \
        if (watched_path(path)) return open_watched(path, flags, mode);    \
        return real_open(path, flags, mode);                               \
    }
OPEN(open)
OPEN(open64)

int unlink(const char *path) {
    if (!watched_path(path)) return unlinkat(AT_FDCWD, path, 0);
    if (control->fault == READ_ONLY) return errno = EROFS, -1;
    pthread_mutex_lock(&lock);
    ino_t gone = bury(path);
    if (gone) change("unlink", path, "", 0, gone);
    int done = unlinkat(AT_FDCWD, path, 0);
    if (done != 0 && gone) take_back();
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    if (!watched_path(from)) return real_rename(from, to);
    if (control->fault == READ_ONLY) return errno = EROFS, -1;
    pthread_mutex_lock(&lock);
    struct stat status;
    ino_t replaced = bury(to);
    int known = lstat(from, &status) == 0;
    if (known) change("rename", from, to, status.st_ino, replaced);
    int done = real_rename(from, to);
    if (done != 0 && known) take_back();
    pthread_mutex_unlock(&lock);
    return done;
}

/* -- the clock ------------------------------------------------------------------------------------------------- */

int clock_gettime(clockid_t which, struct timespec *now) {
    prepare();
    int done = real_clock(which, now);
    if (done == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        int64_t shown = control->stopped_ns;
        if (!shown) shown = (int64_t)now->tv_sec * 1000000000 + now->tv_nsec + control->ahead_ns;
        now->tv_sec = shown / 1000000000;
        now->tv_nsec = shown % 1000000000;
    }
    return done;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *out, void *zone) {
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}
