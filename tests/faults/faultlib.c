/* Loaded before a command's libraries: the Nth call that writes below FAULT_PREFIX fails, and the wall clock jumps.
 *
 *   FAULT_PREFIX  folders, by colons          FAULT_AT    which call fails, from 1; 0 or none: none
 *   FAULT_MODE    once | on (and all after)   FAULT_ERRNO the error's number (ENOSPC where it is not given)
 *   FAULT_LOG     file that gets a line for each such call
 *   FAULT_CLOCK   file with seconds to add to CLOCK_REALTIME, read again at each call
 */
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
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
  const char *prefixes = getenv("FAULT_PREFIX");
  while (prefixes && *prefixes) {
    size_t length = strcspn(prefixes, ":");
    if (!strncmp(path, prefixes, length)) return 1;
    prefixes += length + (prefixes[length] == ':');
  }
  return 0;
}

static int fails(const char *what, const char *path) {
  static int calls;
  if (!below(path)) return 0;
  int number = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
  if (getenv("FAULT_LOG")) {
    char line[PATH_MAX + 40];
    int length = snprintf(line, sizeof line, "%s %s\n", what, path);
    int log = syscall(SYS_openat, AT_FDCWD, getenv("FAULT_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (syscall(SYS_write, log, line, length) < 0) abort();
    syscall(SYS_close, log);
  }
  int at = getenv("FAULT_AT") ? atoi(getenv("FAULT_AT")) : 0;
  const char *mode = getenv("FAULT_MODE");
  if (!at || number < at || (number > at && (!mode || strcmp(mode, "on")))) return 0;
  errno = getenv("FAULT_ERRNO") ? atoi(getenv("FAULT_ERRNO")) : ENOSPC;
  return 1;
}

static const char *of_fd(int fd, char *place) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, place, PATH_MAX - 1);
  place[length > 0 ? length : 0] = 0;
  return place;
}

static const char *at_folder(int folder, const char *path, char *place) {
  if (*path == '/') return path;
  if (folder == AT_FDCWD) { if (!getcwd(place, PATH_MAX)) *place = 0; } else of_fd(folder, place);
  strncat(place, "/", PATH_MAX - strlen(place) - 1);
  strncat(place, path, PATH_MAX - strlen(place) - 1);
  return place;
}

static int creates(int flags) { return flags & (O_CREAT | O_TRUNC); }

#define OPEN(name)                                                                            \
  int name(const char *path, int flags, ...) {                                                \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more);    \
    char place[PATH_MAX];                                                                     \
    if (creates(flags) && fails("open", at_folder(AT_FDCWD, path, place))) return -1;         \
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode);     \
  }
#define OPENAT(name)                                                                          \
  int name(int folder, const char *path, int flags, ...) {                                    \
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more);    \
    char place[PATH_MAX];                                                                     \
    if (creates(flags) && fails("open", at_folder(folder, path, place))) return -1;           \
    return ((int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name))(folder, path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define ON_FD(type, name, parameters, arguments, fd)  \
  type name parameters {                              \
    char place[PATH_MAX];                             \
    if (fails(#name, of_fd(fd, place))) return -1;    \
    return REAL(name) arguments;                      \
  }
ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), fd)
ON_FD(ssize_t, writev, (int fd, const struct iovec *data, int count), (fd, data, count), fd)
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd)
ON_FD(int, fsync, (int fd), (fd), fd)
ON_FD(int, fdatasync, (int fd), (fd), fd)
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size), fd)
ssize_t sendfile64(int out, int in, off64_t *at, size_t size) {
  char place[PATH_MAX];
  if (fails("sendfile", of_fd(out, place))) return -1;
  return ((ssize_t (*)(int, int, off64_t *, size_t))dlsym(RTLD_NEXT, "sendfile64"))(out, in, at, size);
}

#define ON_PATH(name, parameters, arguments, folder, path)                   \
  int name parameters {                                                      \
    char place[PATH_MAX];                                                    \
    if (fails(#name, at_folder(folder, path, place))) return -1;             \
    return REAL(name) arguments;                                             \
  }
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
ON_PATH(mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), folder, path)
ON_PATH(rename, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_PATH(renameat, (int a, const char *from, int folder, const char *path), (a, from, folder, path), folder, path)
ON_PATH(link, (const char *from, const char *path), (from, path), AT_FDCWD, path)
ON_PATH(linkat, (int a, const char *from, int folder, const char *path, int flags), (a, from, folder, path, flags), folder, path)
ON_PATH(symlink, (const char *to, const char *path), (to, path), AT_FDCWD, path)

static long jump(void) {
  const char *file = getenv("FAULT_CLOCK");
  char text[32] = "";
  if (!file) return 0;
  int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDONLY, 0);
  if (fd < 0) return 0;
  if (syscall(SYS_read, fd, text, sizeof text - 1) < 0) text[0] = 0;
  syscall(SYS_close, fd);
  return atol(text);
}

int clock_gettime(clockid_t which, struct timespec *now) {
  int answer = syscall(SYS_clock_gettime, which, now);
  if (!answer && which == CLOCK_REALTIME) now->tv_sec += jump();
  return answer;
}
time_t time(time_t *where) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (where) *where = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec real;
  clock_gettime(CLOCK_REALTIME, &real);
  now->tv_sec = real.tv_sec;
  now->tv_usec = real.tv_nsec / 1000;
  return 0;
}
