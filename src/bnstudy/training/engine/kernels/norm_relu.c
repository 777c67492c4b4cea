/* Batch normalization, an addition and ReLU in one pass over memory, forward and backward.

   Arrays are rows of C channels (images in the layout channels_last), C a multiple of LANES. Compiled for one C, one EPS
   and MOMENTUM (of the norm) and one type of number: `stored` in memory, REAL in sums and products (see lanes.h). Threads take
   consecutive rows, and their sums are added in the order of the threads: one number of threads, one result. NaN passes
   through as in torch. */

#include <math.h>

#include "lanes.h"

#define CV (C / LANES)
#define BLOCK (C <= 32 ? 128 : 4096 / C) /* rows that are summed in REAL before they are added to a double: 16 KB */
#define UNROLL _Pragma("GCC unroll 8")
#define EACH(v) UNROLL for (int v = 0; v < CV; v++)
/* Rows that are summed apart, in at least four vectors: each addition waits for the one before it to the same. */
#define APART (CV < 4 ? 4 / CV : 1)
#define EACH_APART(r) UNROLL for (int r = 0; r < APART; r++)

typedef double wide __attribute__((vector_size(LANES * sizeof(double))));

/* For rows `from` to `to`, `done` with the sums s[r] and the row m: APART rows at a time, what is left with the first. */
#define OF_ROWS(from, to, done) \
    do { \
        long m = from; \
        for (; m + APART <= (to); m += APART) EACH_APART(r) EACH(v) done(m + r, r, v); \
        for (; m < (to); m++) EACH(v) done(m, 0, v); \
    } while (0)

/* The sum over r, into the first. */
static inline void gather(vec s[APART][CV]) {
    for (int r = 1; r < APART; r++) EACH(v) s[0][v] += s[r][v];
}

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
            vec near[CV], s[APART][CV] = {0}, q[APART][CV] = {0};
            EACH(v) near[v] = read(x + start * C + v * LANES);
#define MEAN(m, r, v) s[r][v] += read(x + (m) * C + v * LANES) - near[v]
            OF_ROWS(start, end, MEAN);
            gather(s);
            EACH(v) near[v] += s[0][v] / (REAL)num;
            memset(s, 0, sizeof s);
#define DEVIATIONS(m, r, v) \
    do { \
        const vec d = read(x + (m) * C + v * LANES) - near[v]; \
        s[r][v] += d, q[r][v] += d * d; \
    } while (0)
            OF_ROWS(start, end, DEVIATIONS);
            gather(s), gather(q);
            EACH(v) { /* as `combine` */
                const wide rest = __builtin_convertvector(s[0][v], wide) / num;
                const wide apart = __builtin_convertvector(near[v], wide) + rest - mean_all[v];
                mean_all[v] += apart * weight;
                m2_all[v] += __builtin_convertvector(q[0][v], wide) - rest * rest * num;
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
            const long end = start + BLOCK < high ? start + BLOCK : high;
            vec s[APART][CV] = {0}, p[APART][CV] = {0};
#define PRODUCTS(m, r, v) \
    do { \
        const long at = (m) * C + v * LANES; \
        const vec g = keep(~(read(y + at) <= 0), read(grad + at)); \
        s[r][v] += g, p[r][v] += g * (read(x + at) - o[v]); \
    } while (0)
            OF_ROWS(start, end, PRODUCTS);
            gather(s), gather(p);
            EACH(v) {
                sum_all[v] += __builtin_convertvector(s[0][v], wide);
                product_all[v] += __builtin_convertvector(p[0][v], wide);
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

/* In training: y = max(0, gamma * x^ + beta + added) with x^ = (x - mean) / sqrt(variance + EPS), both moments, and what the
   norm keeps of them. Wherever x enters it is x - o, with o the mean as REAL: scaled by itself, x far from 0 would cancel
   against the mean. */
void normalize(const stored *x, const stored *added, const REAL *gamma, const REAL *beta, double *mean, double *variance,
               stored *y, REAL *running_mean, REAL *running_variance, int64_t *batches, long rows, int threads) {
    REAL centre[C], scale[C], shift[C];
    moments(x, mean, variance, rows, threads);
    for (int c = 0; c < C; c++) {
        const double by = gamma[c] / sqrt(variance[c] + EPS);
        centre[c] = mean[c], scale[c] = by, shift[c] = beta[c] - by * (mean[c] - centre[c]);
    }
    track(mean, variance, running_mean, running_variance, batches, C, rows);
    forward(x, added, centre, scale, shift, y, rows, threads);
}

/* Gradients of x, of what was added (unless NULL), gamma and beta from that of y: with g = dy where y > 0,
   dx = gamma / sqrt(variance + EPS) (g - dbeta / rows - x^ dgamma / rows). */
void normalize_backward(const stored *grad, const stored *y, const stored *x, const double *mean, const double *variance,
                        const REAL *gamma, stored *dx, stored *dadded, REAL *dgamma, REAL *dbeta, long rows,
                        int threads) {
    REAL centre[C], a[C], b[C], d[C];
    double sum[C], product[C];
    for (int c = 0; c < C; c++) centre[c] = mean[c];
    sums(grad, y, x, centre, sum, product, rows, threads);
    for (int c = 0; c < C; c++) {
        const double apart = mean[c] - centre[c], rstd = 1 / sqrt(variance[c] + EPS), scale = gamma[c] * rstd;
        const double of_gamma = (product[c] - apart * sum[c]) * rstd, of_x = -scale * rstd * of_gamma / rows;
        dgamma[c] = of_gamma, dbeta[c] = sum[c];
        a[c] = scale, b[c] = of_x, d[c] = -scale * sum[c] / rows - of_x * apart;
    }
    backward(grad, y, x, centre, a, b, d, dx, dadded, rows, threads);
}
