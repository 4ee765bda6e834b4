/* Turns pairs of channels of up to two tensors in one parallel region. Built by cpu.py; no link to torch or Python.
 *
 *   (a, b) -> (a cos - b sin, b cos + a sin),   pairs first .. first + n - 1
 *
 * in == out: nothing but the turning pairs is read or written. Otherwise the whole head is written, in the same pass.
 * Arithmetic is float (double for double), rounded once to nearest even.
 */

#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef struct {
    void *out;
    const void *in; /* this and all that follows is 8 bytes each */
    int64_t batch, heads, tokens;
    int64_t in_stride[3], out_stride[3]; /* elements: batch, head, token; channels are adjacent */
    int64_t table_stride[3];             /* elements of the tables for this tensor: batch, head, token */
} Tensor;

static inline float load_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t store_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)rounded; /* NaN stays NaN */
}

#define SAME(x) (x)
#define LOAD_HALF(x) ((float)(x))
#define STORE_HALF(x) ((_Float16)(x))

/* Rows with gaps between what is touched defeat the hardware's own prefetching: asked for a few rows ahead, lines come in
 * time. A prefetch past the end of the data does nothing. */
#define AHEAD 32
static inline void ahead(const void *from, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch((const char *)from + byte, 1);
}

/* One row: n pairs, whose channels start at a and b and are `step` apart (1 in halves, 2 in neighbours). In place, every
 * pair is read before it is written and no two pairs share a channel, so the loops may be vectorised. */
#define ROWS(NAME, TYPE, MATH, LOAD, STORE, FAST)                                                                            \
    static inline void NAME##_half(TYPE *out, const TYPE *in, const MATH *cos, const MATH *sin, MATH sign, int64_t n,  \
                                   int64_t first, int64_t half) {                                                      \
        const TYPE *a = in + first, *b = in + half + first;                                                            \
        TYPE *to_a = out + first, *to_b = out + half + first;                                                          \
        int64_t begin = FAST(to_a, to_b, a, b, cos, sin, sign, n);                                                     \
        _Pragma("GCC ivdep") for (int64_t i = begin; i < n; i++) {                                                       \
            MATH x = LOAD(a[i]), y = LOAD(b[i]), c = cos[i], s = sign * sin[i];                                        \
            to_a[i] = STORE(x * c - y * s);                                                                            \
            to_b[i] = STORE(y * c + x * s);                                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void NAME##_interleaved(TYPE *out, const TYPE *in, const MATH *cos, const MATH *sin, MATH sign,      \
                                          int64_t n, int64_t first) {                                                  \
        const TYPE *from = in + 2 * first;                                                                             \
        TYPE *to = out + 2 * first;                                                                                    \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) {                                                         \
            MATH x = LOAD(from[2 * i]), y = LOAD(from[2 * i + 1]), c = cos[i], s = sign * sin[i];                      \
            to[2 * i] = STORE(x * c - y * s);                                                                          \
            to[2 * i + 1] = STORE(y * c + x * s);                                                                      \
        }                                                                                                              \
    }                                                                                                                  \
    static void NAME(Tensor t, const MATH *cos, const MATH *sin, MATH sign, int64_t head_dim, int64_t first,           \
                     int64_t n, int64_t width, int interleaved, int64_t batch, int64_t begin, int64_t end) {           \
        const int64_t half = width / 2, bytes = sizeof(TYPE);                                                          \
        /* the loop that walks memory in order is the inner one: dimension 1 is heads, 2 is tokens */                  \
        const int inner = t.in_stride[2] <= t.in_stride[1] ? 2 : 1, outer = 3 - inner;                                 \
        const int64_t size[3] = {0, t.heads, end - begin};                                                             \
        const TYPE *all_in = (const TYPE *)t.in + batch * t.in_stride[0] + begin * t.in_stride[2];                     \
        TYPE *all_out = (TYPE *)t.out + batch * t.out_stride[0] + begin * t.out_stride[2];                             \
        const int64_t all_rows = batch * t.table_stride[0] + begin * t.table_stride[2];                                \
        for (int64_t i = 0; i < size[outer]; i++) {                                                                    \
            const TYPE *in = all_in + i * t.in_stride[outer];                                                          \
            TYPE *out = all_out + i * t.out_stride[outer];                                                             \
            int64_t row = all_rows + i * t.table_stride[outer];                                                        \
            for (int64_t j = 0; j < size[inner]; j++) {                                                                \
                if (interleaved) {                                                                                     \
                    ahead(in + 2 * first + AHEAD * t.in_stride[inner], 2 * n * bytes);                                 \
                    NAME##_interleaved(out, in, cos + row, sin + row, sign, n, first);                                 \
                    if (out != in) {                                                                                   \
                        memcpy(out, in, 2 * first * bytes);                                                            \
                        memcpy(out + 2 * (first + n), in + 2 * (first + n), (head_dim - 2 * (first + n)) * bytes);     \
                    }                                                                                                  \
                } else {                                                                                               \
                    ahead(in + first + AHEAD * t.in_stride[inner], n * bytes);                                         \
                    ahead(in + half + first + AHEAD * t.in_stride[inner], n * bytes);                                  \
                    NAME##_half(out, in, cos + row, sin + row, sign, n, first, half);                                  \
                    if (out != in) {                                                                                   \
                        memcpy(out, in, first * bytes);                                                                \
                        memcpy(out + first + n, in + first + n, (half - n) * bytes);                                   \
                        memcpy(out + half + first + n, in + half + first + n,                                          \
                               (head_dim - half - first - n) * bytes);                                                 \
                    }                                                                                                  \
                }                                                                                                      \
                in += t.in_stride[inner], out += t.out_stride[inner], row += t.table_stride[inner];                    \
            }                                                                                                          \
        }                                                                                                              \
    }

#define NO_FAST(...) 0

#ifdef __AVX512F__
/* What the compiler makes of the loop below, without its prologue and epilogue: rows are short. */
static inline int64_t fast_float(float *to_a, float *to_b, const float *a, const float *b, const float *cos,
                                 const float *sin, float sign, int64_t n) {
    const __m512 signs = _mm512_set1_ps(sign);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 c = _mm512_loadu_ps(cos + i), s = _mm512_mul_ps(signs, _mm512_loadu_ps(sin + i));
        __m512 x = _mm512_loadu_ps(a + i), y = _mm512_loadu_ps(b + i);
        _mm512_storeu_ps(to_a + i, _mm512_fmsub_ps(x, c, _mm512_mul_ps(y, s)));
        _mm512_storeu_ps(to_b + i, _mm512_fmadd_ps(y, c, _mm512_mul_ps(x, s)));
    }
    return i;
}
#else
#define fast_float NO_FAST
#endif

ROWS(rows_float, float, float, SAME, SAME, fast_float)
ROWS(rows_double, double, double, SAME, SAME, NO_FAST)
#ifdef __AVX512BF16__
/* The rounding above takes more instructions than the rest of the loop; these machines have one for it. (It takes
 * denormals, below 1e-38, for zero.) */
#define FAST_BF16(i, c, s)                                                                                             \
    __m512 x = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((void *)(a + i))), 16)); \
    __m512 y = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((void *)(b + i))), 16)); \
    __m512 xs = _mm512_mul_ps(x, s), ys = _mm512_mul_ps(y, s);                                                         \
    _mm256_storeu_si256((void *)(to_a + i), (__m256i)_mm512_cvtneps_pbh(_mm512_fmsub_ps(x, c, ys)));                   \
    _mm256_storeu_si256((void *)(to_b + i), (__m256i)_mm512_cvtneps_pbh(_mm512_fmadd_ps(y, c, xs)));

static inline int64_t fast_half(uint16_t *to_a, uint16_t *to_b, const uint16_t *a, const uint16_t *b, const float *cos,
                                const float *sin, float sign, int64_t n) {
    const __m512 signs = _mm512_set1_ps(sign);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 c = _mm512_loadu_ps(cos + i), s = _mm512_mul_ps(signs, _mm512_loadu_ps(sin + i));
        FAST_BF16(i, c, s)
    }
    return i;
}
#else
#define fast_half NO_FAST
#endif

ROWS(rows_bf16, uint16_t, float, load_bf16, store_bf16, fast_half)
#ifdef WHORL_HALF
ROWS(rows_half, _Float16, float, LOAD_HALF, STORE_HALF, NO_FAST)
#endif

/* One array of numbers, since that is the cheapest call to make from Python:
 *
 *   [0] dtype: 0 float, 1 double, 2 bfloat16, 3 half   [1] tensors: 1 or 2   [2] cos   [3] sin (addresses; tables are
 *   double for double and float otherwise)   [4] sign   [5] head dim   [6] first   [7] n   [8] width   [9] interleaved
 *   [10] tokens per unit of work   [11] threads   [12 ..] a `Tensor` for each
 *
 * Returns 0, or 1 for a dtype that this build does not have. */
int whorl_rotate(const int64_t *call) {
    const int dtype = call[0], count = call[1], interleaved = call[9], threads = call[11];
    const void *cos = (const void *)call[2], *sin = (const void *)call[3];
    const double sign = call[4];
    const int64_t head_dim = call[5], first = call[6], n = call[7], width = call[8], block = call[10];
    const Tensor *tensors = (const Tensor *)(call + 12);
#ifndef WHORL_HALF
    if (dtype == 3) return 1;
#endif
    const int64_t blocks = (tensors[0].tokens + block - 1) / block;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t unit = 0; unit < tensors[0].batch * blocks; unit++) {
        const int64_t batch = unit / blocks, begin = unit % blocks * block;
        const int64_t end = begin + block < tensors[0].tokens ? begin + block : tensors[0].tokens;
        for (int i = 0; i < count; i++) {
            const Tensor t = tensors[i];
            if (dtype == 0)
                rows_float(t, cos, sin, (float)sign, head_dim, first, n, width, interleaved, batch, begin, end);
            else if (dtype == 1)
                rows_double(t, cos, sin, sign, head_dim, first, n, width, interleaved, batch, begin, end);
            else if (dtype == 2)
                rows_bf16(t, cos, sin, (float)sign, head_dim, first, n, width, interleaved, batch, begin, end);
#ifdef WHORL_HALF
            else
                rows_half(t, cos, sin, (float)sign, head_dim, first, n, width, interleaved, batch, begin, end);
#endif
        }
    }
    return 0;
}
