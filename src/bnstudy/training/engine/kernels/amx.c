/* A 3x3 convolution of bf16 with padding 1 at a STRIDE of 1 or 2, and an addition and ReLU if asked for, forward and
   backward, in the layout channels_last, by the processor's matrix unit. Its functions are those of winograd.c, with the
   same arguments. Products are exact, and summed in float32; numbers below 1e-38 count as 0.

   The unit multiplies tiles, which have 16 rows of 64 bytes at most: C (16, 16) += A (16, DEPTH) B (DEPTH, 16), with A and B
   of bf16, C of float32, and B stored by pairs of rows, (DEPTH / 2, 16, 2).

   Forward, a row of the kernel meets three pixels, which lie one after the other in memory: so many numbers that DEPTH
   divides them. The rows of A are 16 such stretches, each beginning one place (STRIDE pixels) after the one before. They
   overlap, and are read where they lie, in an image with a rim of zeros; B are weights. Places run through the rim, too,
   where what comes out is not written; at stride 2 they begin anew with each row of the image.

   Of the kernel's gradient the sum is over places. A is dy with its places in a row (so it is transposed), B is x by pairs of
   places: pairs that begin at even ones, and, for the middle column of the kernel, at odd ones. At stride 2 both gradients
   take dy with zeros in between, as if of stride 1. There are four times as many products then, which costs less than
   what it would take to sort the pixels.

   Compiled for STRIDE, CIN and COUT, multiples of 16. Threads take consecutive images, and their sums are added in the
   order of the threads: one number of threads, one result. SIMULATED, the unit is computed number by number: to be tested
   anywhere, not to be fast. */

#include "wide.h"

#define SIDE 16 /* rows of a tile, and floats in its columns */
#define DEPTH (CIN % 32 ? 24 : 32)
#define CHUNKS (3 * CIN / DEPTH) /* of a row of the kernel */
#define SUMMED 8 /* images that are added up before they are added to the others */
#define ROUND_UP(number, to) (((number) + (to) - 1) / (to) * (to))

/* The unit. The eight tiles have names of their own in each instruction, so there are no loops over them. */

typedef struct { /* as the processor reads it */
    uint8_t palette, start, none[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} shapes;

#ifndef SIMULATED
#if !(defined(__AMX_TILE__) || defined(__AMXTILE__)) || !(defined(__AMX_BF16__) || defined(__AMXBF16__)) /* gcc; clang */
#error "this compiler knows no AMX"
#endif
#include <sys/syscall.h>
long syscall(long number, ...); /* unistd.h has a `read` and a `write` of its own */

/* The system lets a process use the unit when it asks for it. Whether it does. */
int allowed(void) { return !syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XFEATURE_XTILEDATA */); }

#define GET(tile, from, pitch) _tile_loadd(tile, from, (pitch) * sizeof *(from))
#define PUT(tile, to, pitch) _tile_stored(tile, to, (pitch) * sizeof *(to))
#define CLEAR(tile) _tile_zero(tile)
#define ADD(c, a, b) _tile_dpbf16ps(c, a, b)
/* Compilers are not told that these read memory: what is to be read is in memory from here on. */
#define WRITTEN __asm__ volatile("" ::: "memory")
/* Others, such as torch, may have shapes of their own in use, and find them as they were. */
#define BEGIN(mine)                                                       \
    shapes before;                                                        \
    __asm__ volatile("" : : "r"(&before), "r"(&(mine)) : "memory");       \
    _tile_storeconfig(&before);                                           \
    _tile_loadconfig(&(mine))
#define END _tile_loadconfig(&before)
#else
int allowed(void) { return 1; }

typedef union {
    char row[SIDE][64];
    float sums[SIDE][SIDE];
    stored numbers[SIDE][2 * SIDE];
} tile;
static _Thread_local tile tiles[8];
static _Thread_local shapes in_use;

static void get(int t, const void *from, long bytes) {
    for (int r = 0; r < in_use.rows[t]; r++) memcpy(tiles[t].row[r], (const char *)from + r * bytes, in_use.bytes[t]);
}
static void put(int t, void *to, long bytes) {
    for (int r = 0; r < in_use.rows[t]; r++) memcpy((char *)to + r * bytes, tiles[t].row[r], in_use.bytes[t]);
}
static float widened(stored number) {
    const uint32_t bits = (uint32_t)number << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static void multiply(int c, int a, int b) {
    for (int m = 0; m < in_use.rows[a]; m++)
        for (int n = 0; n < SIDE; n++)
            for (int k = 0; k < 2 * in_use.rows[b]; k++)
                tiles[c].sums[m][n] +=
                    widened(tiles[a].numbers[m][k]) * widened(tiles[b].numbers[k / 2][2 * n + k % 2]);
}
#define GET(tile, from, pitch) get(tile, from, (pitch) * sizeof *(from))
#define PUT(tile, to, pitch) put(tile, to, (pitch) * sizeof *(to))
#define CLEAR(tile) memset(tiles + (tile), 0, sizeof *tiles)
#define ADD(c, a, b) multiply(c, a, b)
#define WRITTEN (void)0
#define BEGIN(mine) in_use = (mine)
#define END (void)0
#endif

/* `sums` tiles C, then as many A as are left before the last `seconds`, which are B. */
static shapes shapes_of(int sums, int seconds, int depth) {
    shapes found = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        found.rows[t] = t < 8 - seconds ? SIDE : depth / 2;
        found.bytes[t] = t < sums || t >= 8 - seconds ? 64 : 2 * depth;
    }
    return found;
}

static inline stored *halves(long count) { return (stored *)room(count * sizeof(stored)); }

/* An image (H, W, channels), or gradients that ReLU's `y` lets pass, into `to`, the pixels `step` apart and rows `pitch`;
   and what passed as it is, unless `let_pass` is NULL. */
INLINE void lay_out(const stored *x, const stored *y, stored *to, stored *let_pass, int h, int w, int step, int pitch,
                    const int channels) {
    for (int i = 0; i < h; i++)
        for (int j = 0; j < w; j++) {
            const long at = ((long)i * w + j) * channels;
            stored *place = to + ((long)i * step * pitch + j * step) * channels;
            if (!y) {
                const int count = step == 1 ? w : 1;
                memcpy(place, x + at, count * channels * sizeof *x);
                j += count - 1;
            } else
                for (int c = 0; c < channels; c += LANES) {
                    const vec found = passed(x + at + c, y + at + c);
                    write(place + c, found);
                    if (let_pass) write(let_pass + at + c, found);
                }
        }
}

/* The weights as tiles B: (3, CHUNKS, COUT / 16, DEPTH / 2, 16, 2), rounded. They lie as (COUT, 3, 3, CIN) or, `back`, as the
   weights of a convolution from COUT to CIN, (CIN, 3, 3, COUT), and are turned around. All threads of a team call it, and
   wait for one another. */
INLINE void packed(const REAL *weight, stored *kernel, const int back) {
    long low, high;
    part(3L * CHUNKS * (COUT / SIDE), &low, &high);
    for (long t = low; t < high; t++) {
        const long first = t / (COUT / SIDE) * DEPTH, from = t % (COUT / SIDE) * SIDE; /* row of B, and column */
        stored *to = kernel + t * DEPTH * SIDE;
        if (back)
            for (int r = 0; r < DEPTH; r += 2)
                for (int o = 0; o < SIDE; o += LANES) {
                    const REAL *at = weight + ((first + r) % CIN * 9 + 8 - (first + r) / CIN) * COUT + from + o;
                    const bits one = (bits)rounded(load(at)), two = (bits)rounded(load(at + 9 * COUT));
                    store((REAL *)(to + r * SIDE + 2 * o), (vec)(one >> 16 | two));
                }
        else
            for (int o = 0; o < SIDE; o++) {
                stored row[DEPTH];
                for (int r = 0; r < DEPTH; r += LANES) { /* the last may overlap */
                    const int k = r < DEPTH - LANES ? r : DEPTH - LANES;
                    write(row + k, load(weight + (from + o) * 9 * CIN + first + k));
                }
                for (int r = 0; r < DEPTH; r += 2) memcpy(to + r * SIDE + 2 * o, row + r, 2 * sizeof *row);
            }
    }
#pragma omp barrier
}

/* Bring nearer, while products are computed, one of `parts` parts of `size` numbers that are read or written next. */
INLINE void bring(const stored *from, long size, long number, long parts, const int writes) {
    const long each = ROUND_UP((size + parts - 1) / parts, 64 / (long)sizeof *from);
    for (long k = number * each; from && k < (number + 1) * each; k += 64 / sizeof *from)
        if (writes) __builtin_prefetch(from + k, 1, 2);
        else __builtin_prefetch(from + k, 0, 2);
}

/* Of a product registers hold 4 tiles of sums: of places by those of channels. */
#define ACROSS (COUT % 32 ? 1 : 2)
#define DOWN (4 / ACROSS)
#define GROUP (DOWN * SIDE) /* places */
#define WIDE (ACROSS * SIDE) /* channels */

/* What `products` brings nearer: of each its numbers, and which part of how many is next. */
typedef struct {
    const stored *x, *of_x, *y, *added;
    long x_size, y_size, number, parts;
} coming;

/* Sums that are there to be written: of GROUP places, from row i and column j on, the first of `left`; `to` is the output, and
   `added`, unless NULL, what is added to it. */
typedef struct {
    const REAL *sums;
    const stored *added;
    stored *to;
    int left, i, j;
} ready;

/* The next `count` places, of oh by ow within rows of `row`. What is rectified is rounded before the addition, as a
   convolution's output by itself would be. */
INLINE void write_out(ready *r, int count, int oh, int ow, int row, const int relu) {
    for (; count && r->left && r->i < oh; count--, r->left--) {
        const long to = ((long)r->i * ow + r->j) * COUT;
        for (int c = 0; c < WIDE && r->j < ow; c += LANES) {
            vec found = load(r->sums + c);
            if (r->added) found = (relu ? rounded(found) : found) + read(r->added + to + c);
            write(r->to + to + c, relu ? rectified(found) : found);
        }
        r->sums += WIDE;
        if (++r->j == row) r->i++, r->j = 0;
    }
}

/* Sums (GROUP, WIDE) of 16 places each from at[0], at[1], ... on, `stride` pixels apart. Meanwhile those before are written,
   for which the processor has other units. */
INLINE void products(const stored *const at[DOWN], const stored *kernel, REAL *sums, int pitch, const int stride,
                     coming *next, ready *before, int oh, int ow, int row, const int relu) {
    WRITTEN;
    CLEAR(0);
    CLEAR(1);
    CLEAR(2);
    CLEAR(3);
    for (int di = 0; di < 3; di++, next->number++) {
        bring(next->x, next->x_size, next->number, next->parts, 0);
        bring(next->of_x, next->x_size, next->number, next->parts, 0);
        bring(next->y, next->y_size, next->number, next->parts, 1);
        bring(next->added, next->y_size, next->number, next->parts, 0);
        for (int k = 0; k < CHUNKS; k++) {
            const long from = (long)di * pitch * CIN + k * DEPTH;
            const stored *b = kernel + (long)(di * CHUNKS + k) * DEPTH * COUT;
#if ACROSS == 1
            GET(7, b, 2 * SIDE);
            GET(4, at[0] + from, stride * CIN);
            ADD(0, 4, 7);
            GET(5, at[1] + from, stride * CIN);
            ADD(1, 5, 7);
            GET(4, at[2] + from, stride * CIN);
            ADD(2, 4, 7);
            GET(5, at[3] + from, stride * CIN);
            ADD(3, 5, 7);
#else
            GET(6, b, 2 * SIDE);
            GET(4, at[0] + from, stride * CIN);
            ADD(0, 4, 6);
            GET(7, b + DEPTH * SIDE, 2 * SIDE);
            ADD(1, 4, 7);
            GET(5, at[1] + from, stride * CIN);
            ADD(2, 5, 6);
            ADD(3, 5, 7);
#endif
            write_out(before, (GROUP + 3 * CHUNKS - 1) / (3 * CHUNKS), oh, ow, row, relu);
        }
    }
#if ACROSS == 1
    PUT(0, sums, WIDE);
    PUT(1, sums + SIDE * WIDE, WIDE);
    PUT(2, sums + 2 * SIDE * WIDE, WIDE);
    PUT(3, sums + 3 * SIDE * WIDE, WIDE);
#else
    PUT(0, sums, WIDE);
    PUT(1, sums + SIDE, WIDE);
    PUT(2, sums + SIDE * WIDE, WIDE);
    PUT(3, sums + SIDE * WIDE + SIDE, WIDE);
#endif
}

/* y (OH, OW, COUT) from x, whose pixels are `step` apart in a plane of h by w, and every `stride`-th place of that. `back`:
   x is the gradient of what a convolution made, and y that of what it had, with what is `added`; of x is written, unless
   `let_pass` is NULL, what `rectified_x` lets pass. */
INLINE void convolved(const stored *x, const stored *rectified_x, stored *let_pass, const REAL *weight,
                      const stored *added, stored *y, long num, int h, int w, const int relu, const int back,
                      int threads) {
    const int step = back ? STRIDE : 1, stride = back ? 1 : STRIDE;
    const int xh = (h + step - 1) / step, xw = (w + step - 1) / step;
    const int oh = (h + stride - 1) / stride, ow = (w + stride - 1) / stride, pitch = w + 2;
    const int row = stride == 1 ? pitch : ROUND_UP(ow, SIDE), places = ROUND_UP(oh * row, GROUP);
    const long plane = ((long)stride * (places / row + 1) + 3) * pitch + stride * row;
    stored *kernel = halves(9L * CIN * COUT);
#pragma omp parallel num_threads(threads)
    {
        packed(weight, kernel, back);
        const shapes mine = shapes_of(4, ACROSS, DEPTH);
        BEGIN(mine);
        long low, high;
        part(num, &low, &high);
        stored *padded = halves(plane * CIN);
        REAL *sums = unset(2 * GROUP * WIDE);
        long turn = 0;
        for (long n = low; n < high; n++) {
            const long from = n * xh * xw * CIN, x_size = (long)xh * xw * CIN, y_size = (long)oh * ow * COUT;
            const stored *of_x = rectified_x ? rectified_x + from : NULL;
            coming next = {x + from + x_size,
                           of_x ? of_x + x_size : NULL,
                           y + (n + 1) * y_size,
                           added ? added + (n + 1) * y_size : NULL,
                           x_size,
                           y_size,
                           0,
                           3L * (places / GROUP) * (COUT / WIDE)};
            lay_out(x + from, of_x, padded + (pitch + 1) * CIN, let_pass ? let_pass + from : NULL, xh, xw, step, pitch,
                    CIN);
            ready before = {.left = 0};
            for (int o = 0; o < COUT; o += WIDE)
                for (int p = 0; p < places; p += GROUP, turn++) {
                    const stored *at[DOWN];
                    EACH(m, DOWN) {
                        const int q = p + m * SIDE;
                        at[m] = padded + (long)stride * (q / row * pitch + q % row) * CIN;
                    }
                    REAL *these = sums + turn % 2 * GROUP * WIDE;
                    products(at, kernel + (long)o * DEPTH, these, pitch, stride, &next, &before, oh, ow, row, relu);
                    before = (ready){these,
                                     added ? added + n * y_size + o : NULL,
                                     y + n * y_size + o,
                                     GROUP,
                                     p / row,
                                     p % row};
                }
            write_out(&before, GROUP, oh, ow, row, relu);
        }
        free(padded), free(sums);
        END;
    }
    free(kernel);
}

/* y (N, OH, OW, COUT) = x (N, H, W, CIN) convolved with the weights (COUT, 3, 3, CIN); rectified, if asked for, with what
   is `added`, or NULL: without ReLU nothing is added. */
void convolve(const stored *x, const REAL *weight, const stored *added, stored *y, long num, int h, int w, int relu,
              int threads) {
    if (relu && added) convolved(x, NULL, NULL, weight, added, y, num, h, w, 1, 0, threads);
    else if (relu) convolved(x, NULL, NULL, weight, NULL, y, num, h, w, 1, 0, threads);
    else convolved(x, NULL, NULL, weight, NULL, y, num, h, w, 0, 0, threads);
}

/* The gradient of what was convolved, images of H by W, from that of the result, its CIN the former COUT; `y` is the result
   that ReLU left, or NULL, and `added` a gradient that they have from elsewhere, or NULL. What ReLU lets pass is written,
   too, unless `let_pass` is NULL. */
void input_gradient(const stored *dy, const stored *y, const REAL *weight, const stored *added, stored *dx,
                    stored *let_pass, long num, int h, int w, int threads) {
    if (added) convolved(dy, y, let_pass, weight, added, dx, num, h, w, 0, 1, threads);
    else convolved(dy, y, let_pass, weight, NULL, dx, num, h, w, 0, 1, threads);
}

/* SIDE channels of 2 * SIDE places (from places `channels` apart) by pairs of places, (SIDE, SIDE, 2). */
INLINE void in_pairs(const stored *from, const int channels, stored *to) {
#ifdef __AVX512BW__
    uint16_t order[2 * SIDE];
    EACH(l, SIDE) order[2 * l] = l, order[2 * l + 1] = SIDE + l;
    const __m512i turned = _mm512_loadu_si512(order);
    EACH(r, SIDE) {
        const __m256i one = _mm256_loadu_si256((const void *)(from + 2 * r * channels));
        const __m256i two = _mm256_loadu_si256((const void *)(from + (2 * r + 1) * channels));
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(one), two, 1);
        _mm512_storeu_si512(to + 2 * r * SIDE, _mm512_permutexvar_epi16(turned, both));
    }
#else
    for (int r = 0; r < SIDE; r++)
        for (int l = 0; l < SIDE; l++)
            for (int p = 0; p < 2; p++) to[2 * (r * SIDE + l) + p] = from[(2 * r + p) * channels + l];
#endif
}

/* Of what `in_pairs` made the rows as columns: each channel's places in a row, `pitch` from one channel to the next. */
INLINE void transposed(const stored *from, stored *to, long pitch) {
#ifdef __AVX512BW__
    __m512i a[SIDE], b[SIDE];
    EACH(i, SIDE) a[i] = _mm512_loadu_si512(from + 2 * i * SIDE);
    EACH(i, SIDE / 2)
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]),
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    EACH(i, SIDE / 4) { /* a[4 i + k]: of each four columns the k-th, from four rows */
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
    EACH(k, SIDE / 4) {
        const __m512i even = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x88), odd = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xdd);
        const __m512i then = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x88);
        const __m512i next = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xdd);
        _mm512_storeu_si512(to + k * pitch, _mm512_shuffle_i32x4(even, then, 0x88));
        _mm512_storeu_si512(to + (4 + k) * pitch, _mm512_shuffle_i32x4(odd, next, 0x88));
        _mm512_storeu_si512(to + (8 + k) * pitch, _mm512_shuffle_i32x4(even, then, 0xdd));
        _mm512_storeu_si512(to + (12 + k) * pitch, _mm512_shuffle_i32x4(odd, next, 0xdd));
    }
#else
    for (int l = 0; l < SIDE; l++)
        for (int r = 0; r < SIDE; r++) memcpy(to + l * pitch + 2 * r, from + 2 * (r * SIDE + l), 2 * sizeof *to);
#endif
}

#define SPAN (2 * SIDE) /* places that are multiplied at a time */
#define STRIP 288 /* places at least, if there are, between reading sums and writing them: about what the nearest cache holds */

/* Where add_products finds what it multiplies, of `count` images: of dy `places` in rows, of x `around` by pairs. */
typedef struct {
    const stored *rows, *pairs[2];
    int count, places, around;
} operands;

/* Adds, for ACROSS times 16 channels of dy, from the o-th on, and 16 of x, from the c-th on, three tiles each, one for each
   column of the kernel in its row that begins at the place `shift`: the sum over the places `low` to `high` of each image. */
INLINE void add_products(operands of, REAL *sums, int o, int c, int shift, int low, int high, coming *next) {
#define SUM(column, block) (sums + ((column) * (COUT / SIDE) + (block)) * SIDE * SIDE)
    WRITTEN;
    GET(0, SUM(0, 0), SIDE);
    GET(1, SUM(1, 0), SIDE);
    GET(2, SUM(2, 0), SIDE);
#if ACROSS == 2
    GET(3, SUM(0, 1), SIDE);
    GET(4, SUM(1, 1), SIDE);
    GET(5, SUM(2, 1), SIDE);
#endif
    for (int n = 0; n < of.count; n++) {
        const stored *dy = of.rows + ((long)n * COUT + o) * of.places;
        const long from = ((long)n * CIN + c) * of.around + shift * SIDE;
        for (long p = low; p < high; p += SPAN, next->number++) {
            bring(next->x, next->x_size, next->number, next->parts, 0);
            bring(next->of_x, next->x_size, next->number, next->parts, 0);
            bring(next->y, next->y_size, next->number, next->parts, 0);
            const stored *x0 = of.pairs[0] + from + p * SIDE, *x1 = of.pairs[1] + from + p * SIDE, *x2 = x0 + 2 * SIDE;
            GET(6, dy + p, of.places);
            GET(7, x0, 2 * SIDE);
            ADD(0, 6, 7);
            GET(7, x1, 2 * SIDE);
            ADD(1, 6, 7);
            GET(7, x2, 2 * SIDE);
            ADD(2, 6, 7);
#if ACROSS == 2
            GET(6, dy + p + (long)SIDE * of.places, of.places);
            ADD(5, 6, 7);
            GET(7, x1, 2 * SIDE);
            ADD(4, 6, 7);
            GET(7, x0, 2 * SIDE);
            ADD(3, 6, 7);
#endif
        }
    }
    PUT(0, SUM(0, 0), SIDE);
    PUT(1, SUM(1, 0), SIDE);
    PUT(2, SUM(2, 0), SIDE);
#if ACROSS == 2
    PUT(3, SUM(0, 1), SIDE);
    PUT(4, SUM(1, 1), SIDE);
    PUT(5, SUM(2, 1), SIDE);
#endif
}

/* The weights' gradient, (COUT, 3, 3, CIN), the sum of what `threads` found, (3, CIN / 16, 3, COUT / 16, 16, 16); NULL: there
   was no such thread. Each thread of a team does its part. */
static void unpacked(REAL *const *found, int threads, REAL *gradient) {
    long low, high;
    part(9L * COUT, &low, &high);
    for (long k = low; k < high; k++) {
        const long o = k / 9, tap = k % 9;
        for (int c = 0; c < CIN; c += LANES) {
            const long block = ((tap / 3 * (CIN / SIDE) + c / SIDE) * 3 + tap % 3) * (COUT / SIDE) + o / SIDE;
            const long at = (block * SIDE + o % SIDE) * SIDE + c % SIDE;
            vec sum = load(found[0] + at);
            for (int t = 1; t < threads; t++)
                if (found[t]) sum += load(found[t] + at);
            store(gradient + k * CIN + c, sum);
        }
    }
}

/* The weights' gradient, (COUT, 3, 3, CIN), from x and dy; `y` as above. */
void kernel_gradient(const stored *x, const stored *dy, const stored *y, REAL *gradient, long num, int h, int w,
                     int threads) {
    const int oh = (h + STRIDE - 1) / STRIDE, ow = (w + STRIDE - 1) / STRIDE, pitch = ROUND_UP(w + 2, 2);
    const int places = ROUND_UP(h * pitch, SPAN), around = ROUND_UP(places + 2 * pitch + 2, SPAN);
    const int together = (STRIP + places - 1) / places;
    const long size = 9L * CIN * COUT;
    REAL **totals = room(threads * sizeof *totals);
#pragma omp parallel num_threads(threads)
    {
        const shapes mine = shapes_of(6, 1, SPAN);
        BEGIN(mine);
        long low, high, waiting = 0;
        const int thread = part(num, &low, &high);
        REAL *total = totals[thread] = numbers(size), *sums = numbers(size);
        stored *padded = halves((around + 1L) * CIN), *slopes = halves((long)places * COUT), both[2 * SIDE * SIDE];
        stored *pairs[2] = {halves((long)together * around * CIN), halves((long)together * around * CIN)};
        stored *rows = halves((long)together * places * COUT);
        for (long n = low; n < high; n += together) {
            const int count = high - n < together ? high - n : together;
            for (int k = 0; k < count; k++) {
                lay_out(x + (n + k) * h * w * CIN, NULL, padded + (pitch + 1) * CIN, NULL, h, w, 1, pitch, CIN);
                const long of = (n + k) * oh * ow * COUT;
                if (y) lay_out(dy + of, y + of, slopes, NULL, oh, ow, STRIDE, pitch, COUT);
                else lay_out(dy + of, NULL, slopes, NULL, oh, ow, STRIDE, pitch, COUT);
                for (int c = 0; c < CIN; c += SIDE)
                    for (long p = 0; p < around; p += SPAN)
                        for (int odd = 0; odd < 2; odd++)
                            in_pairs(padded + (p + odd) * CIN + c, CIN,
                                     pairs[odd] + ((long)k * CIN + c) * around + p * SIDE);
                for (int o = 0; o < COUT; o += SIDE)
                    for (long p = 0; p < places; p += SPAN) {
                        in_pairs(slopes + p * COUT + o, COUT, both);
                        transposed(both, rows + ((long)k * COUT + o) * places + p, places);
                    }
            }
            const long dy_size = (long)oh * ow * COUT, after = n + count;
            coming next = {dy + after * dy_size,
                           y ? y + after * dy_size : NULL,
                           x + after * h * w * CIN,
                           NULL,
                           together * dy_size,
                           (long)together * h * w * CIN,
                           0,
                           3L * (CIN / SIDE) * (COUT / WIDE) * count * (places / SPAN)};
            const operands of = {rows, {pairs[0], pairs[1]}, count, places, around};
            for (int c = 0; c < CIN; c += SIDE)
                for (int o = 0; o < COUT; o += WIDE)
                    for (int p = 0; p < places; p += STRIP)
                        for (int di = 0; di < 3; di++)
                            add_products(of, sums + ((di * CIN + c) * 3L * COUT + o * SIDE), o, c, di * pitch, p,
                                         p + STRIP < places ? p + STRIP : places, &next);
            waiting += count;
            if (waiting >= SUMMED || n + count == high) {
                for (long k = 0; k < size; k += LANES)
                    store(total + k, load(total + k) + load(sums + k)), store(sums + k, (vec){0});
                waiting = 0;
            }
        }
        free(padded), free(pairs[0]), free(pairs[1]), free(slopes), free(rows), free(sums);
        END;
#pragma omp barrier
        unpacked(totals, threads, gradient);
    }
    for (int t = 0; t < threads; t++) free(totals[t]);
    free(totals);
}
