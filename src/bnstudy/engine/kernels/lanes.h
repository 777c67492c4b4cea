/* What the kernels share: vectors of LANES numbers of type REAL, one thread's part of the work, and memory. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define LANES 16

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL))));
typedef REAL loose __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
static inline vec load(const REAL *from) { return *(const loose *)from; }
static inline void store(REAL *to, vec value) { *(loose *)to = value; }

typedef __typeof__(_Generic((REAL)0, float: (int32_t)0, double: (int64_t)0)) whole;
typedef whole mask __attribute__((vector_size(LANES * sizeof(REAL)))); /* what a comparison gives: -1 or 0 */
/* The value where the mask is set, else 0. */
static inline vec keep(mask where, vec value) { return (vec)(where & (mask)value); }

/* The calling thread's number in its team, and which of `num` consecutive pieces are its own: low to high - 1. */
static inline int part(long num, long *low, long *high) {
    int thread = 0, threads = 1;
#ifdef _OPENMP
    thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    *low = num * thread / threads, *high = num * (thread + 1) / threads;
    return thread;
}

/* Zeros, to be freed. */
static inline void *room(size_t bytes) {
    void *found = aligned_alloc(128, (bytes + 127) / 128 * 128);
    if (!found) abort();
    return memset(found, 0, (bytes + 127) / 128 * 128);
}
