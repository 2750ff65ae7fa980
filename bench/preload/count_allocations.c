/* Counts what a process asks of the heap, from outside: loaded before the C library's allocator by LD_PRELOAD. The count
 * is the first eight bytes of the file that CARACAL_BENCH_ALLOCATIONS names. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static atomic_ulong before_start;
static atomic_ulong *count = &before_start;

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("CARACAL_BENCH_ALLOCATIONS");
  int file = path ? open(path, O_RDWR | O_CREAT, 0600) : -1;
  if (file < 0 || ftruncate(file, sizeof *count) != 0) return;
  void *page = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (page != MAP_FAILED) count = page;
}

static void one_more(void) { atomic_fetch_add_explicit(count, 1, memory_order_relaxed); }

void *malloc(size_t size) { one_more(); return __libc_malloc(size); }
void *calloc(size_t members, size_t size) { one_more(); return __libc_calloc(members, size); }
void *realloc(void *old, size_t size) { one_more(); return __libc_realloc(old, size); }
void *aligned_alloc(size_t alignment, size_t size) { one_more(); return __libc_memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
  one_more();
  void *memory = __libc_memalign(alignment, size);
  if (!memory) return ENOMEM;
  *out = memory;
  return 0;
}
