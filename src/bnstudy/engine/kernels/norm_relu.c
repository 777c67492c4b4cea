/* Batch normalization, an addition and ReLU in one pass over memory, forward and backward.

   Arrays are rows of C channels (images in the layout channels_last), C a multiple of LANES. Compiled for one C and one
   type of number: STORED in memory, REAL in sums and products (see norm_relu.py). Threads take consecutive rows, and
   their sums are added in the order of the threads: one number of threads, one result. NaN passes through as in torch. */

#include "lanes.h"

#define CV (C / LANES)
#define BLOCK 128 /* rows that are summed in REAL before they are added to a double */
#define UNROLL _Pragma("GCC unroll 8")
#define EACH(v) UNROLL for (int v = 0; v < CV; v++)

typedef double wide __attribute__((vector_size(LANES * sizeof(double))));
/* A row as it is stored: in bf16 the upper half of a float. */
#ifdef BF16
typedef uint16_t stored;
typedef uint16_t half __attribute__((vector_size(LANES * 2)));
typedef uint16_t loose_half __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t bits __attribute__((vector_size(LANES * 4)));
static inline vec read(const stored *from) {
    return (vec)(__builtin_convertvector(*(const loose_half *)from, bits) << 16);
}
static inline void write(stored *to, vec value) { /* to the nearest, ties to even; NaN stays NaN */
    bits b = (bits)value, rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    *(loose_half *)to =
        __builtin_convertvector(((bits)(value == value) & rounded) | ((bits)(value != value) & 0x7fc0), half);
}
#else
typedef REAL stored;
static inline vec read(const stored *from) { return load(from); }
static inline void write(stored *to, vec value) { store(to, value); }
#endif

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
    EACH(v) near[v] = read(x + v * LANES);
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(rows, &low, &high);
        wide sum[CV], square[CV];
        EACH(v) sum[v] = square[v] = (wide){0};
        for (long start = low; start < high; start += BLOCK) {
            vec s[CV], q[CV];
            EACH(v) s[v] = q[v] = (vec){0};
            for (long m = start; m < start + BLOCK && m < high; m++)
                EACH(v) {
                    vec d = read(x + m * C + v * LANES) - near[v];
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
        long low, high;
        part(rows, &low, &high);
        vec a[CV], b[CV];
        EACH(v) a[v] = load(scale + v * LANES), b[v] = load(shift + v * LANES);
        for (long m = low; m < high; m++)
            EACH(v) {
                const long at = m * C + v * LANES;
                vec found = a[v] * read(x + at) + b[v];
                if (added) found += read(added + at);
                write(y + at, keep(~(found < 0), found));
            }
    }
}

/* By channel, with g the gradient where ReLU let it through, the sums of g and of g * x: (C) each. */
void sums(const stored *grad, const stored *y, const stored *x, double *sum, double *product, long rows, int threads) {
    double *parts = room(threads * 2 * C * sizeof(double)), found[2 * C];
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(rows, &low, &high);
        wide sum_all[CV], product_all[CV];
        EACH(v) sum_all[v] = product_all[v] = (wide){0};
        for (long start = low; start < high; start += BLOCK) {
            vec s[CV], p[CV];
            EACH(v) s[v] = p[v] = (vec){0};
            for (long m = start; m < start + BLOCK && m < high; m++)
                EACH(v) {
                    const long at = m * C + v * LANES;
                    vec g = keep(~(read(y + at) <= 0), read(grad + at));
                    s[v] += g, p[v] += g * read(x + at);
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
        long low, high;
        part(rows, &low, &high);
        vec av[CV], bv[CV], dv[CV];
        if (dx)
            EACH(v) {
                av[v] = load(a + v * LANES), bv[v] = load(b + v * LANES);
                dv[v] = load(d + v * LANES);
            }
        for (long m = low; m < high; m++)
            EACH(v) {
                const long at = m * C + v * LANES;
                vec g = keep(~(read(y + at) <= 0), read(grad + at));
                if (dx) write(dx + at, av[v] * g + bv[v] * read(x + at) + dv[v]);
                if (dadded) write(dadded + at, g);
            }
    }
}
