/* What the kernels of wide convolutions share: memory for numbers, products of matrices, loops that are written out. */

#include "lanes.h"

#define UNROLL _Pragma("GCC unroll 16")
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)
#define INLINE static inline __attribute__((always_inline))
#define SHARED static __attribute__((noinline)) /* compiled once */

/* Of a product of matrices that has COUT columns registers hold the sums of ROWS rows and VB vectors: LANES, half of what
   there are. Each number that is read is multiplied ROWS or VB times. VB divides the vectors of COUT, and ROWS LANES. */
#define VO (COUT / LANES)
#define VB (LANES == 16 && VO % 4 == 0 ? 4 : VO % 2 == 0 ? 2 : 1)
#define ROWS (LANES / VB)

static inline REAL *numbers(long count) { return (REAL *)room(count * sizeof(REAL)); }
static inline REAL *unset(long count) { return (REAL *)space(count * sizeof(REAL)); }

/* As `stored` would have it. */
static inline vec rounded(vec value) {
    stored here[LANES];
    write(here, value);
    return read(here);
}

/* max(0, value), or NaN; and a gradient where `y`, what came of it, is not 0. NULL: there was no ReLU. */
static inline vec rectified(vec value) { return keep(~(value < 0), value); }
static inline vec passed(const stored *gradient, const stored *y) {
    return y ? keep(~(read(y) <= 0), read(gradient)) : read(gradient);
}

/* The first of `threads` sums of `size` numbers becomes the sum of all, in their order. */
static inline void add_up(REAL *totals, long size, int threads) {
    for (int t = 1; t < threads; t++)
        for (long k = 0; k < size; k += LANES) store(totals + k, load(totals + k) + load(totals + t * size + k));
}
