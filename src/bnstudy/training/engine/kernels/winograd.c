/* A 3x3 convolution with padding 1 at a STRIDE of 1 or 2, and an addition and ReLU if asked for, by Winograd's
   F(4x4, 3x3), forward and backward, in the layout channels_last. Images are of the type `stored`, all else of REAL (see
   lanes.h).

   Sixteen outputs of a 4x4 tile need 36 products a pair of channels, at stride 2 81, instead of 144 (Lavin and Gray,
   2016): with the patch d under the tile, 6x6 or 9x9, and the kernel g,
       y = A' [ (G g G') * (B' d B) ] A,   dg = G' [ (B' d B) * (A dy A') ] G,   dd = B [ (G g G') * (A dy A') ] B',
   of which the last, at stride 1, is also the first for dy and the kernel turned around. Of the products each is a matrix
   of tiles by channels times one of channels by channels. Compiled for REAL, STRIDE, CIN and COUT, multiples of LANES;
   what tiles have beyond the image is 0 and not written. Threads take consecutive images, and their sums are added in the
   order of the threads: one number of threads, one result.

   At stride 1 A, B and G follow from six points at which polynomials are multiplied (Cook and Toom): 0, r and -r, 1/r and
   -1/r, and infinity, with r the root of 2. The usual 0, 1, -1, 2, -2 would double the rounding errors, as the powers lie
   further apart. At stride 2 the outer two of the kernel's three numbers meet every second pixel alone, the middle one the
   others. This is one product for each output, and that a convolution by two numbers, F(4, 2), at the points 0, -1, 1/2, 2
   and infinity: nine products along a side for four outputs. */

#include "wide.h"

#define TILE 4
#define STEP (STRIDE * TILE) /* pixels from one patch to the next */
#if STRIDE == 1
#define PATCH 6
#else
#define PATCH 9
#endif
#define OVERLAP (PATCH - STEP)
#define MATRICES (PATCH * PATCH)
#define TILES LANES /* that are multiplied at a time */
#define NEXT(channels) (TILES * (channels) + LANES) /* from one matrix to the next: no power of two, as caches are */
#ifdef BF16 /* tiles that are added up before they are added to the others */
#define SUMMED 256 /* of numbers with eight bits: what more of them would round off is nothing beside that */
#else
#define SUMMED 64
#endif

/* The transformations along one side. */

#define HALF ((REAL)0.5)

#if STRIDE == 1
#define ROOT ((REAL)1.41421356237309504880)

INLINE void to_patch(const vec d[PATCH], vec to[PATCH]) { /* B' d */
    const vec near = d[4] - d[2] * 2, of_near = (d[3] - d[1] * 2) * (ROOT / 2); /* even and odd powers of 1/r */
    const vec far = d[4] - d[2] * HALF, of_far = (d[3] - d[1] * HALF) * ROOT; /* and of r */
    to[0] = d[0] + d[4] - d[2] * (REAL)2.5, to[5] = d[1] + d[5] - d[3] * (REAL)2.5;
    to[1] = near + of_near, to[2] = near - of_near, to[3] = far + of_far, to[4] = far - of_far;
}

INLINE void to_outputs(const vec m[PATCH], vec y[TILE]) { /* A' m */
    const vec near = m[1] + m[2], of_near = (m[1] - m[2]) * (ROOT / 2), far = m[3] + m[4], of_far = (m[3] - m[4]) * ROOT;
    y[0] = m[0] + near + far, y[1] = of_near + of_far;
    y[2] = near * HALF + far * 2, y[3] = m[5] + of_near * HALF + of_far * 2;
}

INLINE void from_outputs(const vec y[TILE], vec m[PATCH]) { /* A y */
    const vec near = y[0] + y[2] * HALF, of_near = (y[1] + y[3] * HALF) * (ROOT / 2);
    const vec far = y[0] + y[2] * 2, of_far = (y[1] + y[3] * 2) * ROOT;
    m[0] = y[0], m[1] = near + of_near, m[2] = near - of_near, m[3] = far + of_far, m[4] = far - of_far, m[5] = y[3];
}

INLINE void to_kernel(const vec g[3], vec u[PATCH]) { /* G g */
    const vec near = (g[0] + g[2] * HALF) * (REAL)(-2 / 3.0), of_near = g[1] * (ROOT / -3);
    const vec far = (g[0] + g[2] * 2) / 6, of_far = g[1] * (ROOT / 6);
    u[0] = g[0], u[1] = near + of_near, u[2] = near - of_near, u[3] = far + of_far, u[4] = far - of_far, u[5] = g[2];
}

INLINE void from_kernel(const vec u[PATCH], vec g[3]) { /* G' u */
    const vec near = (u[1] + u[2]) * (REAL)(-2 / 3.0), far = (u[3] + u[4]) / 6;
    g[0] = u[0] + near + far, g[2] = near * HALF + far * 2 + u[5];
    g[1] = (u[1] - u[2]) * (ROOT / -3) + (u[3] - u[4]) * (ROOT / 6);
}

#else /* of every second number the five points, then the four numbers between */
#define MORE ((REAL)1.5)

INLINE void to_patch(const vec d[PATCH], vec to[PATCH]) { /* B' d */
    to[0] = d[0] + d[6] - (d[2] + d[4]) * MORE, to[4] = d[2] + d[8] - (d[4] + d[6]) * MORE;
    to[1] = d[2] + d[6] - d[4] * (REAL)2.5, to[2] = d[6] - d[4] - d[2] * 2, to[3] = d[6] + (d[4] - d[2]) * HALF;
    EACH(i, TILE) to[5 + i] = d[1 + 2 * i];
}

INLINE void from_patch(const vec m[PATCH], vec d[PATCH]) { /* B m */
    d[0] = m[0], d[2] = m[1] + m[4] - m[0] * MORE - m[2] * 2 - m[3] * HALF;
    d[8] = m[4], d[4] = m[3] * HALF - (m[0] + m[4]) * MORE - m[1] * (REAL)2.5 - m[2];
    d[6] = m[0] + m[1] + m[2] + m[3] - m[4] * MORE;
    EACH(i, TILE) d[1 + 2 * i] = m[5 + i];
}

INLINE void to_outputs(const vec m[PATCH], vec y[TILE]) { /* A' m */
    y[0] = m[0] + m[1] + m[2] + m[3] + m[5];
    y[1] = m[2] * HALF + m[3] * 2 - m[1] + m[6];
    y[2] = m[2] / 4 + m[3] * 4 + m[1] + m[7];
    y[3] = m[2] / 8 + m[3] * 8 - m[1] + m[4] + m[8];
}

INLINE void from_outputs(const vec y[TILE], vec m[PATCH]) { /* A y */
    m[0] = y[0], m[1] = y[0] - y[1] + y[2] - y[3], m[4] = y[3];
    m[2] = y[0] + y[1] * HALF + y[2] / 4 + y[3] / 8, m[3] = y[0] + y[1] * 2 + y[2] * 4 + y[3] * 8;
    EACH(i, TILE) m[5 + i] = y[i];
}

INLINE void to_kernel(const vec g[3], vec u[PATCH]) { /* G g */
    u[0] = g[0], u[4] = g[2];
    u[1] = (g[2] - g[0]) * (REAL)(2 / 9.0), u[2] = (g[0] + g[2] * HALF) * (REAL)(-8 / 9.0), u[3] = (g[0] + g[2] * 2) / 9;
    EACH(i, TILE) u[5 + i] = g[1];
}

INLINE void from_kernel(const vec u[PATCH], vec g[3]) { /* G' u */
    const vec minus = u[1] * (REAL)(2 / 9.0), half = u[2] * (REAL)(-8 / 9.0), two = u[3] / 9;
    g[0] = u[0] - minus + half + two, g[1] = u[5] + u[6] + u[7] + u[8], g[2] = u[4] + minus + half * HALF + two * 2;
}
#endif

/* Images of H by W and their outputs of OH by OW, in TH by TW tiles, of which those at the lower and right edge may reach
   beyond. */
typedef struct {
    int h, w, oh, ow, th, tw, tiles, together; /* together: images whose tiles fill one multiplication */
} shape;

static shape shape_of(int h, int w) {
    const int oh = (h + STRIDE - 1) / STRIDE, ow = (w + STRIDE - 1) / STRIDE;
    const int th = (oh + TILE - 1) / TILE, tw = (ow + TILE - 1) / TILE, tiles = th * tw;
    return (shape){h, w, oh, ow, th, tw, tiles, tiles < TILES ? TILES / tiles : 1};
}

static long pixels(shape s) { return (long)s.h * s.w; }
static long places(shape s) { return (long)s.oh * s.ow; }
static long padded_row(shape s) { return STEP * s.tw + OVERLAP; }
static long padded_size(shape s) { return (STEP * s.th + OVERLAP) * padded_row(s); }

/* Where a tile lies: its image, and the row and column of its first output. */
typedef struct {
    int image, top, left;
} place;

INLINE place place_of(int tile, shape s) {
    const int within = tile % s.tiles;
    return (place){tile / s.tiles, within / s.tw * TILE, within % s.tw * TILE};
}

/* `count` images (H, W, CIN), or gradients that ReLU's `y` lets pass, each into the middle of a rim of zeros; and what
   passed as it is, unless `let_pass` is NULL. */
static void pad(const stored *x, const stored *y, REAL *padded, stored *let_pass, int count, shape s) {
    for (int n = 0; n < count; n++)
        for (int i = 0; i < s.h; i++) {
            const long from = ((long)n * s.h + i) * s.w * CIN;
            REAL *to = padded + (n * padded_size(s) + (i + 1) * padded_row(s) + 1) * CIN;
            for (long k = 0; k < (long)s.w * CIN; k += LANES) {
                const vec found = passed(x + from + k, y ? y + from + k : NULL);
                store(to + k, found);
                if (let_pass) write(let_pass + from + k, found);
            }
        }
}

/* A tile's place in each matrix. */
static void clear(REAL *to, int channels) {
    for (int f = 0; f < MATRICES; f++) memset(to + (long)f * NEXT(channels), 0, channels * sizeof(REAL));
}

/* B' d B of tiles `from` to `from` + TILES (those from `end` on: 0): (MATRICES, TILES, CIN), NEXT apart. */
SHARED void patches(const REAL *padded, REAL *found, int from, int end, shape s) {
    const long row = padded_row(s) * CIN, next = NEXT(CIN);
    for (int t = 0; t < TILES; t++) {
        REAL *to = found + (long)t * CIN;
        if (from + t >= end) {
            clear(to, CIN);
            continue;
        }
        const place p = place_of(from + t, s);
        const REAL *at = padded + (p.image * padded_size(s) + STRIDE * p.left) * CIN + STRIDE * p.top * row;
        for (int c = 0; c < CIN; c += LANES) {
            vec half[PATCH][PATCH];
            EACH(j, PATCH) {
                vec d[PATCH], down[PATCH];
                EACH(i, PATCH) d[i] = load(at + i * row + j * CIN + c);
                to_patch(d, down);
                EACH(i, PATCH) half[i][j] = down[i];
            }
            EACH(i, PATCH) {
                vec across[PATCH];
                to_patch(half[i], across);
                EACH(j, PATCH) store(to + (PATCH * i + j) * next + c, across[j]);
            }
        }
    }
}

/* Bring nearer, while products are computed, the f-th of MATRICES parts of what the next TILES tiles read or write, which
   is `side` by `side` of each. */
#define PART(side, channels) ((TILES * (side) * (side) * (channels) + MATRICES - 1) / MATRICES)
#define BRING(from, side, channels, writes) \
    for (long k = 0; (from) && k < PART(side, channels); k += 64 / sizeof *(from)) \
    __builtin_prefetch((from) + f * PART(side, channels) + k, writes)

/* (MATRICES, TILES, COUT) from (MATRICES, TILES, CIN) and the kernel (MATRICES, CIN, COUT). Next come `x`, with `of_x`
   unless that is NULL, and `y`, with what is `added` unless that is NULL. */
SHARED void multiply(const REAL *patch, const REAL *kernel, REAL *product, const stored *x, const stored *of_x,
                     int x_side, const stored *y, const stored *added, int y_side) {
    for (int f = 0; f < MATRICES; f++) {
        BRING(x, x_side, CIN, 0);
        BRING(of_x, x_side, CIN, 0);
        BRING(y, y_side, COUT, 1);
        BRING(added, y_side, COUT, 0);
        for (int at = 0; at < COUT; at += VB * LANES)
            for (int t = 0; t < TILES; t += ROWS) {
                const REAL *v = patch + f * NEXT(CIN) + t * CIN, *u = kernel + (long)f * CIN * COUT + at;
                REAL *m = product + f * NEXT(COUT) + t * COUT + at;
                vec sum[ROWS][VB];
                EACH(r, ROWS) EACH(o, VB) sum[r][o] = (vec){0};
                for (int i = 0; i < CIN; i++) {
                    vec w[VB];
                    EACH(o, VB) w[o] = held(load(u + (long)i * COUT + o * LANES));
                    EACH(r, ROWS) EACH(o, VB) sum[r][o] += w[o] * v[r * CIN + i];
                }
                EACH(r, ROWS) EACH(o, VB) store(m + r * COUT + o * LANES, sum[r][o]);
            }
    }
}

/* A' m A of the tiles `from` to `end`, TILES at most, and what is `added` (unless NULL), rectified if asked for, into images
   y (H, W, COUT). What is rectified is rounded before the addition, as a convolution's output by itself would be. */
INLINE void outputs(const REAL *product, const stored *added, stored *y, int from, int end, shape s, const int relu) {
    const long next = NEXT(COUT);
    for (int t = 0; t < TILES && from + t < end; t++) {
        const place p = place_of(from + t, s);
        const int high = s.oh - p.top, wide = s.ow - p.left;
        const long corner = (((long)p.image * s.oh + p.top) * s.ow + p.left) * COUT;
        for (int c = 0; c < COUT; c += LANES) {
            const REAL *m = product + (long)t * COUT + c;
            vec half[TILE][PATCH];
            EACH(j, PATCH) {
                vec column[PATCH], down[TILE];
                EACH(i, PATCH) column[i] = load(m + (PATCH * i + j) * next);
                to_outputs(column, down);
                EACH(i, TILE) half[i][j] = down[i];
            }
            EACH(i, TILE) {
                vec across[TILE];
                to_outputs(half[i], across);
                EACH(j, TILE) if (i < high && j < wide) {
                    const long at = corner + ((long)i * s.ow + j) * COUT + c;
                    const vec found = added ? (relu ? rounded(across[j]) : across[j]) + read(added + at) : across[j];
                    write(y + at, relu ? rectified(found) : found);
                }
            }
        }
    }
}

/* A dy A' of tiles `from` to `from` + TILES (those from `end` on: 0), dy as ReLU's `y` lets it pass:
   (MATRICES, TILES, channels). */
INLINE void spread(const stored *dy, const stored *y, REAL *found, int from, int end, shape s, const int channels) {
    const long next = NEXT(channels);
    for (int t = 0; t < TILES; t++) {
        REAL *to = found + (long)t * channels;
        if (from + t >= end) {
            clear(to, channels);
            continue;
        }
        const place p = place_of(from + t, s);
        const int high = s.oh - p.top, wide = s.ow - p.left;
        const long at = (((long)p.image * s.oh + p.top) * s.ow + p.left) * channels;
        for (int c = 0; c < channels; c += LANES) {
            vec half[PATCH][TILE];
            EACH(j, TILE) {
                vec column[TILE], down[PATCH];
                EACH(i, TILE) {
                    const long k = at + ((long)i * s.ow + j) * channels + c;
                    column[i] = i < high && j < wide ? passed(dy + k, y ? y + k : NULL) : (vec){0};
                }
                from_outputs(column, down);
                EACH(i, PATCH) half[i][j] = down[i];
            }
            EACH(i, PATCH) {
                vec across[PATCH];
                from_outputs(half[i], across);
                EACH(j, PATCH) store(to + (PATCH * i + j) * next + c, across[j]);
            }
        }
    }
}

/* Adds (MATRICES, CIN, COUT), the products of patches and spread gradients summed over the tiles. Next come `x` and `dy`,
   with `of_dy` unless that is NULL. */
SHARED void add_products(const REAL *patch, const REAL *gradient, REAL *sums, const stored *x, const stored *dy,
                         const stored *of_dy) {
    for (int f = 0; f < MATRICES; f++) {
        BRING(x, STEP, CIN, 0);
        BRING(dy, TILE, COUT, 0);
        BRING(of_dy, TILE, COUT, 0);
        for (int i = 0; i < CIN; i += ROWS)
            for (int at = 0; at < COUT; at += VB * LANES) {
                const REAL *v = patch + f * NEXT(CIN) + i, *m = gradient + f * NEXT(COUT) + at;
                REAL *to = sums + ((long)f * CIN + i) * COUT + at;
                vec sum[ROWS][VB];
                EACH(r, ROWS) EACH(o, VB) sum[r][o] = load(to + r * COUT + o * LANES);
                for (int t = 0; t < TILES; t++) {
                    vec g[VB];
                    EACH(o, VB) g[o] = held(load(m + (long)t * COUT + o * LANES));
                    EACH(r, ROWS) EACH(o, VB) sum[r][o] += g[o] * v[(long)t * CIN + r];
                }
                EACH(r, ROWS) EACH(o, VB) store(to + r * COUT + o * LANES, sum[r][o]);
            }
    }
}

/* LANES weights, of the input i, the outputs from o on, and the place k of nine, rounded as images are. They lie as
   (COUT, 3, 3, CIN) or, `back`, as the weights of a convolution from COUT to CIN, (CIN, 3, 3, COUT). */
INLINE vec weights_at(const REAL *weight, int k, long i, long o, const int back) {
    if (back) return rounded(load(weight + (9 * i + k) * COUT + o));
    vec found;
    EACH(l, LANES) found[l] = weight[(9 * (o + l) + k) * CIN + i];
    return rounded(found);
}

/* G g G', (MATRICES, CIN, COUT), of the weights g, `back` and `turned` around for the gradient of the input. All threads
   of a team call it, and wait for one another. */
INLINE void transformed(const REAL *weight, REAL *kernel, const int back, const int turned) {
    const long next = (long)CIN * COUT;
    long low, high;
    part(next / LANES, &low, &high);
    for (long at = low * LANES; at < high * LANES; at += LANES) {
        vec half[PATCH][3];
        EACH(k, 3) {
            vec g[3], down[PATCH];
            EACH(h, 3) g[h] = weights_at(weight, turned ? 8 - 3 * h - k : 3 * h + k, at / COUT, at % COUT, back);
            to_kernel(g, down);
            EACH(h, PATCH) half[h][k] = down[h];
        }
        EACH(h, PATCH) {
            vec across[PATCH];
            to_kernel(half[h], across);
            EACH(k, PATCH) store(kernel + (PATCH * h + k) * next + at, across[k]);
        }
    }
#pragma omp barrier
}

/* G' u G, (COUT, 3, 3, CIN), of the sum u of what `threads` found, (MATRICES, CIN, COUT) each; NULL: there was no such
   thread. Each thread of a team does its part. */
SHARED void kernel_of(REAL *const *found, int threads, REAL *gradient) {
    const long next = (long)CIN * COUT;
    long low, high;
    part(next / LANES, &low, &high);
    for (long at = low * LANES; at < high * LANES; at += LANES) {
        const long i = at / COUT, o = at % COUT;
        vec half[3][PATCH];
        EACH(k, PATCH) {
            vec u[PATCH], down[3];
            EACH(h, PATCH) {
                u[h] = load(found[0] + (PATCH * h + k) * next + at);
                for (int t = 1; t < threads; t++)
                    if (found[t]) u[h] += load(found[t] + (PATCH * h + k) * next + at);
            }
            from_kernel(u, down);
            EACH(h, 3) half[h][k] = down[h];
        }
        EACH(h, 3) {
            vec across[3];
            from_kernel(half[h], across);
            EACH(k, 3) EACH(l, LANES) gradient[(9 * (o + l) + 3 * h + k) * CIN + i] = across[k][l];
        }
    }
}

/* `back`: x is the gradient of what a convolution made, and y that of what it had, with what is `added`; of x is written,
   unless `let_pass` is NULL, what `rectified_x` lets pass. */
INLINE void convolved(const stored *x, const stored *rectified_x, stored *let_pass, const REAL *weight,
                      const stored *added, stored *y, long num, shape s, const int relu, const int back, int threads) {
    REAL *kernel = unset((long)MATRICES * CIN * COUT);
#pragma omp parallel num_threads(threads)
    {
        transformed(weight, kernel, back, back);
        long low, high;
        part(num, &low, &high);
        REAL *padded = numbers(s.together * padded_size(s) * CIN);
        REAL *patch = unset((long)MATRICES * NEXT(CIN)), *product = unset((long)MATRICES * NEXT(COUT));
        for (long n = low; n < high; n += s.together) {
            const int count = high - n < s.together ? high - n : s.together;
            const long at = n * pixels(s) * CIN, after = at + count * pixels(s) * CIN, to = n * places(s) * COUT;
            pad(x + at, rectified_x ? rectified_x + at : NULL, padded, let_pass ? let_pass + at : NULL, count, s);
            for (int from = 0; from < count * s.tiles; from += TILES) {
                const long next = after + (long)STEP * STEP * from * CIN;
                const long then = to + (long)TILE * TILE * (from + TILES) * COUT;
                patches(padded, patch, from, count * s.tiles, s);
                multiply(patch, kernel, product, x + next, rectified_x ? rectified_x + next : NULL, STEP, y + then,
                         added ? added + then : NULL, TILE);
                outputs(product, added ? added + to : NULL, y + to, from, count * s.tiles, s, relu);
            }
        }
        free(padded), free(patch), free(product);
    }
    free(kernel);
}

/* y (N, OH, OW, COUT) = x (N, H, W, CIN) convolved with the weights (COUT, 3, 3, CIN); rectified, if asked for, with what
   is `added`, or NULL: without ReLU nothing is added. */
void convolve(const stored *x, const REAL *weight, const stored *added, stored *y, long num, int h, int w, int relu,
              int threads) {
    if (relu && added) convolved(x, NULL, NULL, weight, added, y, num, shape_of(h, w), 1, 0, threads);
    else if (relu) convolved(x, NULL, NULL, weight, NULL, y, num, shape_of(h, w), 1, 0, threads);
    else convolved(x, NULL, NULL, weight, NULL, y, num, shape_of(h, w), 0, 0, threads);
}

#if STRIDE > 1
/* Add B m B' of the tiles `from` to `end`, TILES at most, to what their neighbours above and to the left had in common with
   them, in the middle of a rim. */
SHARED void add_patches(const REAL *product, REAL *padded, int from, int end, shape s) {
    const long row = padded_row(s) * COUT, next = NEXT(COUT);
    for (int t = 0; t < TILES && from + t < end; t++) {
        const place p = place_of(from + t, s);
        REAL *at = padded + (p.image * padded_size(s) + STRIDE * p.left) * COUT + STRIDE * p.top * row;
        for (int c = 0; c < COUT; c += LANES) {
            const REAL *m = product + (long)t * COUT + c;
            vec half[PATCH][PATCH];
            EACH(j, PATCH) {
                vec column[PATCH], down[PATCH];
                EACH(i, PATCH) column[i] = load(m + (PATCH * i + j) * next);
                from_patch(column, down);
                EACH(i, PATCH) half[i][j] = down[i];
            }
            EACH(i, PATCH) {
                vec across[PATCH];
                from_patch(half[i], across);
                EACH(j, PATCH) {
                    REAL *to = at + i * row + j * COUT + c;
                    const int shared = (i < OVERLAP && p.top) || (j < OVERLAP && p.left);
                    store(to, shared ? load(to) + across[j] : across[j]);
                }
            }
        }
    }
}

/* `count` images (H, W, COUT) out of the middle of their rims, and what is `added` (unless NULL). */
static void crop(const REAL *padded, const stored *added, stored *x, int count, shape s) {
    for (int n = 0; n < count; n++)
        for (int i = 0; i < s.h; i++) {
            const REAL *from = padded + (n * padded_size(s) + (i + 1) * padded_row(s) + 1) * COUT;
            const long row = ((long)n * s.h + i) * s.w * COUT;
            for (long k = 0; k < (long)s.w * COUT; k += LANES) {
                const vec found = load(from + k);
                write(x + row + k, added ? found + read(added + row + k) : found);
            }
        }
}

static void spread_back(const stored *dy, const stored *y, const REAL *weight, const stored *added, stored *dx, long num,
                        shape s, int threads) {
    REAL *kernel = unset((long)MATRICES * CIN * COUT);
#pragma omp parallel num_threads(threads)
    {
        transformed(weight, kernel, 1, 0);
        long low, high;
        part(num, &low, &high);
        REAL *padded = numbers(s.together * padded_size(s) * COUT);
        REAL *slopes = unset((long)MATRICES * NEXT(CIN)), *product = unset((long)MATRICES * NEXT(COUT));
        for (long n = low; n < high; n += s.together) {
            const int count = high - n < s.together ? high - n : s.together, end = count * s.tiles;
            const long of = n * places(s) * CIN, to = n * pixels(s) * COUT;
            for (int from = 0; from < end; from += TILES) {
                const long next = of + (long)TILE * TILE * (from + TILES) * CIN;
                if (y) spread(dy + of, y + of, slopes, from, end, s, CIN);
                else spread(dy + of, NULL, slopes, from, end, s, CIN);
                multiply(slopes, kernel, product, dy + next, y ? y + next : NULL, TILE,
                         dx + to + (long)STEP * STEP * from * COUT, NULL, STEP);
                add_patches(product, padded, from, end, s);
            }
            crop(padded, added ? added + to : NULL, dx + to, count, s);
        }
        free(padded), free(slopes), free(product);
    }
    free(kernel);
}
#endif

/* The gradient of what was convolved, images of H by W, from that of the result, its CIN the former COUT; `y` is the result
   that ReLU left, or NULL, and `added` a gradient that they have from elsewhere, or NULL. At stride 1 what ReLU lets pass is
   written, too, unless `let_pass` is NULL. */
void input_gradient(const stored *dy, const stored *y, const REAL *weight, const stored *added, stored *dx,
                    stored *let_pass, long num, int h, int w, int threads) {
#if STRIDE == 1
    if (added) convolved(dy, y, let_pass, weight, added, dx, num, shape_of(h, w), 0, 1, threads);
    else convolved(dy, y, let_pass, weight, NULL, dx, num, shape_of(h, w), 0, 1, threads);
#else
    spread_back(dy, y, weight, added, dx, num, shape_of(h, w), threads);
#endif
}

/* The weights' gradient, (COUT, 3, 3, CIN), from x and dy; `y` as above. */
void kernel_gradient(const stored *x, const stored *dy, const stored *y, REAL *gradient, long num, int h, int w,
                     int threads) {
    const shape s = shape_of(h, w);
    const long size = (long)MATRICES * CIN * COUT;
    REAL **totals = room(threads * sizeof *totals);
#pragma omp parallel num_threads(threads)
    {
        long low, high, waiting = 0;
        const int thread = part(num, &low, &high);
        REAL *padded = numbers(s.together * padded_size(s) * CIN), *sums = numbers(size), *total = numbers(size);
        REAL *patch = unset((long)MATRICES * NEXT(CIN)), *slopes = unset((long)MATRICES * NEXT(COUT));
        totals[thread] = total;
        for (long n = low; n < high; n += s.together) {
            const int count = high - n < s.together ? high - n : s.together, end = count * s.tiles;
            const long at = n * pixels(s) * CIN, after = at + count * pixels(s) * CIN, of = n * places(s) * COUT;
            pad(x + at, NULL, padded, NULL, count, s);
            for (int from = 0; from < end; from += TILES) {
                const long next = of + (long)TILE * TILE * (from + TILES) * COUT;
                patches(padded, patch, from, end, s);
                if (y) spread(dy + of, y + of, slopes, from, end, s, COUT);
                else spread(dy + of, NULL, slopes, from, end, s, COUT);
                add_products(patch, slopes, sums, x + after + (long)STEP * STEP * from * CIN, dy + next,
                             y ? y + next : NULL);
                waiting += TILES;
                if (waiting >= SUMMED || (n + count == high && from + TILES >= end)) {
                    for (long k = 0; k < size; k += LANES)
                        store(total + k, load(total + k) + load(sums + k)), store(sums + k, (vec){0});
                    waiting = 0;
                }
            }
        }
        free(padded), free(patch), free(slopes), free(sums);
#pragma omp barrier
        kernel_of(totals, threads, gradient);
    }
    for (int t = 0; t < threads; t++) free(totals[t]);
    free(totals);
}
