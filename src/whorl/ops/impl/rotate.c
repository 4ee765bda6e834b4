/* Turns pairs of channels of up to two tensors in one parallel region. Built by cpu.py; no link to torch or Python.
 *
 *   (a, b) -> (a cos - b sin, b cos + a sin),   pairs first .. first + n - 1
 *
 * in == out: nothing but the turning pairs is read or written. Otherwise the whole head is written.
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

/* Out of place, a token's heads (or a head's tokens) are copied first, as one stretch where they are one, and then turned
 * where they lie, in the first-level cache. Where every channel turns, nothing is copied: the turn itself moves it all. */
static inline void copy_rows(void *out, const void *in, int64_t rows, int64_t out_stride, int64_t in_stride, int64_t bytes) {
    if (out_stride == bytes && in_stride == bytes) bytes *= rows, rows = 1;
    for (int64_t row = 0; row < rows; row++, in = (const char *)in + in_stride, out = (char *)out + out_stride) {
        int64_t at = 0; /* lines, each asked for 4 KiB ahead: memcpy itself took half as long again here */
        for (; at + 64 <= bytes; at += 64) {
            __builtin_prefetch((const char *)in + at + 4096);
            __builtin_memcpy((char *)out + at, (const char *)in + at, 64);
        }
        memcpy((char *)out + at, (const char *)in + at, bytes - at);
    }
}

/* Rows that share one row of the tables (a token's heads): n pairs each, whose channels start at `in` and `in` + half. In
 * place, every pair is read before it is written and no two pairs share a channel, so the loops may be vectorised. */
#define HALVES(NAME, TYPE, MATH, LOAD, STORE)                                                                          \
    static inline void NAME(TYPE *out, const TYPE *in, int64_t half, int64_t rows, int64_t out_stride,                 \
                            int64_t in_stride, const MATH *cos, const MATH *sin, MATH sign, int64_t n) {               \
        for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {                                 \
            ahead(in + AHEAD * in_stride, n * sizeof(TYPE)), ahead(in + half + AHEAD * in_stride, n * sizeof(TYPE));   \
            _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) {                                                     \
                MATH x = LOAD(in[i]), y = LOAD(in[half + i]), c = cos[i], s = sign * sin[i];                           \
                out[i] = STORE(x * c - y * s);                                                                         \
                out[half + i] = STORE(y * c + x * s);                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }

/* All rows of a block of tokens: in halves by the function HALF, in neighbours by the loop below. */
#define ROWS(NAME, TYPE, MATH, LOAD, STORE, HALF)                                                                      \
    static inline void NAME##_interleaved(TYPE *out, const TYPE *in, int64_t rows, int64_t out_stride,                 \
                                          int64_t in_stride, const MATH *cos, const MATH *sin, MATH sign, int64_t n,   \
                                          int64_t first) {                                                             \
        for (int64_t row = 0; row < rows; row++) {                                                                     \
            const TYPE *from = in + row * in_stride + 2 * first;                                                       \
            TYPE *to = out + row * out_stride + 2 * first;                                                             \
            ahead(from + AHEAD * in_stride, 2 * n * sizeof(TYPE));                                                     \
            _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) {                                                     \
                MATH x = LOAD(from[2 * i]), y = LOAD(from[2 * i + 1]), c = cos[i], s = sign * sin[i];                  \
                to[2 * i] = STORE(x * c - y * s);                                                                      \
                to[2 * i + 1] = STORE(y * c + x * s);                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void NAME(Tensor t, const MATH *cos, const MATH *sin, MATH sign, int64_t head_dim, int64_t first,           \
                     int64_t n, int64_t width, int interleaved, int64_t batch, int64_t begin, int64_t end) {           \
        const int64_t half = width / 2, bytes = sizeof(TYPE);                                                          \
        /* the loop that walks memory in order is the inner one: dimension 1 is heads, 2 is tokens */                  \
        const int inner = t.in_stride[2] <= t.in_stride[1] ? 2 : 1, outer = 3 - inner;                                 \
        const int64_t size[3] = {0, t.heads, end - begin};                                                             \
        const int64_t rows = t.table_stride[inner] ? 1 : size[inner], out_stride = t.out_stride[inner];                \
        const TYPE *all_in = (const TYPE *)t.in + batch * t.in_stride[0] + begin * t.in_stride[2];                     \
        TYPE *all_out = (TYPE *)t.out + batch * t.out_stride[0] + begin * t.out_stride[2];                             \
        const int64_t all_tables = batch * t.table_stride[0] + begin * t.table_stride[2];                              \
        for (int64_t i = 0; i < size[outer]; i++) {                                                                    \
            const TYPE *in = all_in + i * t.in_stride[outer];                                                          \
            int64_t in_stride = t.in_stride[inner];                                                                    \
            TYPE *out = all_out + i * t.out_stride[outer];                                                             \
            int64_t table = all_tables + i * t.table_stride[outer];                                                    \
            if (out != in && 2 * n < head_dim) {                                                                       \
                copy_rows(out, in, size[inner], out_stride * bytes, in_stride * bytes, head_dim * bytes);              \
                in = out, in_stride = out_stride;                                                                      \
            }                                                                                                          \
            for (int64_t j = 0; j < size[inner]; j += rows) {                                                          \
                if (interleaved)                                                                                       \
                    NAME##_interleaved(out, in, rows, out_stride, in_stride, cos + table, sin + table, sign, n, first); \
                else                                                                                                   \
                    HALF(out + first, in + first, half, rows, out_stride, in_stride, cos + table, sin + table, sign, n); \
                in += rows * in_stride, out += rows * out_stride, table += t.table_stride[inner];                      \
            }                                                                                                          \
        }                                                                                                              \
    }

#ifdef __AVX512F__
/* `count` vectors of the tables stay in registers while the rows pass by. */
static inline __attribute__((always_inline)) void vectors_float(const int count, const __mmask16 mask, float *out,
                                                                const float *in, int64_t half, int64_t rows,
                                                                int64_t out_stride, int64_t in_stride,
                                                                const float *cos, const float *sin, float sign) {
    const __m512 signs = _mm512_set1_ps(sign);
    __m512 c[4], s[4];
    for (int u = 0; u < count; u++) {
        c[u] = _mm512_maskz_loadu_ps(mask, cos + 16 * u);
        s[u] = _mm512_mul_ps(signs, _mm512_maskz_loadu_ps(mask, sin + 16 * u));
    }
    for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {
        ahead(in + AHEAD * in_stride, 64 * count), ahead(in + half + AHEAD * in_stride, 64 * count);
        for (int u = 0; u < count; u++) {
            __m512 x = _mm512_maskz_loadu_ps(mask, in + 16 * u), y = _mm512_maskz_loadu_ps(mask, in + half + 16 * u);
            _mm512_mask_storeu_ps(out + 16 * u, mask, _mm512_fmsub_ps(x, c[u], _mm512_mul_ps(y, s[u])));
            _mm512_mask_storeu_ps(out + half + 16 * u, mask, _mm512_fmadd_ps(y, c[u], _mm512_mul_ps(x, s[u])));
        }
    }
}

static inline void halves_float(float *out, const float *in, int64_t half, int64_t rows, int64_t out_stride,
                              int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {
#define TAKE(COUNT, MASK)                                                                                              \
    vectors_float(COUNT, MASK, out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i, sign)
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) TAKE(4, 0xffff);
    for (; i + 16 <= n; i += 16) TAKE(1, 0xffff);
    if (i < n) TAKE(1, (1u << (n - i)) - 1);
#undef TAKE
}
#else
HALVES(halves_float, float, float, SAME, SAME)
#endif

#ifdef __AVX512BF16__
/* The rounding above takes more instructions than the rest of the loop; these machines have one for it. (It takes
 * denormals, below 1e-38, for zero.) A vector holds 32 numbers: the even ones become floats by a shift, the odd ones by a
 * mask, so the tables are held in the same order. */
static inline __attribute__((always_inline)) void vectors_bf16(const int count, const __mmask32 mask, uint16_t *out,
                                                               const uint16_t *in, int64_t half, int64_t rows,
                                                               int64_t out_stride, int64_t in_stride,
                                                               const float *cos, const float *sin, float sign) {
    const __mmask16 low = mask, up = mask >> 16;
    const __m512 signs = _mm512_set1_ps(sign);
    const __m512i high = _mm512_set1_epi32(0xffff0000), sixteen = _mm512_set1_epi32(16);
    const __m512i count_up = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i even = _mm512_add_epi32(count_up, count_up), odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512i mixed = _mm512_or_si512(count_up, _mm512_slli_epi32(_mm512_add_epi32(count_up, sixteen), 16));
    __m512 c[2][2], s[2][2];
    for (int u = 0; u < count; u++) {
        const float *cu = cos + 32 * u, *su = sin + 32 * u;
        __m512 c0 = _mm512_maskz_loadu_ps(low, cu), c1 = _mm512_maskz_loadu_ps(up, cu + 16);
        __m512 s0 = _mm512_mul_ps(signs, _mm512_maskz_loadu_ps(low, su));
        __m512 s1 = _mm512_mul_ps(signs, _mm512_maskz_loadu_ps(up, su + 16));
        c[u][0] = _mm512_permutex2var_ps(c0, even, c1), c[u][1] = _mm512_permutex2var_ps(c0, odd, c1);
        s[u][0] = _mm512_permutex2var_ps(s0, even, s1), s[u][1] = _mm512_permutex2var_ps(s0, odd, s1);
    }
    for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {
        ahead(in + AHEAD * in_stride, 64 * count), ahead(in + half + AHEAD * in_stride, 64 * count);
        for (int u = 0; u < count; u++) {
            const __m512i a = _mm512_maskz_loadu_epi16(mask, in + 32 * u);
            const __m512i b = _mm512_maskz_loadu_epi16(mask, in + half + 32 * u);
            __m512 to_a[2], to_b[2];
            for (int h = 0; h < 2; h++) {
                __m512 x = _mm512_castsi512_ps(h ? _mm512_and_si512(a, high) : _mm512_slli_epi32(a, 16));
                __m512 y = _mm512_castsi512_ps(h ? _mm512_and_si512(b, high) : _mm512_slli_epi32(b, 16));
                to_a[h] = _mm512_fmsub_ps(x, c[u][h], _mm512_mul_ps(y, s[u][h]));
                to_b[h] = _mm512_fmadd_ps(y, c[u][h], _mm512_mul_ps(x, s[u][h]));
            }
            const __m512i rounded_a = (__m512i)_mm512_cvtne2ps_pbh(to_a[1], to_a[0]);
            const __m512i rounded_b = (__m512i)_mm512_cvtne2ps_pbh(to_b[1], to_b[0]);
            _mm512_mask_storeu_epi16(out + 32 * u, mask, _mm512_permutexvar_epi16(mixed, rounded_a));
            _mm512_mask_storeu_epi16(out + half + 32 * u, mask, _mm512_permutexvar_epi16(mixed, rounded_b));
        }
    }
}

static inline void halves_bf16(uint16_t *out, const uint16_t *in, int64_t half, int64_t rows, int64_t out_stride,
                             int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {
#define TAKE(COUNT, MASK)                                                                                              \
    vectors_bf16(COUNT, MASK, out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i, sign)
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) TAKE(2, 0xffffffff);
    for (; i + 32 <= n; i += 32) TAKE(1, 0xffffffff);
    if (i < n) TAKE(1, (uint32_t)((1ull << (n - i)) - 1));
#undef TAKE
}
#else
HALVES(halves_bf16, uint16_t, float, load_bf16, store_bf16)
#endif

HALVES(halves_double, double, double, SAME, SAME)

ROWS(rows_float, float, float, SAME, SAME, halves_float)
ROWS(rows_double, double, double, SAME, SAME, halves_double)
ROWS(rows_bf16, uint16_t, float, load_bf16, store_bf16, halves_bf16)
#ifdef WHORL_HALF
HALVES(halves_half, _Float16, float, LOAD_HALF, STORE_HALF)
ROWS(rows_half, _Float16, float, LOAD_HALF, STORE_HALF, halves_half)
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
