/* A narrow convolution, batch normalization and 2x2 max-pooling as one, forward and backward.

   Vectors hold one number of LANES images, 4, 8 or 16: a pack. Along a row the convolution is Winograd's F(TILE, K): TILE
   outputs by K taps take P = TILE + K - 1 products (Winograd, 1980; Lavin and Gray, 2016). With a row's stretch d of P inputs
   and a row g of the kernel,
       y = A' [ (G g) * (B d) ],   dg = G' [ (B d) * (A dy) ],   dd = B' [ (G g) * (A dy) ],
   A, B and G with a row for each of P points at which polynomials are multiplied: 0, pairs of a point and its negative, and
   infinity. What rows above one another give is added up between the transformations.

   Compiled for one layer (see pooled_conv.py): REAL, CIN, COUT, K (kernel), IH x IW (input), PAD, EPS and MOMENTUM (of the norm), TILE,
   POINT_A, POINT_B, POINT_G, and the blocks whose sums the registers hold: CB output channels by TB tiles, WB output channels
   in the weights' gradient, IB input channels by SB tiles in the input's.
   G groups (networks side by side) have COUT channels each; all see the same CIN planes (shared), or each its own. Arrays
   are dense: x (N, G * CIN or CIN, IH, IW), weight (G * COUT, CIN, K, K), pooled (N, G * COUT, PH, PW). Those that only
   this file reads are packs: z (the convolution's output), winner (the z that the pool chose) and code (which of the four it
   was: 0 1 / 2 3). Threads take consecutive packs, and their sums are added in the order of the threads: one number of
   threads, one result. A number that is not finite spreads over its tile. */

#include <math.h>

#include "lanes.h"

#define H (IH + 2 * PAD)
#define W (IW + 2 * PAD)
#define OH (H - K + 1)
#define OW (W - K + 1)
#define PH (OH / 2)
#define PW (OW / 2)
#define PLACES (OH * OW)
#define POOLED (PH * PW)
#define P (TILE + K - 1)
#define T ((OW + TILE - 1) / TILE) /* tiles in a row */
#define LINE (T * TILE + K - 1)    /* a row of the input that whole tiles see */
#define TAPS (CIN * K * K)
#define SUMS (P * CIN * COUT * K) /* of the weights' gradient, between the transformations */
#define BLOCK 128                 /* numbers that are added up in REAL before they are added to a double */
#define UNROLL _Pragma("GCC unroll 32")
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)
#define INLINE static inline __attribute__((always_inline))
#define SHARED static __attribute__((noinline)) /* compiled once */

static const REAL A[P][TILE] = POINT_A, B[P][P] = POINT_B, G[P][K] = POINT_G;

/* Transformations. The rows of a pair of points differ in the signs of odd columns. */

/* to = c from, for c of P rows and n columns. */
INLINE void to_points(const REAL *c, const int n, const vec *from, vec *to) {
    EACH(j, P) {
        if (j && j < P - 1 && j % 2 == 0) continue; /* found with the point before it */
        vec even = {0}, odd = {0};
        EACH(i, n) if (c[j * n + i] != 0) {
            if (i % 2) odd += c[j * n + i] * from[i];
            else even += c[j * n + i] * from[i];
        }
        to[j] = even + odd;
        if (j && j < P - 1) to[j + 1] = even - odd;
    }
}

/* to = c' from. */
INLINE void from_points(const REAL *c, const int n, const vec *from, vec *to) {
    vec sum[P], difference[P];
    UNROLL for (int j = 1; j < P - 1; j += 2) sum[j] = from[j] + from[j + 1], difference[j] = from[j] - from[j + 1];
    EACH(i, n) {
        to[i] = (vec){0};
        if (c[i] != 0) to[i] += c[i] * from[0];
        if (c[(P - 1) * n + i] != 0) to[i] += c[(P - 1) * n + i] * from[P - 1];
        UNROLL for (int j = 1; j < P - 1; j += 2)
            if (c[j * n + i] != 0) to[i] += c[j * n + i] * (i % 2 ? difference[j] : sum[j]);
    }
}

/* Between images, `apart` from one another, and packs; of the last pack `count` images exist, and the others are 0. */

/* A matrix of LANES vectors, transposed: in each round two rows exchange what lies 1, 2, 4, ... off the diagonal. */
#define FOUR(f, l, s) f(l, s), f(l + 1, s), f(l + 2, s), f(l + 3, s)
#if LANES == 16
#define ALL(f, s) FOUR(f, 0, s), FOUR(f, 4, s), FOUR(f, 8, s), FOUR(f, 12, s)
#elif LANES == 8
#define ALL(f, s) FOUR(f, 0, s), FOUR(f, 4, s)
#else
#define ALL(f, s) FOUR(f, 0, s)
#endif
#define UPPER(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define LOWER(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#define ROUND(s) \
    EACH(i, LANES) if (!(i & (s))) { \
        const vec upper = rows[i], lower = rows[i + (s)]; \
        rows[i] = __builtin_shufflevector(upper, lower, ALL(UPPER, s)); \
        rows[i + (s)] = __builtin_shufflevector(upper, lower, ALL(LOWER, s)); \
    }
INLINE void transpose(vec rows[LANES]) {
    ROUND(1) ROUND(2)
#if LANES >= 8
    ROUND(4)
#endif
#if LANES == 16
    ROUND(8)
#endif
}

/* Blocks of LANES numbers; the last begins early where they do not come out even. */
#define BLOCKS(i, num) \
    for (int i = 0; i < (num); i = i + LANES < (num) && i + 2 * LANES > (num) ? (num) - LANES : i + LANES)

SHARED void pack(const REAL *from, long apart, int count, int num, REAL *to) {
    if (num < LANES) {
        for (int i = 0; i < num; i++)
            for (int l = 0; l < LANES; l++) to[i * LANES + l] = l < count ? from[l * apart + i] : 0;
        return;
    }
    BLOCKS(i, num) {
        vec rows[LANES];
        EACH(l, LANES) rows[l] = l < count ? load(from + l * apart + i) : (vec){0};
        transpose(rows);
        EACH(l, LANES) store(to + (i + l) * LANES, rows[l]);
    }
}

SHARED void unpack(const REAL *from, int num, REAL *to, long apart, int count) {
    if (num < LANES) {
        for (int i = 0; i < num; i++)
            for (int l = 0; l < count; l++) to[l * apart + i] = from[i * LANES + l];
        return;
    }
    BLOCKS(i, num) {
        vec rows[LANES];
        EACH(l, LANES) rows[l] = load(from + (i + l) * LANES);
        transpose(rows);
        EACH(l, LANES) if (l < count) store(to + l * apart + i, rows[l]);
    }
}

static REAL *numbers(long count) { return room(count * sizeof(REAL)); }
static long packs(long num) { return (num + LANES - 1) / LANES; }
static int images(long pack, long num) { return num - pack * LANES < LANES ? num - pack * LANES : LANES; }
static REAL total(vec v) {
    REAL sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

/* The input and the kernel at the points. */

/* v (P, CIN, H, T): B d of a pack's input; the rows of the padding stay as they are, 0. `plane` (IH, IW) is for its own
   use: a channel is packed whole, because a row may be shorter than a vector. */
SHARED void enter(const REAL *x, long apart, int count, REAL *plane, REAL *v) {
    REAL line[LINE * LANES];
    memset(line, 0, sizeof line);
    for (int i = 0; i < CIN; i++) {
        pack(x + i * IH * IW, apart, count, IH * IW, plane);
        for (int y = 0; y < IH; y++) {
            memcpy(line + PAD * LANES, plane + y * IW * LANES, IW * LANES * sizeof(REAL));
            for (int t = 0; t < T; t++) {
                vec stretch[P], found[P];
                EACH(j, P) stretch[j] = load(line + (t * TILE + j) * LANES);
                to_points(B[0], P, stretch, found);
                EACH(j, P) store(v + (((j * CIN + i) * H + y + PAD) * T + t) * LANES, found[j]);
            }
        }
    }
}

/* u: G g of each row of the kernel, (P, CIN, K, COUT) as the output takes it, or (P, K, COUT, CIN) as the input's
   gradient does. */
SHARED void transform(const REAL *weight, REAL *u, int back) {
    for (int j = 0; j < P; j++)
        for (int c = 0; c < COUT; c++)
            for (int i = 0; i < CIN; i++)
                for (int k = 0; k < K; k++) {
                    double sum = 0;
                    for (int l = 0; l < K; l++) sum += (double)G[j][l] * weight[((c * CIN + i) * K + k) * K + l];
                    u[back ? ((j * K + k) * COUT + c) * CIN + i : ((j * CIN + i) * K + k) * COUT + c] = sum;
                }
}

/* Row y of the output of all channels, which are `apart` from one another. `m` (COUT, T, P) is for its own use. */
SHARED void convolve_row(const REAL *v, const REAL *u, const REAL *bias, int y, REAL *m, REAL *to, long apart) {
    for (int j = 0; j < P; j++)
        for (int c = 0; c < COUT; c += CB)
            for (int t = 0; t < T; t += TB) {
                vec sum[CB][TB];
                EACH(b, CB) EACH(s, TB) sum[b][s] = (vec){0};
                for (int i = 0; i < CIN; i++)
                    for (int k = 0; k < K; k++) {
                        const REAL *seen = v + (((j * CIN + i) * H + y + k) * T + t) * LANES;
                        const REAL *tap = u + ((j * CIN + i) * K + k) * COUT + c;
                        vec d[TB];
                        EACH(s, TB) d[s] = held(load(seen + s * LANES));
                        EACH(b, CB) EACH(s, TB) sum[b][s] += tap[b] * d[s];
                    }
                EACH(b, CB) EACH(s, TB) store(m + (((c + b) * T + t + s) * P + j) * LANES, sum[b][s]);
            }
    for (int c = 0; c < COUT; c++) {
        const REAL shift = bias[c];
        for (int t = 0; t < T; t++) {
            vec found[P], outputs[TILE];
            EACH(j, P) found[j] = load(m + ((c * T + t) * P + j) * LANES);
            from_points(A[0], TILE, found, outputs);
            EACH(i, TILE)
                if (t * TILE + i < OW) store(to + c * apart + (t * TILE + i) * LANES, outputs[i] + shift);
        }
    }
}

/* The pool. */

static inline vec choose(mask where, vec value, vec other) { return (vec)((where & (mask)value) | (~where & (mask)other)); }
/* Whether `b` takes the maximum from `a`, the one before it: torch's order, and its way with NaN. */
static inline mask beats(vec b, vec a) { return (b > a) | (b != b); }
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
/* A byte for each lane; compilers take them apart one by one. */
static inline mask codes(const uint8_t *from) {
#if defined(__AVX512F__) && LANES == 16
    return (mask)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)from));
#else
    return __builtin_convertvector(*(const bytes *)from, mask);
#endif
}

/* Of scale * (z - centre) + shift in two rows, two by two, the largest; its z, unless `winner` is NULL; and which it is. */
INLINE void pool_rows(const REAL *upper, const REAL *lower, REAL centre, REAL scale, REAL shift, REAL *pooled,
                      REAL *winner, uint8_t *code) {
    for (int x = 0; x < PW; x++) {
        const REAL *corner[2] = {upper + 2 * x * LANES, lower + 2 * x * LANES};
        vec chosen = load(corner[0]), best = scale * (chosen - centre) + shift;
        mask which = {0};
        UNROLL for (int q = 1; q < 4; q++) {
            const vec z = load(corner[q / 2] + q % 2 * LANES), now = scale * (z - centre) + shift;
            const mask won = beats(now, best);
            best = choose(won, now, best), chosen = choose(won, z, chosen), which = (which & ~won) | (won & q);
        }
        store(pooled + x * LANES, best);
        if (winner) store(winner + x * LANES, chosen);
        *(bytes *)(code + x * LANES) = __builtin_convertvector(which, bytes);
    }
}

/* Moments. */

#define CHAINS 4 /* of additions, none of which waits for the others */
INLINE vec added(const vec sums[CHAINS]) { return (sums[0] + sums[1]) + (sums[2] + sums[3]); }

/* Adds the values of one channel of `count` images to mean and sum of squared deviations of `before` values. */
SHARED void add_moments(const REAL *z, int count, double before, double *mean, double *m2) {
    for (int start = 0; start < PLACES; start += BLOCK) {
        const int end = start + BLOCK < PLACES ? start + BLOCK : PLACES;
        const double num = end - start;
        vec near = load(z + start * LANES), sums[CHAINS] = {{0}}, squares[CHAINS] = {{0}};
        for (int p = start; p < end; p += CHAINS)
            EACH(q, CHAINS) if (p + q < end) sums[q] += load(z + (p + q) * LANES) - near;
        near += added(sums) / (REAL)num, memset(sums, 0, sizeof sums);
        for (int p = start; p < end; p += CHAINS)
            EACH(q, CHAINS) if (p + q < end) {
                const vec d = load(z + (p + q) * LANES) - near;
                sums[q] += d, squares[q] += d * d;
            }
        const vec sum = added(sums), square = added(squares);
        double means[LANES], all = 0, within = 0; /* of equally many values, so that no image needs a division */
        for (int l = 0; l < count; l++) all += means[l] = near[l] + sum[l] / num;
        all /= count;
        for (int l = 0; l < count; l++) {
            const double rest = sum[l], apart = means[l] - all;
            within += square[l] - rest * rest / num + num * apart * apart;
        }
        combine(num * count, all, within, before, mean, m2);
        before += num * count;
    }
}

/* Mean and biased variance of a channel, value by value; `z` is its first plane, and the packs' are `apart`. */
static void moments_one(const REAL *z, long apart, long num, double *mean, double *variance) {
    const double count = (double)num * PLACES;
    double sum = 0, rest = 0, square = 0;
    for (int pass = 0; pass < 2; pass++)
        for (long n = 0; n < num; n++)
            for (int p = 0; p < PLACES; p++) {
                const double value = z[n / LANES * apart + p * LANES + n % LANES];
                if (pass == 0) sum += value;
                else rest += value - sum / count, square += (value - sum / count) * (value - sum / count);
            }
    *mean = (sum + rest) / count, *variance = (square - rest * rest / count) / count;
}

/* Forward. */

/* Without a norm, or with one that is part of weight and bias. */
void plain(const REAL *x, const REAL *weight, const REAL *bias, REAL *pooled, uint8_t *code, long num, long groups,
           long shared, int threads) {
    const long channels = groups * COUT, entering = (shared ? 1 : groups) * CIN * IH * IW;
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(packs(num), &low, &high);
        REAL *v = numbers(P * CIN * H * T * LANES), *u = numbers(P * TAPS * COUT), *m = numbers(COUT * T * P * LANES);
        REAL *rows = numbers(2 * COUT * OW * LANES), *best = numbers(COUT * POOLED * LANES), *plane = numbers(IH * IW * LANES);
        for (long g = 0; g < groups; g++) {
            transform(weight + g * COUT * TAPS, u, 0);
            for (long n = low; n < high; n++) {
                const int count = images(n, num);
                uint8_t *which = code + (n * groups + g) * COUT * POOLED * LANES;
                enter(x + n * LANES * entering + (shared ? 0 : g) * CIN * IH * IW, entering, count, plane, v);
                for (int y = 0; y < PH; y++) {
                    for (int down = 0; down < 2; down++)
                        convolve_row(v, u, bias + g * COUT, 2 * y + down, m, rows + down * COUT * OW * LANES, OW * LANES);
                    for (int c = 0; c < COUT; c++) {
                        const REAL *upper = rows + c * OW * LANES;
                        const long at = (c * POOLED + y * PW) * LANES;
                        pool_rows(upper, upper + COUT * OW * LANES, 0, 1, 0, best + at, NULL, which + at);
                    }
                }
                unpack(best, COUT * POOLED, pooled + (n * LANES * groups + g) * COUT * POOLED, channels * POOLED, count);
            }
        }
        free(v), free(u), free(m), free(rows), free(best), free(plane);
    }
}

/* z, and mean and biased variance (G * COUT) of each of its channels. */
void convolve(const REAL *x, const REAL *weight, const REAL *bias, REAL *z, double *mean, double *variance, long num,
              long groups, long shared, int threads) {
    const long channels = groups * COUT, entering = (shared ? 1 : groups) * CIN * IH * IW, plane = PLACES * LANES;
    double *means = room(threads * channels * sizeof(double)), *m2s = room(threads * channels * sizeof(double));
    double *counts = room(threads * sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(packs(num), &low, &high);
        REAL *v = numbers(P * CIN * H * T * LANES), *u = numbers(P * TAPS * COUT), *m = numbers(COUT * T * P * LANES);
        REAL *inputs = numbers(IH * IW * LANES);
        for (long g = 0; g < groups; g++) {
            double before = 0;
            transform(weight + g * COUT * TAPS, u, 0);
            for (long n = low; n < high; n++) {
                const int count = images(n, num);
                REAL *to = z + (n * groups + g) * COUT * plane;
                enter(x + n * LANES * entering + (shared ? 0 : g) * CIN * IH * IW, entering, count, inputs, v);
                for (int y = 0; y < OH; y++) convolve_row(v, u, bias + g * COUT, y, m, to + y * OW * LANES, plane);
                for (int c = 0; c < COUT; c++) {
                    const long at = thread * channels + g * COUT + c;
                    add_moments(to + c * plane, count, before, &means[at], &m2s[at]);
                }
                before += (double)count * PLACES;
            }
            counts[thread] = before;
        }
        free(v), free(u), free(m), free(inputs);
    }
    for (long c = 0; c < channels; c++) {
        double count = 0, m2 = 0;
        for (int t = 0; t < threads; t++)
            if (counts[t]) {
                combine(counts[t], means[t * channels + c], m2s[t * channels + c], count, &mean[c], &m2);
                count += counts[t];
            }
        variance[c] = m2 / count;
        if (doubtful(variance[c])) moments_one(z + c * plane, channels * plane, num, &mean[c], &variance[c]);
    }
    free(means), free(m2s), free(counts);
}

/* The pooled maximum of gamma (z - mean) / sqrt(variance + EPS) + beta, the z that won, which it was, and what the
   norm keeps of both moments. Wherever z enters it is z - o, with o the mean as REAL: scaled by itself, z far from 0 would
   cancel against the mean. */
void pool(const REAL *z, const double *mean, const double *variance, const REAL *gamma, const REAL *beta, REAL *pooled,
          REAL *winner, uint8_t *code, REAL *running_mean, REAL *running_variance, int64_t *batches, long num,
          long groups, int threads) {
    const long channels = groups * COUT;
    track(mean, variance, running_mean, running_variance, batches, channels, (double)num * PLACES);
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(packs(num), &low, &high);
        REAL *best = numbers(POOLED * LANES);
        for (long n = low; n < high; n++)
            for (long c = 0; c < channels; c++) {
                const REAL *plane = z + (n * channels + c) * PLACES * LANES, centre = mean[c];
                const double scale = gamma[c] / sqrt(variance[c] + EPS), shift = beta[c] - scale * (mean[c] - centre);
                const long at = (n * channels + c) * POOLED * LANES;
                for (int y = 0; y < PH; y++) {
                    const REAL *upper = plane + 2 * y * OW * LANES;
                    const long row = at + y * PW * LANES;
                    pool_rows(upper, upper + OW * LANES, centre, scale, shift, best + y * PW * LANES, winner + row,
                              code + row);
                }
                unpack(best, POOLED, pooled + (n * LANES * channels + c) * POOLED, channels * POOLED, images(n, num));
            }
        free(best);
    }
}

/* Backward. */

/* By channel, the sums over the batch of the pooled gradient and, unless `winner` is NULL, of its product with the z that
   won, less the mean: (G * COUT). */
static void sums(const REAL *grad, const REAL *winner, const double *mean, double *sum, double *product, long num,
                 long channels, int threads) {
    double *parts = room(threads * 2 * channels * sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(packs(num), &low, &high);
        double *own = parts + thread * 2 * channels;
        REAL *slopes = numbers(POOLED * LANES);
        for (long n = low; n < high; n++)
            for (long c = 0; c < channels; c++) {
                const REAL *won = winner + (n * channels + c) * POOLED * LANES, centre = winner ? mean[c] : 0;
                vec gs = {0}, ps = {0};
                pack(grad + (n * LANES * channels + c) * POOLED, channels * POOLED, images(n, num), POOLED, slopes);
                for (int p = 0; p < POOLED; p++) {
                    const vec g = load(slopes + p * LANES);
                    gs += g;
                    if (winner) ps += g * (load(won + p * LANES) - centre);
                }
                own[c] += total(gs), own[channels + c] += total(ps);
            }
        free(slopes);
    }
    for (long c = 0; c < channels; c++)
        for (int t = 0; t < threads; t++)
            sum[c] += parts[t * 2 * channels + c], product[c] += parts[(t * 2 + 1) * channels + c];
    free(parts);
}

/* The gradient of a pack's z: by channel, a * (pooled gradient, at the winner) + b * (z - centre) + d. */
typedef struct {
    REAL centre, a, b, d;
} slope;

/* A dz, (P, COUT, OH, T). Without `z` b and d are 0. */
INLINE void open_up(const REAL *z, const uint8_t *code, const REAL *grad, const slope *by, REAL *dz) {
    REAL lines[2][T * TILE * LANES];
    memset(lines, 0, sizeof lines);
    for (int c = 0; c < COUT; c++)
        for (int y = 0; y < OH; y += 2) {
            const slope s = by[c];
            for (int x = 0; x < OW; x += 2) {
                const int pooled = y < 2 * PH && x < 2 * PW; /* else what the pool leaves out at an edge */
                const long at = (c * POOLED + y / 2 * PW + x / 2) * LANES;
                const vec g = pooled ? s.a * load(grad + at) : (vec){0};
                const mask k = pooled ? codes(code + at) : (mask){0};
                EACH(q, 4) if (y + q / 2 < OH && x + q % 2 < OW) {
                    const REAL *from = z ? z + (c * PLACES + (y + q / 2) * OW + x + q % 2) * LANES : NULL;
                    const vec dense = z ? s.b * (load(from) - s.centre) + s.d : (vec){0};
                    store(lines[q / 2] + (x + q % 2) * LANES, dense + keep(k == q, g));
                }
            }
            for (int down = 0; down < 2 && y + down < OH; down++)
                for (int t = 0; t < T; t++) {
                    vec outputs[TILE], found[P];
                    EACH(i, TILE) outputs[i] = load(lines[down] + (t * TILE + i) * LANES);
                    to_points(A[0], TILE, outputs, found);
                    EACH(j, P) store(dz + (((j * COUT + c) * OH + y + down) * T + t) * LANES, found[j]);
                }
        }
}

/* Adds a pack's share to the weights' gradient at the points, (P, CIN, COUT, K) vectors. */
SHARED void weigh(const REAL *v, const REAL *dz, REAL *sums) {
    for (int j = 0; j < P; j++)
        for (int i = 0; i < CIN; i++)
            for (int c = 0; c < COUT; c += WB) {
                const REAL *seen = v + (j * CIN + i) * H * T * LANES, *slopes = dz + (j * COUT + c) * OH * T * LANES;
                REAL *kept = sums + ((j * CIN + i) * COUT + c) * K * LANES;
                vec sum[WB][K];
                EACH(b, WB) EACH(k, K) sum[b][k] = load(kept + (b * K + k) * LANES);
                for (int s = 0; s < OH * T; s++) {
                    vec g[WB];
                    EACH(b, WB) g[b] = held(load(slopes + (b * OH * T + s) * LANES));
                    EACH(k, K) {
                        const vec d = held(load(seen + (s + k * T) * LANES));
                        EACH(b, WB) sum[b][k] += d * g[b];
                    }
                }
                EACH(b, WB) EACH(k, K) store(kept + (b * K + k) * LANES, sum[b][k]);
            }
}

/* The gradient of a pack's input. `e` (P, CIN, H, T) and `plane` (IH, IW) are for its own use. */
SHARED void input_gradient(const REAL *dz, const REAL *u, REAL *e, REAL *plane, REAL *dx, long apart, int count) {
    memset(e, 0, P * CIN * H * T * LANES * sizeof(REAL));
    for (int j = 0; j < P; j++)
        for (int k = 0; k < K; k++)
            for (int i = 0; i < CIN; i += IB)
                for (int s = 0; s < OH * T; s += SB) {
                    REAL *to = e + ((j * CIN + i) * H * T + s + k * T) * LANES;
                    vec sum[IB][SB];
                    EACH(b, IB) EACH(q, SB) sum[b][q] = load(to + (b * H * T + q) * LANES);
                    for (int c = 0; c < COUT; c++) {
                        const REAL *slopes = dz + ((j * COUT + c) * OH * T + s) * LANES;
                        const REAL *tap = u + ((j * K + k) * COUT + c) * CIN + i;
                        vec g[SB];
                        EACH(q, SB) g[q] = held(load(slopes + q * LANES));
                        EACH(b, IB) EACH(q, SB) sum[b][q] += tap[b] * g[q];
                    }
                    EACH(b, IB) EACH(q, SB) store(to + (b * H * T + q) * LANES, sum[b][q]);
                }
    for (int i = 0; i < CIN; i++) {
        for (int y = 0; y < IH; y++) {
            REAL line[LINE * LANES];
            memset(line, 0, sizeof line);
            for (int t = 0; t < T; t++) {
                vec found[P], stretch[P];
                EACH(j, P) found[j] = load(e + (((j * CIN + i) * H + y + PAD) * T + t) * LANES);
                from_points(B[0], P, found, stretch);
                EACH(j, P) {
                    REAL *at = line + (t * TILE + j) * LANES;
                    store(at, load(at) + stretch[j]);
                }
            }
            memcpy(plane + y * IW * LANES, line + PAD * LANES, IW * LANES * sizeof(REAL));
        }
        unpack(plane, IH * IW, dx + i * IH * IW, apart, count);
    }
}

/* Gradients of weight (G * COUT, CIN, K, K), of bias or beta, and, unless they are NULL, of gamma and x, from the pooled
   output's. Without a norm z, winner, mean, variance, gamma and dgamma are NULL. Through a norm over `all` values a channel,
   with z^ = (z - mean) / sqrt(variance + EPS), dz = gamma / sqrt(variance + EPS) (g - dbeta / all - z^ dgamma / all). */
void backward(const REAL *x, const REAL *weight, const REAL *z, const REAL *winner, const uint8_t *code, const REAL *grad,
              const double *mean, const double *variance, const REAL *gamma, REAL *dx, REAL *dweight,
              REAL *dgamma, REAL *dbeta, long num, long groups, long shared, int threads) {
    const long channels = groups * COUT, entering = (shared ? 1 : groups) * CIN * IH * IW, size = groups * SUMS * LANES;
    const double all = (double)num * PLACES;
    double *sum = room(channels * sizeof(double)), *product = room(channels * sizeof(double));
    slope *slopes = room(channels * sizeof(slope));
    sums(grad, winner, mean, sum, product, num, channels, threads);
    for (long c = 0; c < channels; c++) {
        dbeta[c] = sum[c], slopes[c].a = 1;
        if (!z) continue;
        const REAL centre = mean[c];
        const double rstd = 1 / sqrt(variance[c] + EPS), scale = gamma[c] * rstd, apart = mean[c] - centre;
        const double of_gamma = (product[c] - apart * sum[c]) * rstd, b = -scale * rstd * of_gamma / all;
        dgamma[c] = of_gamma, slopes[c] = (slope){centre, scale, b, -scale * sum[c] / all - b * apart};
    }
    REAL *parts = numbers(threads * size);
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(packs(num), &low, &high);
        REAL *v = numbers(P * CIN * H * T * LANES), *e = numbers(P * CIN * H * T * LANES);
        REAL *u = numbers(P * TAPS * COUT), *dz = numbers(P * COUT * OH * T * LANES), *own = numbers(COUT * POOLED * LANES);
        REAL *plane = numbers(IH * IW * LANES);
        for (long g = 0; g < groups; g++) {
            if (dx) transform(weight + g * COUT * TAPS, u, 1);
            for (long n = low; n < high; n++) {
                const int count = images(n, num);
                const long at = (n * groups + g) * COUT * LANES, image = n * LANES * entering + (shared ? 0 : g) * CIN * IH * IW;
                pack(grad + (n * LANES * groups + g) * COUT * POOLED, channels * POOLED, count, COUT * POOLED, own);
                if (z) open_up(z + at * PLACES, code + at * POOLED, own, slopes + g * COUT, dz);
                else open_up(NULL, code + at * POOLED, own, slopes + g * COUT, dz);
                enter(x + image, entering, count, plane, v);
                weigh(v, dz, parts + thread * size + g * SUMS * LANES);
                if (dx) input_gradient(dz, u, e, plane, dx + image, entering, count);
            }
        }
        free(v), free(e), free(u), free(dz), free(own), free(plane);
    }
    for (long g = 0; g < groups; g++)
        for (int c = 0; c < COUT; c++)
            for (int i = 0; i < CIN; i++)
                for (int k = 0; k < K; k++) {
                    double row[K] = {0};
                    for (int j = 0; j < P; j++) {
                        double found = 0;
                        for (int t = 0; t < threads; t++)
                            found += total(load(parts + t * size + (g * SUMS + ((j * CIN + i) * COUT + c) * K + k) * LANES));
                        for (int l = 0; l < K; l++) row[l] += G[j][l] * found;
                    }
                    for (int l = 0; l < K; l++) dweight[(((g * COUT + c) * CIN + i) * K + k) * K + l] = row[l];
                }
    free(sum), free(product), free(slopes), free(parts);
}
