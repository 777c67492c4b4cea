/* A 3x3 convolution with padding 1, and ReLU if asked for, by Winograd's F(4x4, 3x3), forward and backward, in the layout
   channels_last. Images are of the type `stored`, all else of REAL (see lanes.h).

   Sixteen outputs of a 4x4 tile need 36 products a pair of channels instead of 144 (Lavin and Gray, 2016): with the 6x6
   patch d under the tile and the kernel g,
       y = A' [ (G g G') * (B' d B) ] A,   dg = G' [ (B' d B) * (A dy A') ] G,
   and the gradient of d is the same convolution of dy with the kernel turned around. Of 36 products each is a matrix of
   tiles by channels times one of channels by channels. Compiled for REAL, CIN and COUT, multiples of LANES; what tiles have
   beyond the image is 0 and not written. Threads take consecutive images, and their sums are added in the order of the
   threads: one number of threads, one result.

   A, B and G follow from six points at which polynomials are multiplied (Cook and Toom): 0, r and -r, 1/r and -1/r, and
   infinity, with r the root of 2. The usual 0, 1, -1, 2, -2 would double the rounding errors, as the powers lie further
   apart. */

#include "lanes.h"

#define TILE 4
#define PATCH 6
#define MATRICES 36
#define TILES LANES /* that are multiplied at a time */
#define VO (COUT / LANES)
/* Registers hold the sums of ROWS tiles, or input channels, and VB vectors of output channels: LANES, half of what there
   are. Each number that is read is multiplied ROWS or VB times. VB divides VO, and ROWS TILES and CIN. */
#define VB (LANES == 16 && VO % 4 == 0 ? 4 : VO % 2 == 0 ? 2 : 1)
#define ROWS (LANES / VB)
#define NEXT(channels) (TILES * (channels) + LANES) /* from one matrix to the next: no power of two, as caches are */
#define SUMMED 64 /* tiles that are added up before they are added to the others */
#define UNROLL _Pragma("GCC unroll 16")
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)
#define INLINE static inline __attribute__((always_inline))

/* The transformations along one side. */

#define ROOT ((REAL)1.41421356237309504880)
#define HALF ((REAL)0.5)

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

/* max(0, value), or NaN; and a gradient where `y`, what came of it, is not 0. NULL: there was no ReLU. */
static inline vec rectified(vec value) { return keep(~(value < 0), value); }
static inline vec passed(const stored *gradient, const stored *y) {
    return y ? keep(~(read(y) <= 0), read(gradient)) : read(gradient);
}

static REAL *numbers(long count) { return room(count * sizeof(REAL)); }

/* Images of H by W, in TH by TW tiles, of which those at the lower and right edge may reach beyond. */
typedef struct {
    int h, w, th, tw, tiles, together; /* together: images whose tiles fill one multiplication */
} shape;

static shape shape_of(int h, int w) {
    const int th = (h + TILE - 1) / TILE, tw = (w + TILE - 1) / TILE, tiles = th * tw;
    return (shape){h, w, th, tw, tiles, tiles < TILES ? TILES / tiles : 1};
}

static long padded_row(shape s) { return TILE * s.tw + 2; }
static long padded_size(shape s) { return (TILE * s.th + 2) * padded_row(s); }

/* Where a tile lies: its image, and the row and column of its first pixel. */
typedef struct {
    int image, top, left;
} place;

INLINE place place_of(int tile, shape s) {
    const int within = tile % s.tiles;
    return (place){tile / s.tiles, within / s.tw * TILE, within % s.tw * TILE};
}

/* `count` images (H, W, channels), or gradients that ReLU's `y` lets pass, each into the middle of a rim of zeros. */
static void pad(const stored *x, const stored *y, REAL *padded, int count, shape s, int channels) {
    for (int n = 0; n < count; n++)
        for (int i = 0; i < s.h; i++) {
            const long from = ((long)n * s.h + i) * s.w * channels;
            REAL *to = padded + (n * padded_size(s) + (i + 1) * padded_row(s) + 1) * channels;
            for (long k = 0; k < (long)s.w * channels; k += LANES)
                store(to + k, passed(x + from + k, y ? y + from + k : NULL));
        }
}

/* A tile's place in each matrix. */
static void clear(REAL *to, int channels) {
    for (int f = 0; f < MATRICES; f++) memset(to + (long)f * NEXT(channels), 0, channels * sizeof(REAL));
}

/* B' d B of tiles `from` to `from` + TILES (those from `end` on: 0): (MATRICES, TILES, channels), NEXT apart. */
INLINE void patches(const REAL *padded, REAL *found, int from, int end, shape s, const int channels) {
    const long row = padded_row(s) * channels, next = NEXT(channels);
    for (int t = 0; t < TILES; t++) {
        REAL *to = found + (long)t * channels;
        if (from + t >= end) {
            clear(to, channels);
            continue;
        }
        const place p = place_of(from + t, s);
        const REAL *at = padded + (p.image * padded_size(s) + p.left) * channels + p.top * row;
        for (int c = 0; c < channels; c += LANES) {
            vec half[PATCH][PATCH];
            EACH(j, PATCH) {
                vec d[PATCH], down[PATCH];
                EACH(i, PATCH) d[i] = load(at + i * row + j * channels + c);
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

/* Bring nearer, while products are computed, the f-th of MATRICES parts of what the next TILES tiles read or write. */
#define PART(channels) ((TILES * TILE * TILE * (channels) + MATRICES - 1) / MATRICES)
#define BRING(from, channels, writes) \
    for (long k = 0; (from) && k < PART(channels); k += 64 / sizeof *(from)) \
    __builtin_prefetch((from) + f * PART(channels) + k, writes)

/* (MATRICES, TILES, COUT) from (MATRICES, TILES, CIN) and the kernel (MATRICES, CIN, COUT). Next come `x`, with `of_x`
   unless that is NULL, and `y`. */
static void multiply(const REAL *patch, const REAL *kernel, REAL *product, const stored *x, const stored *of_x,
                     const stored *y) {
    for (int f = 0; f < MATRICES; f++) {
        BRING(x, CIN, 0);
        BRING(of_x, CIN, 0);
        BRING(y, COUT, 1);
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

/* A' m A of the tiles `from` to `end`, TILES at most, rectified if asked for, into images y (H, W, COUT). */
INLINE void outputs(const REAL *product, stored *y, int from, int end, shape s, const int relu) {
    const long next = NEXT(COUT);
    for (int t = 0; t < TILES && from + t < end; t++) {
        const place p = place_of(from + t, s);
        const int high = s.h - p.top, wide = s.w - p.left;
        stored *at = y + (((long)p.image * s.h + p.top) * s.w + p.left) * COUT;
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
                EACH(j, TILE) if (i < high && j < wide)
                    write(at + ((long)i * s.w + j) * COUT + c, relu ? rectified(across[j]) : across[j]);
            }
        }
    }
}

/* A dy A' of tiles `from` to `from` + TILES (those from `end` on: 0), dy as ReLU's `y` lets it pass:
   (MATRICES, TILES, COUT). */
INLINE void spread(const stored *dy, const stored *y, REAL *found, int from, int end, shape s) {
    const long next = NEXT(COUT);
    for (int t = 0; t < TILES; t++) {
        REAL *to = found + (long)t * COUT;
        if (from + t >= end) {
            clear(to, COUT);
            continue;
        }
        const place p = place_of(from + t, s);
        const int high = s.h - p.top, wide = s.w - p.left;
        const long at = (((long)p.image * s.h + p.top) * s.w + p.left) * COUT;
        for (int c = 0; c < COUT; c += LANES) {
            vec half[PATCH][TILE];
            EACH(j, TILE) {
                vec column[TILE], down[PATCH];
                EACH(i, TILE) {
                    const long k = at + ((long)i * s.w + j) * COUT + c;
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
static void add_products(const REAL *patch, const REAL *gradient, REAL *sums, const stored *x, const stored *dy,
                         const stored *of_dy) {
    for (int f = 0; f < MATRICES; f++) {
        BRING(x, CIN, 0);
        BRING(dy, COUT, 0);
        BRING(of_dy, COUT, 0);
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

/* G g G', (MATRICES, CIN, COUT), of a kernel (3, 3, CIN, COUT); turned around for the gradient of the input. */
static void transformed(const REAL *weight, REAL *kernel, int turned) {
    const long next = (long)CIN * COUT;
    for (long at = 0; at < next; at += LANES) {
        vec half[PATCH][3];
        EACH(k, 3) {
            vec g[3], down[PATCH];
            EACH(h, 3) g[h] = load(weight + (turned ? 8 - 3 * h - k : 3 * h + k) * next + at);
            to_kernel(g, down);
            EACH(h, PATCH) half[h][k] = down[h];
        }
        EACH(h, PATCH) {
            vec across[PATCH];
            to_kernel(half[h], across);
            EACH(k, PATCH) store(kernel + (PATCH * h + k) * next + at, across[k]);
        }
    }
}

/* G' u G, (3, 3, CIN, COUT), of (MATRICES, CIN, COUT). */
static void kernel_of(const REAL *sums, REAL *gradient) {
    const long next = (long)CIN * COUT;
    for (long at = 0; at < next; at += LANES) {
        vec half[3][PATCH];
        EACH(k, PATCH) {
            vec u[PATCH], down[3];
            EACH(h, PATCH) u[h] = load(sums + (PATCH * h + k) * next + at);
            from_kernel(u, down);
            EACH(h, 3) half[h][k] = down[h];
        }
        EACH(h, 3) {
            vec across[3];
            from_kernel(half[h], across);
            EACH(k, 3) store(gradient + (3 * h + k) * next + at, across[k]);
        }
    }
}

INLINE void convolved(const stored *x, const stored *rectified_x, const REAL *kernel, stored *y, long num, shape s,
                      const int relu, int threads) {
    const long pixels = (long)s.h * s.w;
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(num, &low, &high);
        REAL *padded = numbers(s.together * padded_size(s) * CIN);
        REAL *patch = numbers((long)MATRICES * NEXT(CIN)), *product = numbers((long)MATRICES * NEXT(COUT));
        for (long n = low; n < high; n += s.together) {
            const int count = high - n < s.together ? high - n : s.together;
            const long at = n * pixels, after = at + count * pixels;
            pad(x + at * CIN, rectified_x ? rectified_x + at * CIN : NULL, padded, count, s, CIN);
            for (int from = 0; from < count * s.tiles; from += TILES) {
                const long done = (long)TILE * TILE * from, next = (after + done) * CIN;
                patches(padded, patch, from, count * s.tiles, s, CIN);
                multiply(patch, kernel, product, x + next, rectified_x ? rectified_x + next : NULL,
                         y + (at + done + TILE * TILE * TILES) * COUT);
                outputs(product, y + at * COUT, from, count * s.tiles, s, relu);
            }
        }
        free(padded), free(patch), free(product);
    }
}

/* y (N, H, W, COUT) = x (N, H, W, CIN) convolved with a kernel (3, 3, CIN, COUT), then rectified. */
void convolve(const stored *x, const REAL *weight, stored *y, long num, int h, int w, int relu, int threads) {
    REAL *kernel = numbers((long)MATRICES * CIN * COUT);
    transformed(weight, kernel, 0);
    if (relu) convolved(x, NULL, kernel, y, num, shape_of(h, w), 1, threads);
    else convolved(x, NULL, kernel, y, num, shape_of(h, w), 0, threads);
    free(kernel);
}

/* The gradient of what was convolved, from that of the result, its CIN the former COUT; `y` is the result that ReLU
   left, or NULL. */
void input_gradient(const stored *dy, const stored *y, const REAL *weight, stored *dx, long num, int h, int w,
                    int threads) {
    REAL *kernel = numbers((long)MATRICES * CIN * COUT);
    transformed(weight, kernel, 1);
    convolved(dy, y, kernel, dx, num, shape_of(h, w), 0, threads);
    free(kernel);
}

/* The kernel's gradient, (3, 3, CIN, COUT), from x and dy; `y` as above. */
void kernel_gradient(const stored *x, const stored *dy, const stored *y, REAL *gradient, long num, int h, int w,
                     int threads) {
    const shape s = shape_of(h, w);
    const long size = (long)MATRICES * CIN * COUT, pixels = (long)h * w;
    REAL *totals = numbers(threads * size);
#pragma omp parallel num_threads(threads)
    {
        long low, high, waiting = 0;
        const int thread = part(num, &low, &high);
        REAL *padded = numbers(s.together * padded_size(s) * CIN), *sums = numbers(size), *total = totals + thread * size;
        REAL *patch = numbers((long)MATRICES * NEXT(CIN)), *slopes = numbers((long)MATRICES * NEXT(COUT));
        for (long n = low; n < high; n += s.together) {
            const int count = high - n < s.together ? high - n : s.together, end = count * s.tiles;
            const long at = n * pixels, after = at + count * pixels;
            pad(x + at * CIN, NULL, padded, count, s, CIN);
            for (int from = 0; from < end; from += TILES) {
                const long done = (long)TILE * TILE * from, next = (at + done + TILE * TILE * TILES) * COUT;
                patches(padded, patch, from, end, s, CIN);
                if (y) spread(dy + at * COUT, y + at * COUT, slopes, from, end, s);
                else spread(dy + at * COUT, NULL, slopes, from, end, s);
                add_products(patch, slopes, sums, x + (after + done) * CIN, dy + next, y ? y + next : NULL);
                waiting += TILES;
                if (waiting >= SUMMED || (n + count == high && from + TILES >= end)) {
                    for (long k = 0; k < size; k += LANES)
                        store(total + k, load(total + k) + load(sums + k)), store(sums + k, (vec){0});
                    waiting = 0;
                }
            }
        }
        free(padded), free(patch), free(slopes), free(sums);
    }
    for (int t = 1; t < threads; t++)
        for (long k = 0; k < size; k += LANES) store(totals + k, load(totals + k) + load(totals + t * size + k));
    kernel_of(totals, gradient);
    free(totals);
}
