/* Batch normalization, an addition and ReLU in one pass over memory, forward and backward.

   Arrays are rows of C channels (images in the layout channels_last), C a multiple of LANES. Compiled for one C and one
   type of number: STORED in memory, REAL in sums and products (see norm_relu.py). Threads take consecutive rows, and
   their sums are added in the order of the threads: one number of threads, one result. NaN passes through as in torch. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#define LANES 16
#define CV (C / LANES)
#define BLOCK 128 /* rows that are summed in REAL before they are added to a double */
#define UNROLL _Pragma("GCC unroll 8")
#define EACH(v) UNROLL for (int v = 0; v < CV; v++)

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL))));
typedef double wide __attribute__((vector_size(LANES * sizeof(double))));
typedef __typeof__(_Generic((REAL)0, float: (int32_t)0, double: (int64_t)0)) whole;
typedef whole mask __attribute__((vector_size(LANES * sizeof(REAL)))); /* what a comparison gives: -1 or 0 */
/* The value where the mask is set, else 0. */
static inline vec keep(mask where, vec value) { return (vec)(where & (mask)value); }

#ifdef BF16
typedef uint16_t stored;
typedef uint16_t half __attribute__((vector_size(LANES * 2)));
typedef uint16_t loose __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t bits __attribute__((vector_size(LANES * 4)));
static inline vec load(const stored *from) {
    return (vec)(__builtin_convertvector(*(const loose *)from, bits) << 16);
}
static inline void store(stored *to, vec value) { /* to the nearest, ties to even; NaN stays NaN */
    bits b = (bits)value, rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    *(loose *)to = __builtin_convertvector(((bits)(value == value) & rounded) | ((bits)(value != value) & 0x7fc0), half);
}
#else
typedef REAL stored;
typedef REAL loose __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
static inline vec load(const stored *from) { return *(const loose *)from; }
static inline void store(stored *to, vec value) { *(loose *)to = value; }
#endif
typedef REAL loose_real __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
static inline vec coefficient(const REAL *from) { return *(const loose_real *)from; }

static void part(long num, int *thread, long *low, long *high) {
    int threads = 1;
    *thread = 0;
#ifdef _OPENMP
    *thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    *low = num * *thread / threads, *high = num * (*thread + 1) / threads;
}

static void *room(size_t bytes) {
    void *found = aligned_alloc(128, (bytes + 127) / 128 * 128);
    if (!found) abort();
    return memset(found, 0, (bytes + 127) / 128 * 128);
}

static void add_up(const double *parts, double *sums, int threads) {
    for (int c = 0; c < 2 * C; c++) {
        sums[c] = 0;
        for (int t = 0; t < threads; t++) sums[c] += parts[t * 2 * C + c];
    }
}

/* Mean and biased variance of every channel: (C) each. */
void moments(const stored *x, double *mean, double *variance, long rows, int threads) {
    double *parts = room(threads * 2 * C * sizeof(double)), sums[2 * C];
    vec near[CV]; /* a value like the others, so that the squares do not cancel */
    EACH(v) near[v] = load(x + v * LANES);
#pragma omp parallel num_threads(threads)
    {
        int thread;
        long low, high;
        part(rows, &thread, &low, &high);
        wide sum[CV], square[CV];
        EACH(v) sum[v] = square[v] = (wide){0};
        for (long start = low; start < high; start += BLOCK) {
            vec s[CV], q[CV];
            EACH(v) s[v] = q[v] = (vec){0};
            for (long m = start; m < start + BLOCK && m < high; m++)
                EACH(v) {
                    vec d = load(x + m * C + v * LANES) - near[v];
                    s[v] += d, q[v] += d * d;
                }
            EACH(v) sum[v] += __builtin_convertvector(s[v], wide), square[v] += __builtin_convertvector(q[v], wide);
        }
        EACH(v) {
            memcpy(parts + thread * 2 * C + v * LANES, &sum[v], sizeof(wide));
            memcpy(parts + (thread * 2 + 1) * C + v * LANES, &square[v], sizeof(wide));
        }
    }
    add_up(parts, sums, threads);
    for (int c = 0; c < C; c++) {
        double apart = sums[c] / rows;
        mean[c] = near[c / LANES][c % LANES] + apart, variance[c] = sums[C + c] / rows - apart * apart;
    }
    free(parts);
}

/* y = max(0, scale * x + shift + added); `added` may be NULL. */
void forward(const stored *x, const stored *added, const REAL *scale, const REAL *shift, stored *y, long rows,
             int threads) {
#pragma omp parallel num_threads(threads)
    {
        int thread;
        long low, high;
        part(rows, &thread, &low, &high);
        vec a[CV], b[CV];
        EACH(v) a[v] = coefficient(scale + v * LANES), b[v] = coefficient(shift + v * LANES);
        for (long m = low; m < high; m++)
            EACH(v) {
                const long at = m * C + v * LANES;
                vec found = a[v] * load(x + at) + b[v];
                if (added) found += load(added + at);
                store(y + at, keep(~(found < 0), found));
            }
    }
}

/* By channel, with g the gradient where ReLU let it through, the sums of g and of g * x: (C) each. */
void sums(const stored *grad, const stored *y, const stored *x, double *sum, double *product, long rows, int threads) {
    double *parts = room(threads * 2 * C * sizeof(double)), found[2 * C];
#pragma omp parallel num_threads(threads)
    {
        int thread;
        long low, high;
        part(rows, &thread, &low, &high);
        wide sum_all[CV], product_all[CV];
        EACH(v) sum_all[v] = product_all[v] = (wide){0};
        for (long start = low; start < high; start += BLOCK) {
            vec s[CV], p[CV];
            EACH(v) s[v] = p[v] = (vec){0};
            for (long m = start; m < start + BLOCK && m < high; m++)
                EACH(v) {
                    const long at = m * C + v * LANES;
                    vec g = keep(~(load(y + at) <= 0), load(grad + at));
                    s[v] += g, p[v] += g * load(x + at);
                }
            EACH(v) {
                sum_all[v] += __builtin_convertvector(s[v], wide);
                product_all[v] += __builtin_convertvector(p[v], wide);
            }
        }
        EACH(v) {
            memcpy(parts + thread * 2 * C + v * LANES, &sum_all[v], sizeof(wide));
            memcpy(parts + (thread * 2 + 1) * C + v * LANES, &product_all[v], sizeof(wide));
        }
    }
    add_up(parts, found, threads);
    memcpy(sum, found, C * sizeof(double)), memcpy(product, found + C, C * sizeof(double));
    free(parts);
}

/* dx = a * g + b * x + d by channel, and g itself, the gradient of `added`; `dadded` may be NULL, and x with dx. */
void backward(const stored *grad, const stored *y, const stored *x, const REAL *a, const REAL *b, const REAL *d,
              stored *dx, stored *dadded, long rows, int threads) {
#pragma omp parallel num_threads(threads)
    {
        int thread;
        long low, high;
        part(rows, &thread, &low, &high);
        vec av[CV], bv[CV], dv[CV];
        if (dx)
            EACH(v) {
                av[v] = coefficient(a + v * LANES), bv[v] = coefficient(b + v * LANES);
                dv[v] = coefficient(d + v * LANES);
            }
        for (long m = low; m < high; m++)
            EACH(v) {
                const long at = m * C + v * LANES;
                vec g = keep(~(load(y + at) <= 0), load(grad + at));
                if (dx) store(dx + at, av[v] * g + bv[v] * load(x + at) + dv[v]);
                if (dadded) store(dadded + at, g);
            }
    }
}
