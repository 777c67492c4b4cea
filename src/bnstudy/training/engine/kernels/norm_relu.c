/* Batch normalization, an addition and ReLU in one pass over memory, forward and backward.

   Arrays are rows of C channels (images in the layout channels_last), C a multiple of LANES. Compiled for one C and one
   type of number: `stored` in memory, REAL in sums and products (see lanes.h). Threads take consecutive rows, and
   their sums are added in the order of the threads: one number of threads, one result. NaN passes through as in torch. */

#include "lanes.h"

#define CV (C / LANES)
#define BLOCK (C <= 32 ? 128 : 4096 / C) /* rows that are summed in REAL before they are added to a double: 16 KB */
#define UNROLL _Pragma("GCC unroll 8")
#define EACH(v) UNROLL for (int v = 0; v < CV; v++)

typedef double wide __attribute__((vector_size(LANES * sizeof(double))));

static void add_up(const double *parts, double *sums, int threads) {
    for (int c = 0; c < 2 * C; c++) {
        sums[c] = 0;
        for (int t = 0; t < threads; t++) sums[c] += parts[t * 2 * C + c];
    }
}

/* Mean and biased variance of one channel, value by value. */
static void moments_one(const stored *x, int c, double *mean, double *variance, long rows) {
    double sum = 0, rest = 0, square = 0;
    for (long m = 0; m < rows; m++) sum += read(x + m * C + c / LANES * LANES)[c % LANES];
    for (long m = 0; m < rows; m++) {
        const double d = read(x + m * C + c / LANES * LANES)[c % LANES] - sum / rows;
        rest += d, square += d * d;
    }
    *mean = (sum + rest) / rows, *variance = (square - rest * rest / rows) / rows;
}

/* Mean and biased variance of every channel: (C) each. */
void moments(const stored *x, double *mean, double *variance, long rows, int threads) {
    double *parts = room(threads * 2 * C * sizeof(double)), m2[C];
    long *counts = room(threads * sizeof(long));
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(rows, &low, &high);
        wide mean_all[CV], m2_all[CV];
        EACH(v) mean_all[v] = m2_all[v] = (wide){0};
        for (long start = low; start < high; start += BLOCK) {
            const long end = start + BLOCK < high ? start + BLOCK : high;
            const double num = end - start, before = start - low, weight = num / (before + num);
            vec near[CV], s[CV], q[CV];
            EACH(v) near[v] = read(x + start * C + v * LANES), s[v] = q[v] = (vec){0};
            for (long m = start; m < end; m++) EACH(v) s[v] += read(x + m * C + v * LANES) - near[v];
            EACH(v) near[v] += s[v] / (REAL)num, s[v] = (vec){0};
            for (long m = start; m < end; m++)
                EACH(v) {
                    vec d = read(x + m * C + v * LANES) - near[v];
                    s[v] += d, q[v] += d * d;
                }
            EACH(v) { /* as `combine` */
                const wide rest = __builtin_convertvector(s[v], wide) / num;
                const wide apart = __builtin_convertvector(near[v], wide) + rest - mean_all[v];
                mean_all[v] += apart * weight;
                m2_all[v] += __builtin_convertvector(q[v], wide) - rest * rest * num;
                if (before > 0) m2_all[v] += apart * apart * (before * weight);
            }
        }
        counts[thread] = high - low;
        EACH(v) {
            memcpy(parts + thread * 2 * C + v * LANES, &mean_all[v], sizeof(wide));
            memcpy(parts + (thread * 2 + 1) * C + v * LANES, &m2_all[v], sizeof(wide));
        }
    }
    for (int c = 0; c < C; c++) {
        long count = 0;
        for (int t = 0; t < threads; t++) {
            if (!counts[t]) continue;
            combine(counts[t], parts[t * 2 * C + c], parts[(t * 2 + 1) * C + c], count, &mean[c], &m2[c]);
            count += counts[t];
        }
        variance[c] = m2[c] / rows;
        if (doubtful(variance[c])) moments_one(x, c, &mean[c], &variance[c], rows);
    }
    free(parts), free(counts);
}

/* y = max(0, scale * (x - centre) + shift + added); `added` may be NULL. */
void forward(const stored *x, const stored *added, const REAL *centre, const REAL *scale, const REAL *shift, stored *y,
             long rows, int threads) {
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(rows, &low, &high);
        vec a[CV], b[CV], o[CV];
        EACH(v) a[v] = load(scale + v * LANES), b[v] = load(shift + v * LANES), o[v] = load(centre + v * LANES);
        for (long m = low; m < high; m++)
            EACH(v) {
                const long at = m * C + v * LANES;
                vec found = a[v] * (read(x + at) - o[v]) + b[v];
                if (added) found += read(added + at);
                write(y + at, keep(~(found < 0), found));
            }
    }
}

/* By channel, with g the gradient where ReLU let it through, the sums of g and of g * (x - centre): (C) each. */
void sums(const stored *grad, const stored *y, const stored *x, const REAL *centre, double *sum, double *product,
          long rows, int threads) {
    double *parts = room(threads * 2 * C * sizeof(double)), found[2 * C];
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(rows, &low, &high);
        wide sum_all[CV], product_all[CV];
        vec o[CV];
        EACH(v) sum_all[v] = product_all[v] = (wide){0}, o[v] = load(centre + v * LANES);
        for (long start = low; start < high; start += BLOCK) {
            vec s[CV], p[CV];
            EACH(v) s[v] = p[v] = (vec){0};
            for (long m = start; m < start + BLOCK && m < high; m++)
                EACH(v) {
                    const long at = m * C + v * LANES;
                    vec g = keep(~(read(y + at) <= 0), read(grad + at));
                    s[v] += g, p[v] += g * (read(x + at) - o[v]);
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

/* dx = a * g + b * (x - centre) + d by channel, and g itself, the gradient of `added`; `dadded` may be NULL, and x with
   dx. */
void backward(const stored *grad, const stored *y, const stored *x, const REAL *centre, const REAL *a, const REAL *b,
              const REAL *d, stored *dx, stored *dadded, long rows, int threads) {
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(rows, &low, &high);
        vec av[CV], bv[CV], dv[CV], o[CV];
        if (dx)
            EACH(v) {
                av[v] = load(a + v * LANES), bv[v] = load(b + v * LANES);
                dv[v] = load(d + v * LANES), o[v] = load(centre + v * LANES);
            }
        for (long m = low; m < high; m++)
            EACH(v) {
                const long at = m * C + v * LANES;
                vec g = keep(~(read(y + at) <= 0), read(grad + at));
                if (dx) write(dx + at, av[v] * g + bv[v] * (read(x + at) - o[v]) + dv[v]);
                if (dadded) write(dadded + at, g);
            }
    }
}
