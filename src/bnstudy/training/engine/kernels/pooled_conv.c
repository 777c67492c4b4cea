/* A narrow convolution, the moments of its output for batch normalization, and 2x2 max-pooling, forward and backward.

   Compiled for one shape (see pooled_conv.py): REAL, CIN, COUT, K (kernel), IH x IW (input), PAD, and the blocks that the
   registers hold: CB output channels by NV vectors of a row, WB of them in the weights' gradient, XB places of a row.
   Vectors run along the row of an output plane, or, where COUT is a multiple of LANES, across the output channels.
   G groups (networks side by side) have COUT channels each; all see the same CIN planes (shared), or each its own.
   Arrays are dense: x (N, G * CIN or CIN, IH, IW), weight (G * COUT, CIN, K, K), pooled (N, G * COUT, PH, PW); z (the
   convolution's output) and code (which of the four won: 0 1 / 2 3) are of this file's own layout.
   Threads take consecutive images, and their sums are added in the order of the threads: one number of threads, one
   result. Infinities and NaN pass through as in torch. */

#include "lanes.h"

#define H (IH + 2 * PAD)
#define W (IW + 2 * PAD)
#define OH (H - K + 1)
#define OW (W - K + 1)
#define PH (OH / 2)
#define PW (OW / 2)
#define PLACES (OH * OW)
#define POOLED (PH * PW)
#define TAPS (CIN * K * K)
#define ACROSS (COUT % LANES == 0)
#define CV (ACROSS ? COUT / LANES : 1)
#define NV ((OW + LANES - 1) / LANES)
#define WS (NV * LANES + LANES)                       /* a row of the input with room for whole vectors */
#define KC (K * CIN)                                  /* what a row of the kernel sees, channels innermost */
#define KV ((KC + LANES - 1) / LANES)
#define ROOM (H * W * CIN + KV * LANES)
#define DZ_ROW (ACROSS ? OW * COUT : NV * LANES)      /* strides of the gradient of z in its local buffer */
#define DZ_SIZE (ACROSS ? PLACES * COUT : COUT * OH * NV * LANES)
#define ACC_SIZE (ACROSS ? K * COUT * KV * LANES : COUT * TAPS * LANES)
#define UNROLL _Pragma("GCC unroll 64")
/* Output channels, and rows of the kernel, whose sums registers hold in the gradients. */
#define OB (LANES == 16 ? 8 : KV > 2 ? 2 : 4)
#define KB (LANES == 16 || K * KV <= 8 ? K : KV <= 4 ? 8 / KV : 1)

/* The value where the mask is set, else another. */
static inline vec choose(mask where, vec value, vec other) { return (vec)((where & (mask)value) | (~where & (mask)other)); }
/* 0, 1, ... in the lanes; a pair of vectors' even and odd lanes, and the pair of which two are the even and odd. */
#if LANES == 16
static const mask LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
static const mask LANE = {0, 1, 2, 3, 4, 5, 6, 7};
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#endif
static inline REAL total(vec v) {
    REAL sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}
/* Whether `b` takes the maximum from `a`, the one before it: torch's order, and its way with NaN. */
static inline mask beats(vec b, vec a) { return (b > a) | (b != b); }
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
/* Of four places in torch's order, centred, scaled and shifted, the largest; its z; and which it is. */
static inline vec largest(const vec z[4], vec centre, vec scale, vec shift, vec *winner, bytes *code) {
    vec best = scale * (z[0] - centre) + shift;
    mask which = {0};
    *winner = z[0];
    UNROLL for (int q = 1; q < 4; q++) {
        vec now = scale * (z[q] - centre) + shift;
        mask won = beats(now, best);
        best = choose(won, now, best), *winner = choose(won, z[q], *winner);
        which = (which & ~won) | (won & q);
    }
    *code = __builtin_convertvector(which, bytes);
    return best;
}

/* Copy the vector at `x` of a row of `width` numbers, or what the row has left of it: sizes that the compiler knows, as a
   call for each few bytes takes longer than all else. */
#define COPY(to, from, width, x) \
    ((width) - (x) >= LANES ? memcpy(to, from, LANES * sizeof *(to)) : memcpy(to, from, (width) % LANES * sizeof *(to)))

/* The planes of one image with their margin of zeros, rows WS apart. `to` is zero outside. */
static void spread(const REAL *x, REAL *to) {
    for (int i = 0; i < CIN; i++)
        for (int y = 0; y < IH; y++)
            memcpy(to + (i * H + y + PAD) * WS + PAD, x + (i * IH + y) * IW, IW * sizeof(REAL));
}

/* ... and channels innermost, without gaps. */
static void interleave(const REAL *x, REAL *to) {
    for (int y = 0; y < IH; y++)
        for (int i = 0; i < CIN; i++)
            for (int j = 0; j < IW; j++) to[((y + PAD) * W + j + PAD) * CIN + i] = x[(i * IH + y) * IW + j];
}

static void convolve_one(const REAL *in, const REAL *weight, const REAL *bias, REAL *z) {
    if (ACROSS) {
        for (int y = 0; y < OH; y++)
            for (int x = 0; x < OW; x += XB) {
                vec acc[XB][CV];
                UNROLL for (int i = 0; i < XB; i++)
                    UNROLL for (int v = 0; v < CV; v++) acc[i][v] = load(bias + v * LANES);
                for (int i = 0; i < CIN; i++)
                    for (int ky = 0; ky < K; ky++)
                        for (int kx = 0; kx < K; kx++) {
                            const REAL *seen = in + (i * H + y + ky) * WS + x + kx;
                            const REAL *tap = weight + ((i * K + ky) * K + kx) * COUT;
                            UNROLL for (int v = 0; v < CV; v++) {
                                const vec w = held(load(tap + v * LANES));
                                UNROLL for (int j = 0; j < XB; j++) acc[j][v] += w * seen[j];
                            }
                        }
                UNROLL for (int i = 0; i < XB; i++)
                    UNROLL for (int v = 0; v < CV; v++) store(z + (y * OW + x + i) * COUT + v * LANES, acc[i][v]);
            }
        return;
    }
    for (int c = 0; c < COUT; c += CB)
        for (int y = 0; y < OH; y++) {
            vec acc[CB][NV];
            UNROLL for (int j = 0; j < CB; j++)
                UNROLL for (int v = 0; v < NV; v++) acc[j][v] = (vec){0} + bias[c + j];
            for (int i = 0; i < CIN; i++)
                for (int ky = 0; ky < K; ky++)
                    for (int kx = 0; kx < K; kx++) {
                        const REAL *seen = in + (i * H + y + ky) * WS + kx;
                        const REAL *tap = weight + ((i * K + ky) * K + kx) * COUT + c;
                        UNROLL for (int v = 0; v < NV; v++) {
                            const vec s = held(load(seen + v * LANES));
                            UNROLL for (int j = 0; j < CB; j++) acc[j][v] += s * tap[j];
                        }
                    }
            UNROLL for (int j = 0; j < CB; j++)
                UNROLL for (int v = 0; v < NV; v++)
                    memcpy(z + (c + j) * PLACES + y * OW + v * LANES, &acc[j][v],
                           (v < NV - 1 ? LANES : OW - (NV - 1) * LANES) * sizeof(REAL));
        }
}

#define BLOCK 128 /* numbers that are added up in REAL, by lane, before they are added to a double */

/* Adds an image's values of every channel to the mean and sum of squared deviations of those of `images` before it. */
static void add_moments(const REAL *z, double *mean, double *m2, long images) {
    if (ACROSS) {
        for (int start = 0; start < PLACES; start += BLOCK) {
            const int end = start + BLOCK < PLACES ? start + BLOCK : PLACES;
            UNROLL for (int v = 0; v < CV; v++) {
                const REAL *at = z + v * LANES;
                vec near = load(at + start * COUT), sum = {0}, squares = {0};
                for (int p = start; p < end; p++) sum += load(at + p * COUT) - near;
                near += sum / (REAL)(end - start), sum = (vec){0};
                for (int p = start; p < end; p++) {
                    vec d = load(at + p * COUT) - near;
                    sum += d, squares += d * d;
                }
                for (int i = 0; i < LANES; i++) {
                    const double num = end - start, rest = sum[i];
                    combine(num, near[i] + rest / num, squares[i] - rest * rest / num, (double)images * PLACES + start,
                            &mean[v * LANES + i], &m2[v * LANES + i]);
                }
            }
        }
        return;
    }
    for (int c = 0; c < COUT; c++)
        for (int start = 0; start < PLACES; start += BLOCK * LANES) {
            const int num = PLACES - start < BLOCK * LANES ? PLACES - start : BLOCK * LANES;
            const REAL *at = z + c * PLACES + start;
            REAL near = at[0];
            double rest = 0, m2_now = 0;
            vec sum = {0}, squares = {0};
            int p = 0;
            for (; p + LANES <= num; p += LANES) sum += load(at + p) - near;
            for (; p < num; p++) rest += at[p] - near;
            near += (REAL)((total(sum) + rest) / num);
            sum = (vec){0}, rest = 0;
            for (p = 0; p + LANES <= num; p += LANES) {
                vec d = load(at + p) - near;
                sum += d, squares += d * d;
            }
            for (; p < num; p++) {
                const double d = at[p] - near;
                rest += d, m2_now += d * d;
            }
            rest += total(sum), m2_now += total(squares);
            combine(num, near + rest / num, m2_now - rest * rest / num, (double)images * PLACES + start, &mean[c],
                    &m2[c]);
        }
}

/* Mean and biased variance of channel `c` of group `g`, value by value. */
static void moments_one(const REAL *z, long g, int c, double *mean, double *variance, long num, long groups) {
    const double count = (double)num * PLACES;
    double sum = 0, rest = 0, square = 0;
    for (int pass = 0; pass < 2; pass++)
        for (long n = 0; n < num; n++) {
            const REAL *from = z + (n * groups + g) * COUT * PLACES + (ACROSS ? c : c * PLACES);
            for (int p = 0; p < PLACES; p++) {
                const double value = from[ACROSS ? p * COUT : p];
                if (pass == 0) {
                    sum += value;
                    continue;
                }
                rest += value - sum / count, square += (value - sum / count) * (value - sum / count);
            }
        }
    *mean = (sum + rest) / count, *variance = (square - rest * rest / count) / count;
}

/* z, and, unless `mean` is NULL, mean and biased variance (G * COUT) of each of its channels. */
void convolve(const REAL *x, const REAL *weight, const REAL *bias, REAL *z, double *mean, double *variance, long num,
              long groups, long shared, int threads) {
    const long channels = groups * COUT;
    double *means = room(threads * channels * sizeof(double)), *m2s = room(threads * channels * sizeof(double));
    long *counts = room(threads * sizeof(long));
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(num, &low, &high);
        REAL *in = room(CIN * H * WS * sizeof(REAL) + WS * sizeof(REAL)), *taps = room(TAPS * COUT * sizeof(REAL));
        for (long g = 0; g < groups; g++) {
            for (int c = 0; c < COUT; c++)
                for (int t = 0; t < TAPS; t++) taps[t * COUT + c] = weight[(g * COUT + c) * TAPS + t];
            for (long n = low; n < high; n++) {
                REAL *to = z + (n * groups + g) * COUT * PLACES;
                spread(x + (shared ? n : n * groups + g) * CIN * IH * IW, in);
                convolve_one(in, taps, bias + g * COUT, to);
                if (mean)
                    add_moments(to, means + thread * channels + g * COUT, m2s + thread * channels + g * COUT, n - low);
            }
        }
        counts[thread] = high - low;
        free(in), free(taps);
    }
    for (long c = 0; mean && c < channels; c++) {
        double count = 0, m2 = 0;
        for (int t = 0; t < threads; t++) {
            const double more = (double)counts[t] * PLACES;
            if (more) combine(more, means[t * channels + c], m2s[t * channels + c], count, &mean[c], &m2);
            count += more;
        }
        variance[c] = m2 / count;
        if (doubtful(variance[c])) moments_one(z, c / COUT, c % COUT, &mean[c], &variance[c], num, groups);
    }
    free(means), free(m2s), free(counts);
}

/* The pooled maximum of scale * (z - centre) + shift, the z that won, and which it was. */
void pool(const REAL *z, const REAL *centre, const REAL *scale, const REAL *shift, REAL *pooled, REAL *winner,
          uint8_t *code, long num, long groups, int threads) {
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(num, &low, &high);
        for (long n = low * groups; n < high * groups; n++) {
            const REAL *from = z + n * COUT * PLACES, *o = centre + n % groups * COUT;
            const REAL *a = scale + n % groups * COUT, *b = shift + n % groups * COUT;
            REAL *to = pooled + n * COUT * POOLED, *won = winner + n * COUT * POOLED;
            uint8_t *which = code + n * COUT * POOLED;
            if (ACROSS) {
                for (int p = 0; p < POOLED; p++)
                    for (int v = 0; v < CV; v++) {
                        const REAL *corner = from + (p / PW * 2 * OW + p % PW * 2) * COUT + v * LANES;
                        const vec four[4] = {load(corner), load(corner + COUT), load(corner + OW * COUT),
                                             load(corner + (OW + 1) * COUT)};
                        vec winning, best;
                        bytes chosen;
                        best = largest(four, load(o + v * LANES), load(a + v * LANES), load(b + v * LANES), &winning,
                                       &chosen);
                        *(bytes *)(which + p * COUT + v * LANES) = chosen;
                        for (int c = 0; c < LANES; c++)
                            to[(v * LANES + c) * POOLED + p] = best[c], won[(v * LANES + c) * POOLED + p] = winning[c];
                    }
                continue;
            }
            for (int c = 0; c < COUT; c++)
                for (int y = 0; y < PH; y++)
                    for (int x = 0; x < PW; x += LANES) {
                        const REAL *up = from + c * PLACES + 2 * (y * OW + x), *down = up + OW;
                        const vec u0 = load(up), u1 = load(up + LANES), d0 = load(down), d1 = load(down + LANES);
                        const vec four[4] = {EVEN(u0, u1), ODD(u0, u1), EVEN(d0, d1), ODD(d0, d1)};
                        const int at = c * POOLED + y * PW + x;
                        vec winning, best;
                        bytes chosen;
                        best = largest(four, (vec){0} + o[c], (vec){0} + a[c], (vec){0} + b[c], &winning, &chosen);
                        COPY(to + at, &best, PW, x), COPY(won + at, &winning, PW, x), COPY(which + at, &chosen, PW, x);
                    }
        }
    }
}

/* By channel, the sums over the batch of the pooled gradient and of its product with the z that won, less `centre`:
   (G * COUT). */
void sums(const REAL *grad, const REAL *winner, const REAL *centre, double *sum, double *product, long num, long groups,
          int threads) {
    const long channels = groups * COUT;
    double *parts = room(threads * 2 * channels * sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(num, &low, &high);
        double *own = parts + thread * 2 * channels;
        for (long n = low; n < high; n++)
            for (long c = 0; c < channels; c++) {
                const REAL *g = grad + (n * channels + c) * POOLED, *w = winner + (n * channels + c) * POOLED;
                const REAL o = centre[c];
                int p = 0;
                vec gs = {0}, ps = {0};
                for (; p + LANES <= POOLED; p += LANES) gs += load(g + p), ps += load(g + p) * (load(w + p) - o);
                REAL g_sum = total(gs), p_sum = total(ps);
                for (; p < POOLED; p++) g_sum += g[p], p_sum += g[p] * (w[p] - o);
                own[c] += g_sum, own[channels + c] += p_sum;
            }
    }
    for (long c = 0; c < channels; c++) {
        sum[c] = product[c] = 0;
        for (int t = 0; t < threads; t++)
            sum[c] += parts[t * 2 * channels + c], product[c] += parts[(t * 2 + 1) * channels + c];
    }
    free(parts);
}

/* The gradient of z: a * (pooled gradient, at the winner) + b * (z - centre) + d, by channel. `dense`: whether b or d is
   not 0. */
static void open_up(const REAL *z, const uint8_t *code, const REAL *grad, const REAL *centre, const REAL *a,
                    const REAL *b, const REAL *d, int dense, REAL *dz) {
    if (ACROSS) {
        if (dense)
            for (int p = 0; p < PLACES; p++)
                for (int c = 0; c < COUT; c++) dz[p * COUT + c] = b[c] * (z[p * COUT + c] - centre[c]) + d[c];
        else
            memset(dz, 0, DZ_SIZE * sizeof(REAL));
        for (int p = 0; p < POOLED; p++) {
            REAL *corner = dz + (p / PW * 2 * OW + p % PW * 2) * COUT, g[COUT];
            const uint8_t *k = code + p * COUT;
            for (int c = 0; c < COUT; c++) g[c] = a[c] * grad[c * POOLED + p];
            for (int c = 0; c < COUT; c++) {
                corner[c] += k[c] == 0 ? g[c] : 0, corner[COUT + c] += k[c] == 1 ? g[c] : 0;
                corner[OW * COUT + c] += k[c] == 2 ? g[c] : 0, corner[(OW + 1) * COUT + c] += k[c] == 3 ? g[c] : 0;
            }
        }
        return;
    }
    for (int c = 0; c < COUT; c++) {
        REAL *plane = dz + c * OH * NV * LANES;
        for (int y = 0; y < OH; y++)
            for (int x = 0; x < OW; x += LANES) {
                vec found = {0};
                if (dense)
                    found = keep(LANE < OW - x, b[c] * (load(z + c * PLACES + y * OW + x) - centre[c]) + d[c]);
                store(plane + y * NV * LANES + x, found);
            }
        for (int y = 0; y < PH; y++)
            for (int x = 0; x < PW; x += LANES) {
                const int at = c * POOLED + y * PW + x;
                vec g = {0};
                bytes chosen = {0};
                COPY((REAL *)&g, grad + at, PW, x), COPY((uint8_t *)&chosen, code + at, PW, x);
                const mask k = __builtin_convertvector(chosen, mask);
                g *= a[c];
                UNROLL for (int down = 0; down < 2; down++) {
                    REAL *row = plane + (2 * y + down) * NV * LANES + 2 * x;
                    const vec left = keep(k == 2 * down, g), right = keep(k == 2 * down + 1, g);
                    store(row, load(row) + LOW(left, right));
                    if (2 * x + LANES < NV * LANES) store(row + LANES, load(row + LANES) + HIGH(left, right));
                }
            }
    }
}

/* Adds an image's share to the weights' gradient, in vectors: (COUT, TAPS, LANES), or (K, COUT, KV * LANES). */
static void weigh(const REAL *in, const REAL *dz, REAL *acc_all) {
    if (ACROSS) {
        for (int ky = 0; ky < K; ky++)
            for (int o = 0; o < COUT; o += OB) {
                REAL *kept = acc_all + (ky * COUT + o) * KV * LANES;
                vec acc[OB][KV];
                UNROLL for (int j = 0; j < OB; j++)
                    UNROLL for (int v = 0; v < KV; v++) acc[j][v] = load(kept + (j * KV + v) * LANES);
                for (int y = 0; y < OH; y++)
                    for (int x = 0; x < OW; x++) {
                        const REAL *seen = in + ((y + ky) * W + x) * CIN, *g = dz + (y * OW + x) * COUT + o;
                        UNROLL for (int v = 0; v < KV; v++) {
                            const vec s = held(load(seen + v * LANES));
                            UNROLL for (int j = 0; j < OB; j++) acc[j][v] += s * g[j];
                        }
                    }
                UNROLL for (int j = 0; j < OB; j++)
                    UNROLL for (int v = 0; v < KV; v++) store(kept + (j * KV + v) * LANES, acc[j][v]);
            }
        return;
    }
    for (int i = 0; i < CIN; i++)
        for (int ky = 0; ky < K; ky++)
            for (int c = 0; c < COUT; c += WB) {
                vec acc[WB][K];
                UNROLL for (int j = 0; j < WB; j++)
                    UNROLL for (int kx = 0; kx < K; kx++)
                        acc[j][kx] = load(acc_all + ((c + j) * TAPS + (i * K + ky) * K + kx) * LANES);
                for (int y = 0; y < OH; y++)
                    for (int v = 0; v < NV; v++) {
                        const REAL *seen = in + (i * H + y + ky) * WS + v * LANES;
                        vec g[WB];
                        UNROLL for (int j = 0; j < WB; j++)
                            g[j] = held(load(dz + ((c + j) * OH + y) * NV * LANES + v * LANES));
                        UNROLL for (int kx = 0; kx < K; kx++) {
                            const vec s = held(load(seen + kx));
                            UNROLL for (int j = 0; j < WB; j++) acc[j][kx] += s * g[j];
                        }
                    }
                UNROLL for (int j = 0; j < WB; j++)
                    UNROLL for (int kx = 0; kx < K; kx++)
                        store(acc_all + ((c + j) * TAPS + (i * K + ky) * K + kx) * LANES, acc[j][kx]);
            }
}

/* What one place's gradient of z gives to `rows` rows of the input's gradient, from row `top` of the kernel on. */
static inline __attribute__((always_inline)) void transpose_rows(const REAL *dz, const REAL *taps, REAL *to, int y, int x,
                                                                 int top, const int rows) {
    vec acc[KB][KV];
    UNROLL for (int ky = 0; ky < rows; ky++)
        UNROLL for (int v = 0; v < KV; v++) acc[ky][v] = (vec){0};
    for (int o = 0; o < COUT; o++) {
        const REAL g = ACROSS ? dz[(y * OW + x) * COUT + o] : dz[(o * OH + y) * NV * LANES + x];
        const REAL *tap = taps + (o * K + top) * KV * LANES;
        UNROLL for (int ky = 0; ky < rows; ky++)
            UNROLL for (int v = 0; v < KV; v++) acc[ky][v] += g * load(tap + (ky * KV + v) * LANES);
    }
    UNROLL for (int ky = 0; ky < rows; ky++)
        UNROLL for (int v = 0; v < KV; v++) {
            REAL *place = to + ((y + top + ky) * W + x) * CIN + v * LANES;
            store(place, load(place) + acc[ky][v]);
        }
}

/* The gradient of the input, channels innermost: `taps` (COUT, K, KV * LANES), zero beyond KC; `to` is zero. */
static void transpose_one(const REAL *dz, const REAL *taps, REAL *to) {
    for (int y = 0; y < OH; y++)
        for (int x = 0; x < OW; x++) {
            for (int top = 0; top + KB <= K; top += KB) transpose_rows(dz, taps, to, y, x, top, KB);
            if (K % KB) transpose_rows(dz, taps, to, y, x, K - K % KB, K % KB);
        }
}

/* Gradients of weight (G * COUT, CIN, K, K) and, unless `dx` is NULL, of x, from the pooled output's (see open_up). */
void backward(const REAL *x, const REAL *weight, const REAL *z, const uint8_t *code, const REAL *grad,
              const REAL *centre, const REAL *a, const REAL *b, const REAL *d, int dense, REAL *dx, REAL *dweight, long num,
              long groups, long shared, int threads) {
    const long size = groups * ACC_SIZE;
    REAL *parts = room(threads * size * sizeof(REAL));
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        const int thread = part(num, &low, &high);
        REAL *in = room((ACROSS ? ROOM : CIN * H * WS + WS) * sizeof(REAL)), *dz = room(DZ_SIZE * sizeof(REAL));
        REAL *taps = room(COUT * K * KV * LANES * sizeof(REAL)), *back = room(ROOM * sizeof(REAL));
        for (long g = 0; g < groups; g++) {
            for (int o = 0; dx && o < COUT; o++)
                for (int t = 0; t < TAPS; t++)
                    taps[(o * K + t / K % K) * KV * LANES + t % K * CIN + t / K / K] = weight[(g * COUT + o) * TAPS + t];
            for (long n = low; n < high; n++) {
                const long at = n * groups + g;
                const REAL *image = x + (shared ? n : at) * CIN * IH * IW;
                open_up(z + at * COUT * PLACES, code + at * COUT * POOLED, grad + at * COUT * POOLED, centre + g * COUT,
                        a + g * COUT, b + g * COUT, d + g * COUT, dense, dz);
                if (ACROSS) interleave(image, in);
                else spread(image, in);
                weigh(in, dz, parts + thread * size + g * ACC_SIZE);
                if (!dx) continue;
                memset(back, 0, ROOM * sizeof(REAL));
                transpose_one(dz, taps, back);
                REAL *to = dx + at * CIN * IH * IW;
                for (int i = 0; i < CIN; i++)
                    for (int y = 0; y < IH; y++)
                        for (int j = 0; j < IW; j++)
                            to[(i * IH + y) * IW + j] = back[((y + PAD) * W + j + PAD) * CIN + i];
            }
        }
        free(in), free(dz), free(taps), free(back);
    }
    for (long c = 0; c < groups * COUT; c++)
        for (int t = 0; t < TAPS; t++) {
            REAL sum = 0;
            for (int p = 0; p < threads; p++) {
                const REAL *own = parts + p * size + c / COUT * ACC_SIZE;
                sum += ACROSS ? own[(t / K % K * COUT + c % COUT) * KV * LANES + t % K * CIN + t / K / K]
                              : total(load(own + (c % COUT * TAPS + t) * LANES));
            }
            dweight[c * TAPS + t] = sum;
        }
    free(parts);
}
