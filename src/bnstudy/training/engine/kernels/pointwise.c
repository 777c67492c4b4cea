/* A 1x1 convolution at stride 2, forward and backward, in the layout channels_last: every second pixel of every second row
   is multiplied by a matrix. Images are of the type `stored`, all else of REAL (see lanes.h). Compiled for REAL, CIN and
   COUT, multiples of LANES. Threads take consecutive images, and their sums are added in the order of the threads: one
   number of threads, one result. */

#include "wide.h"

#define STRIDE 2
#define HALF_OF(side) (((side) + STRIDE - 1) / STRIDE)

/* Every `stride`-th of `count` pixels of a row; what a block of ROWS has beyond is 0, as it was. */
INLINE void gather(const stored *from, REAL *row, int count, const int stride, const int channels) {
    for (int j = 0; j < count; j++)
        for (int c = 0; c < channels; c += LANES) store(row + j * channels + c, read(from + (long)j * stride * channels + c));
}

/* Every `stride`-th pixel of a row of y from `count` pixels of CIN and a matrix (CIN, COUT). */
INLINE void multiply(const REAL *row, const REAL *matrix, stored *y, int count, const int stride) {
    for (int at = 0; at < COUT; at += VB * LANES)
        for (int j = 0; j < count; j += ROWS) {
            vec sum[ROWS][VB];
            EACH(r, ROWS) EACH(o, VB) sum[r][o] = (vec){0};
            for (int i = 0; i < CIN; i++) {
                vec w[VB];
                EACH(o, VB) w[o] = held(load(matrix + (long)i * COUT + at + o * LANES));
                EACH(r, ROWS) EACH(o, VB) sum[r][o] += w[o] * row[(j + r) * CIN + i];
            }
            EACH(r, ROWS) if (j + r < count)
                EACH(o, VB) write(y + (long)(j + r) * stride * COUT + at + o * LANES, sum[r][o]);
        }
}

static REAL *row_of(int count, int channels) { return numbers((long)(count + ROWS - 1) / ROWS * ROWS * channels); }

/* y (N, H / 2, W / 2, COUT), rounded up, from x (N, H, W, CIN) and a matrix (CIN, COUT). */
void convolve(const stored *x, const REAL *matrix, stored *y, long num, int h, int w, int threads) {
    const int oh = HALF_OF(h), ow = HALF_OF(w);
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(num * oh, &low, &high);
        REAL *row = row_of(ow, CIN);
        for (long n = low; n < high; n++) {
            gather(x + (n / oh * h + n % oh * STRIDE) * w * CIN, row, ow, STRIDE, CIN);
            multiply(row, matrix, y + n * ow * COUT, ow, 1);
        }
        free(row);
    }
}

/* The gradient of images of H by W from that of the result, its CIN the former COUT. */
void input_gradient(const stored *dy, const REAL *matrix, stored *dx, long num, int h, int w, int threads) {
    const int oh = HALF_OF(h), ow = HALF_OF(w);
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        part(num * oh, &low, &high);
        REAL *row = row_of(ow, CIN);
        for (long n = low; n < high; n++) {
            const int i = n % oh * STRIDE;
            stored *to = dx + (n / oh * h + i) * w * COUT;
            gather(dy + n * ow * CIN, row, ow, 1, CIN);
            memset(to, 0, (i + 1 < h ? 2L : 1L) * w * COUT * sizeof *to);
            multiply(row, matrix, to, ow, STRIDE);
        }
        free(row);
    }
}

/* The matrix's gradient, (CIN, COUT), from x and dy: an image's sums by themselves, then added to the others. */
void kernel_gradient(const stored *x, const stored *dy, REAL *gradient, long num, int h, int w, int threads) {
    const int oh = HALF_OF(h), ow = HALF_OF(w), places = oh * ow, size = CIN * COUT;
    REAL *totals = numbers((long)threads * size);
#pragma omp parallel num_threads(threads)
    {
        long low, high;
        REAL *total = totals + (long)part(num, &low, &high) * size;
        REAL *pixels = numbers((long)places * CIN), *slopes = numbers((long)places * COUT);
        for (long n = low; n < high; n++) {
            for (int i = 0; i < oh; i++)
                gather(x + (n * h + i * STRIDE) * w * CIN, pixels + (long)i * ow * CIN, ow, STRIDE, CIN);
            gather(dy + n * places * COUT, slopes, places, 1, COUT);
            for (int i = 0; i < CIN; i += ROWS)
                for (int at = 0; at < COUT; at += VB * LANES) {
                    vec sum[ROWS][VB];
                    EACH(r, ROWS) EACH(o, VB) sum[r][o] = (vec){0};
                    for (long k = 0; k < places; k++) {
                        vec g[VB];
                        EACH(o, VB) g[o] = held(load(slopes + k * COUT + at + o * LANES));
                        EACH(r, ROWS) EACH(o, VB) sum[r][o] += g[o] * pixels[k * CIN + i + r];
                    }
                    REAL *to = total + (long)i * COUT + at;
                    EACH(r, ROWS) EACH(o, VB)
                        store(to + r * COUT + o * LANES, load(to + r * COUT + o * LANES) + sum[r][o]);
                }
        }
        free(pixels), free(slopes);
    }
    add_up(totals, size, threads);
    memcpy(gradient, totals, size * sizeof *gradient);
    free(totals);
}
