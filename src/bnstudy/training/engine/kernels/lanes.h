/* What the kernels share: vectors of LANES numbers of type REAL, one thread's part of the work, and memory. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512F__
#include <immintrin.h>
#endif

/* LANES: 16, or 8 where the registers are half as wide and half as many (see build.lanes). */

typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL))));
typedef REAL loose __attribute__((vector_size(LANES * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
static inline vec load(const REAL *from) { return *(const loose *)from; }
static inline void store(REAL *to, vec value) { *(loose *)to = value; }

typedef __typeof__(_Generic((REAL)0, float: (int32_t)0, double: (int64_t)0)) whole;
typedef whole mask __attribute__((vector_size(LANES * sizeof(REAL)))); /* what a comparison gives: -1 or 0 */
/* The value where the mask is set, else 0. */
static inline vec keep(mask where, vec value) { return (vec)(where & (mask)value); }

/* A number as it is stored: in bf16 the upper half of a float. */
#ifdef BF16
typedef uint16_t stored;
typedef uint16_t half __attribute__((vector_size(LANES * 2)));
typedef uint16_t loose_half __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t bits __attribute__((vector_size(LANES * 4)));
static inline vec read(const stored *from) {
#if defined(__AVX512F__) && LANES == 16 /* which compilers make two halves of otherwise */
    return (vec)((bits)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)) << 16);
#else
    return (vec)(__builtin_convertvector(*(const loose_half *)from, bits) << 16);
#endif
}
static inline void write(stored *to, vec value) { /* to the nearest, ties to even; NaN stays NaN */
#if defined(__AVX512BF16__) && LANES == 16 /* in one instruction; it takes numbers below 1e-38 for 0 */
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
    memcpy(to, &rounded, sizeof rounded);
#else
    bits b = (bits)value, rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    *(loose_half *)to =
        __builtin_convertvector(((bits)(value == value) & rounded) | ((bits)(value != value) & 0x7fc0), half);
#endif
}
#else
typedef REAL stored;
static inline vec read(const stored *from) { return load(from); }
static inline void write(stored *to, vec value) { store(to, value); }
#endif

/* The vector, in a register from here on. What is multiplied with many others would otherwise be read from memory again
   with each product, and reading, two vectors a cycle, is then what takes the time. */
#if defined(__AVX512F__)
#define WIDTH 64
#define ANY_REGISTER "+v"
#elif defined(__AVX__)
#define WIDTH 32
#define ANY_REGISTER "+x"
#endif
static inline vec held(vec value) {
#ifdef WIDTH
    if (sizeof value == WIDTH) { /* one register: of doubles a vector has two */
        typedef char full __attribute__((vector_size(WIDTH)));
        full bytes;
        memcpy(&bytes, &value, WIDTH);
        __asm__("" : ANY_REGISTER(bytes));
        memcpy(&value, &bytes, WIDTH);
    }
#endif
    return value;
}

/* The calling thread's number in its team, and which of `num` consecutive pieces are its own: low to high - 1. */
static inline int part(long num, long *low, long *high) {
    int thread = 0, threads = 1;
#ifdef _OPENMP
    thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    *low = num * thread / threads, *high = num * (thread + 1) / threads;
    return thread;
}

/* Memory with whatever was in it, or zeros, to be freed. */
static inline void *space(size_t bytes) {
    void *found = aligned_alloc(128, (bytes + 127) / 128 * 128);
    if (!found) abort();
    return found;
}
static inline void *room(size_t bytes) { return memset(space(bytes), 0, bytes); }

/* Moments. Sums of squares cancel where values lie far from 0, or where one lies far from the others; so each block of
   values has its deviations from a mean of its own, which is found first, while the block is in the nearest cache. A
   block's first value serves as the origin of that mean, so that it is as exact where all values are large; what its
   rounding leaves is taken off the squares (Chan, Golub and LeVeque, 1983, "Algorithms for computing the sample
   variance"). */

/* Mean and sum of squared deviations of `more` values are added to those of `count` values. */
static inline void combine(double more, double more_mean, double more_m2, double count, double *mean, double *m2) {
    if (count == 0) {
        *mean = more_mean, *m2 = more_m2;
        return;
    }
    const double apart = more_mean - *mean, all = count + more;
    *mean += apart * (more / all), *m2 += more_m2 + apart * apart * (count * more / all);
}

#ifdef MOMENTUM
/* What a norm keeps for evaluation, as torch does: MOMENTUM of each channel's mean and variance, the unbiased one of `count`
   values, go into those that are running, and the mini-batch is counted, unless `batches` is NULL. */
static inline void track(const double *mean, const double *variance, REAL *running_mean, REAL *running_variance,
                         int64_t *batches, long channels, double count) {
    for (long c = 0; c < channels; c++) {
        const REAL found = mean[c], unbiased = variance[c] * (count / (count - 1));
        running_mean[c] += (REAL)MOMENTUM * (found - running_mean[c]);
        running_variance[c] += (REAL)MOMENTUM * (unbiased - running_variance[c]);
    }
    if (batches) ++*batches;
}
#endif

/* Whether squares of REAL may have left its range on the way to this variance: then it is found anew in double. */
static inline int doubtful(double variance) { return !(variance == 0 || (variance > 1e-30 && variance < 1e300)); }
