/* A 3x3 convolution with padding 1, and ReLU if asked for, by Winograd's F(2x2, 3x3), forward and backward, in the layout
   channels_last. Images are of the type `stored`, all else of REAL (see lanes.h).

   Four outputs of a 2x2 tile need 16 products a pair of channels instead of 36 (Lavin and Gray, 2016): with the 4x4 patch
   d under the tile and the kernel g,
       y = A' [ (G g G') * (B' d B) ] A,   dg = G' [ (B' d B) * (A dy A') ] G,
   and the gradient of d is the same convolution of dy with the kernel turned around. Of 16 products each is a matrix of
   tiles by channels times one of channels by channels. Compiled for REAL, CIN and COUT, multiples of LANES; images have
   even sides (2 TH by 2 TW). Threads take consecutive images, and their sums are added in the order of the threads: one
   number of threads, one result. */

#include "lanes.h"

#define TILES 16 /* that are multiplied at a time */
#define VI (CIN / LANES)
#define VO (COUT / LANES)
/* Registers hold the sums of ROWS tiles, or input channels, and VB vectors of output channels: LANES, half of what there
   are. Each number that is read is multiplied ROWS or VB times. VB divides VO, and ROWS TILES and CIN. */
#define VB (LANES == 16 && VO % 4 == 0 ? 4 : VO % 2 == 0 ? 2 : 1)
#define ROWS (LANES / VB)
#define NEXT(channels) (TILES * (channels) + LANES) /* from one of 16 matrices to the next: no power of two, as caches are */
#define SUMMED 512 /* tiles that are added up before they are added to the others */
#define UNROLL _Pragma("GCC unroll 16")
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)

/* max(0, value), or NaN; and a gradient where `y`, what came of it, is not 0. NULL: there was no ReLU. */
static inline vec rectified(vec value) { return keep(~(value < 0), value); }
static inline vec passed(const stored *gradient, const stored *y) {
    return y ? keep(~(read(y) <= 0), read(gradient)) : read(gradient);
}

static REAL *numbers(long count) { return room(count * sizeof(REAL)); }

/* An image (H, W, C), or a gradient that ReLU's `y` lets pass, into the middle of one that has a rim of zeros. */
static void pad(const stored *x, const stored *y, REAL *padded, int h, int w, int channels) {
    for (int i = 0; i < h; i++) {
        const long from = (long)i * w * channels;
        REAL *to = padded + ((i + 1L) * (w + 2) + 1) * channels;
        for (long k = 0; k < (long)w * channels; k += LANES) store(to + k, passed(x + from + k, y ? y + from + k : NULL));
    }
}

/* A tile's place in each of 16 matrices. */
static void clear(REAL *to, int channels) {
    for (int f = 0; f < 16; f++) memset(to + (long)f * NEXT(channels), 0, channels * sizeof(REAL));
}

/* B' d B of tiles `from` to `from` + TILES (those beyond the last: 0): (16, TILES, channels), NEXT apart. */
static inline __attribute__((always_inline)) void patches(const REAL *padded, REAL *found, int from, int th, int tw,
                                                          const int channels) {
    const long row = (2L * tw + 2) * channels, next = NEXT(channels);
    for (int t = 0; t < TILES; t++) {
        const int tile = from + t;
        REAL *to = found + (long)t * channels;
        if (tile >= th * tw) {
            clear(to, channels);
            continue;
        }
        const REAL *at = padded + tile / tw * 2 * row + tile % tw * 2L * channels;
        for (int c = 0; c < channels; c += LANES) {
            vec s[4][4];
            EACH(j, 4) {
                vec d[4];
                EACH(i, 4) d[i] = load(at + i * row + j * channels + c);
                s[0][j] = d[0] - d[2], s[1][j] = d[1] + d[2], s[2][j] = d[2] - d[1], s[3][j] = d[1] - d[3];
            }
            EACH(i, 4) {
                REAL *of = to + 4 * i * next + c;
                store(of, s[i][0] - s[i][2]), store(of + next, s[i][1] + s[i][2]);
                store(of + 2 * next, s[i][2] - s[i][1]), store(of + 3 * next, s[i][1] - s[i][3]);
            }
        }
    }
}

/* Bring nearer, while products are computed, the f-th of 16 parts of what the next TILES tiles read or write. */
#define BRING(from, channels, writes) \
    for (long k = 0; (from) && k < TILES / 4 * (channels); k += 64 / sizeof *(from)) \
    __builtin_prefetch((from) + f * (TILES / 4 * (channels)) + k, writes)

/* (16, TILES, COUT) from (16, TILES, CIN) and the kernel (16, CIN, COUT). Next come `x`, with `of_x` unless that is NULL,
   and `y`. */
static void multiply(const REAL *patch, const REAL *kernel, REAL *product, const stored *x, const stored *of_x,
                     const stored *y) {
    for (int f = 0; f < 16; f++) {
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

/* A' m A of the tiles from `from` on, rectified if asked for, into the image y (2 TH, 2 TW, COUT). */
static inline __attribute__((always_inline)) void outputs(const REAL *product, stored *y, int from, int th, int tw,
                                                          const int relu) {
    const long row = 2L * tw * COUT, next = NEXT(COUT);
    for (int t = 0; t < TILES && from + t < th * tw; t++) {
        const int tile = from + t;
        stored *at = y + tile / tw * 2 * row + tile % tw * 2L * COUT;
        for (int c = 0; c < COUT; c += LANES) {
            const REAL *m = product + (long)t * COUT + c;
            vec s[2][4];
            EACH(j, 4) {
                vec a = load(m + j * next), b = load(m + (4 + j) * next), d = load(m + (8 + j) * next);
                s[0][j] = a + b + d, s[1][j] = b - d - load(m + (12 + j) * next);
            }
            EACH(i, 2) {
                vec left = s[i][0] + s[i][1] + s[i][2], right = s[i][1] - s[i][2] - s[i][3];
                write(at + i * row + c, relu ? rectified(left) : left);
                write(at + i * row + COUT + c, relu ? rectified(right) : right);
            }
        }
    }
}

/* A dy A' of the tiles from `from` on (those beyond the last: 0), dy as ReLU's `y` lets it pass: (16, TILES, COUT). */
static inline __attribute__((always_inline)) void spread(const stored *dy, const stored *y, REAL *found, int from, int th,
                                                         int tw) {
    const long row = 2L * tw * COUT, next = NEXT(COUT);
    for (int t = 0; t < TILES; t++) {
        const int tile = from + t;
        REAL *to = found + (long)t * COUT;
        if (tile >= th * tw) {
            clear(to, COUT);
            continue;
        }
        const long at = tile / tw * 2 * row + tile % tw * 2L * COUT;
        for (int c = 0; c < COUT; c += LANES) {
            vec s[4][2];
            EACH(j, 2) {
                const long k = at + j * COUT + c;
                vec a = passed(dy + k, y ? y + k : NULL), b = passed(dy + row + k, y ? y + row + k : NULL);
                s[0][j] = a, s[1][j] = a + b, s[2][j] = a - b, s[3][j] = -b;
            }
            EACH(i, 4) {
                REAL *of = to + 4 * i * next + c;
                store(of, s[i][0]), store(of + next, s[i][0] + s[i][1]);
                store(of + 2 * next, s[i][0] - s[i][1]), store(of + 3 * next, -s[i][1]);
            }
        }
    }
}

/* Adds (16, CIN, COUT), the products of patches and spread gradients summed over the tiles. Next come `x` and `dy`, with
   `of_dy` unless that is NULL. */
static void add_products(const REAL *patch, const REAL *gradient, REAL *sums, const stored *x, const stored *dy,
                         const stored *of_dy) {
    for (int f = 0; f < 16; f++) {
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

/* G g G', (16, CIN, COUT), of a kernel (3, 3, CIN, COUT); turned around for the gradient of the input. */
static void transformed(const REAL *weight, REAL *kernel, int turned) {
    const long next = (long)CIN * COUT;
    for (long at = 0; at < next; at += LANES) {
        vec s[4][3];
        EACH(k, 3) {
            vec g[3];
            EACH(h, 3) g[h] = load(weight + (turned ? 8 - 3 * h - k : 3 * h + k) * next + at);
            vec ends = (g[0] + g[2]) / 2;
            s[0][k] = g[0], s[1][k] = ends + g[1] / 2, s[2][k] = ends - g[1] / 2, s[3][k] = g[2];
        }
        EACH(h, 4) {
            vec ends = (s[h][0] + s[h][2]) / 2;
            REAL *to = kernel + 4L * h * next + at;
            store(to, s[h][0]), store(to + next, ends + s[h][1] / 2);
            store(to + 2 * next, ends - s[h][1] / 2), store(to + 3 * next, s[h][2]);
        }
    }
}

/* G' u G, (3, 3, CIN, COUT), of (16, CIN, COUT). */
static void kernel_of(const REAL *sums, REAL *gradient) {
    const long next = (long)CIN * COUT;
    for (long at = 0; at < next; at += LANES) {
        vec s[3][4];
        EACH(k, 4) {
            vec u[4];
            EACH(h, 4) u[h] = load(sums + (4L * h + k) * next + at);
            vec both = (u[1] + u[2]) / 2;
            s[0][k] = u[0] + both, s[1][k] = (u[1] - u[2]) / 2, s[2][k] = both + u[3];
        }
        EACH(h, 3) {
            vec both = (s[h][1] + s[h][2]) / 2;
            REAL *to = gradient + 3L * h * next + at;
            store(to, s[h][0] + both), store(to + next, (s[h][1] - s[h][2]) / 2), store(to + 2 * next, both + s[h][3]);
        }
    }
}

static inline __attribute__((always_inline)) void convolved(const stored *x, const stored *rectified_x,
                                                            const REAL *kernel, stored *y, long num, int th, int tw,
                                                            const int relu, int threads) {
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(num, &low, &high);
        REAL *padded = numbers((2L * th + 2) * (2 * tw + 2) * CIN);
        REAL *patch = numbers(16L * NEXT(CIN)), *product = numbers(16L * NEXT(COUT));
        for (long n = low; n < high; n++) {
            const long at = n * 4 * th * tw, after = at + 4 * th * tw;
            pad(x + at * CIN, rectified_x ? rectified_x + at * CIN : NULL, padded, 2 * th, 2 * tw, CIN);
            for (int from = 0; from < th * tw; from += TILES) {
                const long next = (after + 4 * from) * CIN;
                patches(padded, patch, from, th, tw, CIN);
                multiply(patch, kernel, product, x + next, rectified_x ? rectified_x + next : NULL,
                         y + (at + 4 * (from + TILES)) * COUT);
                outputs(product, y + at * COUT, from, th, tw, relu);
            }
        }
        free(padded), free(patch), free(product);
    }
}

/* y (N, 2 TH, 2 TW, COUT) = x (N, 2 TH, 2 TW, CIN) convolved with a kernel (3, 3, CIN, COUT), then rectified. */
void convolve(const stored *x, const REAL *weight, stored *y, long num, int th, int tw, int relu, int threads) {
    REAL *kernel = numbers(16L * CIN * COUT);
    transformed(weight, kernel, 0);
    if (relu) convolved(x, NULL, kernel, y, num, th, tw, 1, threads);
    else convolved(x, NULL, kernel, y, num, th, tw, 0, threads);
    free(kernel);
}

/* The gradient of what was convolved, from that of the result, its CIN the former COUT; `y` is the result that ReLU
   left, or NULL. */
void input_gradient(const stored *dy, const stored *y, const REAL *weight, stored *dx, long num, int th, int tw,
                    int threads) {
    REAL *kernel = numbers(16L * CIN * COUT);
    transformed(weight, kernel, 1);
    convolved(dy, y, kernel, dx, num, th, tw, 0, threads);
    free(kernel);
}

/* The kernel's gradient, (3, 3, CIN, COUT), from x and dy; `y` as above. */
void kernel_gradient(const stored *x, const stored *dy, const stored *y, REAL *gradient, long num, int th, int tw,
                     int threads) {
    const long size = 16L * CIN * COUT;
    REAL *totals = numbers(threads * size);
#pragma omp parallel num_threads(threads)
    {
        long low, high, waiting = 0;
        const int thread = part(num, &low, &high);
        REAL *padded = numbers((2L * th + 2) * (2 * tw + 2) * CIN), *sums = numbers(size), *total = totals + thread * size;
        REAL *patch = numbers(16L * NEXT(CIN)), *slopes = numbers(16L * NEXT(COUT));
        for (long n = low; n < high; n++) {
            const long at = n * 4 * th * tw, after = at + 4 * th * tw;
            pad(x + at * CIN, NULL, padded, 2 * th, 2 * tw, CIN);
            for (int from = 0; from < th * tw; from += TILES) {
                const long next = (at + 4 * (from + TILES)) * COUT;
                patches(padded, patch, from, th, tw, CIN);
                if (y) spread(dy + at * COUT, y + at * COUT, slopes, from, th, tw);
                else spread(dy + at * COUT, NULL, slopes, from, th, tw);
                add_products(patch, slopes, sums, x + (after + 4 * from) * CIN, dy + next, y ? y + next : NULL);
                waiting += TILES;
                if (waiting >= SUMMED || (n == high - 1 && from + TILES >= th * tw)) {
                    for (long k = 0; k < size; k += LANES) store(total + k, load(total + k) + load(sums + k));
                    memset(sums, 0, size * sizeof(REAL)), waiting = 0;
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
