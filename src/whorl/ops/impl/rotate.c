/* Turns pairs of channels of up to two tensors in one parallel region. Built by cpu.py; no link to torch or Python.
 *
 *   (a, b) -> (a cos - b sin, b cos + a sin),   pairs first .. first + n - 1
 *
 * in == out: nothing but the turning pairs is read or written. Otherwise the whole head is written.
 * Arithmetic is float (double for double), rounded once to nearest even.
 */

#include <stdint.h>
#include <string.h>
#ifdef __AVX512BW__
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
 * time. For reading: asked for as one's own (prefetchw), all pairs took a tenth longer and half of them a third. A
 * prefetch past the end of the data does nothing. */
#define AHEAD 32
static inline void ahead(const void *from, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch((const char *)from + byte);
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

/* The same for pairs of neighbours. */
#define NEIGHBOURS(NAME, TYPE, MATH, LOAD, STORE)                                                                      \
    static inline void NAME(TYPE *out, const TYPE *in, int64_t rows, int64_t out_stride, int64_t in_stride,            \
                            const MATH *cos, const MATH *sin, MATH sign, int64_t n) {                                  \
        for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {                                 \
            ahead(in + AHEAD * in_stride, 2 * n * sizeof(TYPE));                                                       \
            _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) {                                                     \
                MATH x = LOAD(in[2 * i]), y = LOAD(in[2 * i + 1]), c = cos[i], s = sign * sin[i];                      \
                out[2 * i] = STORE(x * c - y * s);                                                                     \
                out[2 * i + 1] = STORE(y * c + x * s);                                                                 \
            }                                                                                                          \
        }                                                                                                              \
    }

#ifdef __AVX512BW__
/* 32 numbers as floats, in two vectors. Natural order: the first 16, then the rest. Sorted: the even ones, then the odd
 * ones, which is how bfloat16 unpacks (a shift and a mask) and packs again without moving anything across lanes. */
typedef struct {
    __m512 a, b;
} Two;

static inline Two load_float_32(const float *from, __mmask32 mask) {
    return (Two){_mm512_maskz_loadu_ps(mask, from), _mm512_maskz_loadu_ps(mask >> 16, from + 16)};
}

static inline void store_float_32(float *to, __mmask32 mask, Two x) {
    _mm512_mask_storeu_ps(to, mask, x.a), _mm512_mask_storeu_ps(to + 16, mask >> 16, x.b);
}

static inline Two load_half_32(const void *from, __mmask32 mask) {
    const __m512i x = _mm512_maskz_loadu_epi16(mask, from);
    return (Two){_mm512_cvtph_ps(_mm512_castsi512_si256(x)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1))};
}

static inline void store_half_32(void *to, __mmask32 mask, Two x) {
    const __m256i a = _mm512_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i b = _mm512_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm512_mask_storeu_epi16(to, mask, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
}

static inline Two load_bf16_32(const uint16_t *from, __mmask32 mask) { /* sorted */
    const __m512i x = _mm512_maskz_loadu_epi16(mask, from);
    return (Two){_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                 _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff0000)))};
}

#ifdef __AVX512BF16__
/* These machines have an instruction that rounds. (It takes denormals, below 1e-38, for zero.) */
static inline void store_bf16_32(uint16_t *to, __mmask32 mask, Two x) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i mixed = _mm512_or_si512(lanes, _mm512_slli_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(16)), 16));
    _mm512_mask_storeu_epi16(to, mask, _mm512_permutexvar_epi16(mixed, (__m512i)_mm512_cvtne2ps_pbh(x.b, x.a)));
}
#else
/* The upper halves and the lower halves of the floats, and to nearest even: up where the lower half is over 0x8000, or is just
 * that and the upper half is odd. As `store_bf16` without its NaN: every NaN here is a bfloat16's, or made by the arithmetic or
 * by `load_table`, and has a lower half of zeros. */
static inline void store_bf16_32(uint16_t *to, __mmask32 mask, Two x) {
    const __m512i even = _mm512_castps_si512(x.a), odd = _mm512_castps_si512(x.b), ones = _mm512_set1_epi16(1);
    const __m512i upper = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd);
    const __m512i lower = _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16));
    const __m512i with_parity = _mm512_ternarylogic_epi32(lower, upper, ones, 0xf8); /* lower | (upper & 1) */
    const __mmask32 up = _mm512_cmpgt_epu16_mask(with_parity, _mm512_set1_epi16((short)0x8000));
    _mm512_mask_storeu_epi16(to, mask, _mm512_mask_add_epi16(upper, up, upper, ones));
}
#endif

static inline Two natural(Two x) { return x; }

static inline Two sorted(Two x) { /* natural order to sorted */
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return (Two){_mm512_permutex2var_ps(x.a, even, x.b), _mm512_permutex2var_ps(x.a, odd, x.b)};
}

static inline Two unsorted(Two x) { /* and back */
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    return (Two){_mm512_permutex2var_ps(x.a, low, x.b), _mm512_permutex2var_ps(x.a, high, x.b)};
}

static inline __m512 load_table(const float *from, __mmask16 mask) {
    const __m512 x = _mm512_maskz_loadu_ps(mask, from);
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x, _mm512_set1_ps(__builtin_nanf("")));
}

static inline void turn(__m512 *x, __m512 *y, __m512 c, __m512 s) {
    const __m512 old = *x;
    *x = _mm512_fmsub_ps(old, c, _mm512_mul_ps(*y, s));
    *y = _mm512_fmadd_ps(*y, c, _mm512_mul_ps(old, s));
}

/* The tables of up to 64 pairs (in halves) or 16 (neighbours) stay in registers while the rows pass by. ORDER is how LOAD
 * gives its numbers; SORT and UNSORT go from there to sorted, in which neighbours are first and second channels. */
#define VECTORS(NAME, TYPE, LOAD, STORE, ORDER, SORT, UNSORT)                                                          \
    static inline __attribute__((always_inline)) void NAME##_some(                                                     \
        const int count, const __mmask32 mask, TYPE *out, const TYPE *in, int64_t half, int64_t rows,                  \
        int64_t out_stride, int64_t in_stride, const float *cos, const float *sin, float sign) {                       \
        const __m512 signs = _mm512_set1_ps(sign);                                                                     \
        Two c[2], s[2];                                                                                                \
        for (int u = 0; u < count; u++) {                                                                              \
            const float *cu = cos + 32 * u, *su = sin + 32 * u;                                                        \
            const __mmask16 low = mask, up = mask >> 16;                                                               \
            c[u] = ORDER(((Two){load_table(cu, low), load_table(cu + 16, up)}));                                       \
            s[u] = ORDER(((Two){_mm512_mul_ps(signs, load_table(su, low)),                                             \
                                _mm512_mul_ps(signs, load_table(su + 16, up))}));                                      \
        }                                                                                                              \
        const int64_t bytes = 32 * count * sizeof(TYPE);                                                               \
        for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {                                 \
            ahead(in + AHEAD * in_stride, bytes), ahead(in + half + AHEAD * in_stride, bytes);                         \
            for (int u = 0; u < count; u++) {                                                                          \
                Two x = LOAD(in + 32 * u, mask), y = LOAD(in + half + 32 * u, mask);                                   \
                turn(&x.a, &y.a, c[u].a, s[u].a), turn(&x.b, &y.b, c[u].b, s[u].b);                                    \
                STORE(out + 32 * u, mask, x), STORE(out + half + 32 * u, mask, y);                                     \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void halves_##NAME(TYPE *out, const TYPE *in, int64_t half, int64_t rows, int64_t out_stride,        \
                                     int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {   \
        int64_t i = 0;                                                                                                 \
        for (; i + 64 <= n; i += 64)                                                                                   \
            NAME##_some(2, 0xffffffff, out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i, sign);    \
        for (; i + 32 <= n; i += 32)                                                                                   \
            NAME##_some(1, 0xffffffff, out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i, sign);    \
        if (i < n)                                                                                                     \
            NAME##_some(1, (1u << (n - i)) - 1, out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i,  \
                        sign);                                                                                         \
    }                                                                                                                  \
    static inline void neighbours_##NAME(TYPE *out, const TYPE *in, int64_t rows, int64_t out_stride,                  \
                                         int64_t in_stride, const float *cos, const float *sin, float sign,            \
                                         int64_t n) {                                                                  \
        for (int64_t i = 0; i < n; i += 16, in += 32, out += 32) {                                                     \
            const __mmask32 mask = n - i < 16 ? (1u << 2 * (n - i)) - 1 : 0xffffffff;                                  \
            const __mmask16 pairs = n - i < 16 ? (1u << (n - i)) - 1 : 0xffff;                                         \
            const __m512 c = load_table(cos + i, pairs);                                                               \
            const __m512 s = _mm512_mul_ps(_mm512_set1_ps(sign), load_table(sin + i, pairs));                          \
            for (int64_t row = 0; row < rows; row++) {                                                                 \
                ahead(in + (row + AHEAD) * in_stride, 32 * sizeof(TYPE));                                              \
                Two x = SORT(LOAD(in + row * in_stride, mask));                                                        \
                turn(&x.a, &x.b, c, s);                                                                                \
                STORE(out + row * out_stride, mask, UNSORT(x));                                                        \
            }                                                                                                          \
        }                                                                                                              \
    }

VECTORS(float, float, load_float_32, store_float_32, natural, sorted, unsorted)
VECTORS(bf16, uint16_t, load_bf16_32, store_bf16_32, sorted, natural, natural)
#ifdef WHORL_HALF
VECTORS(half, _Float16, load_half_32, store_half_32, natural, sorted, unsorted)
#endif
#else
HALVES(halves_float, float, float, SAME, SAME)
HALVES(halves_bf16, uint16_t, float, load_bf16, store_bf16)
NEIGHBOURS(neighbours_float, float, float, SAME, SAME)
NEIGHBOURS(neighbours_bf16, uint16_t, float, load_bf16, store_bf16)
#ifdef WHORL_HALF
HALVES(halves_half, _Float16, float, LOAD_HALF, STORE_HALF)
NEIGHBOURS(neighbours_half, _Float16, float, LOAD_HALF, STORE_HALF)
#endif
#endif

HALVES(halves_double, double, double, SAME, SAME)
NEIGHBOURS(neighbours_double, double, double, SAME, SAME)

/* All rows of a block of tokens. */
#define ROWS(NAME, TYPE, MATH, HALVES, NEIGHBOURS)                                                                     \
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
                    NEIGHBOURS(out + 2 * first, in + 2 * first, rows, out_stride, in_stride, cos + table, sin + table, \
                               sign, n);                                                                               \
                else                                                                                                   \
                    HALVES(out + first, in + first, half, rows, out_stride, in_stride, cos + table, sin + table, sign, \
                           n);                                                                                         \
                in += rows * in_stride, out += rows * out_stride, table += t.table_stride[inner];                      \
            }                                                                                                          \
        }                                                                                                              \
    }

ROWS(rows_float, float, float, halves_float, neighbours_float)
ROWS(rows_double, double, double, halves_double, neighbours_double)
ROWS(rows_bf16, uint16_t, float, halves_bf16, neighbours_bf16)
#ifdef WHORL_HALF
ROWS(rows_half, _Float16, float, halves_half, neighbours_half)
#endif

/* One array of numbers, since that is the cheapest call to make from Python:
 *
 *   [0] dtype: 0 float, 1 double, 2 bfloat16, 3 half   [1] tensors: 1 or 2   [2] cos   [3] sin (addresses; tables are
 *   double for double and float otherwise)   [4] sign   [5] head dim   [6] first   [7] n   [8] width   [9] interleaved
 *   [10] tokens per unit of work   [11] threads   [12 ..] a `Tensor` for each
 *
 * Returns 0, or 2 for a dtype that this build does not have. */
int whorl_rotate(const int64_t *call) {
    const int dtype = call[0], count = call[1], interleaved = call[9], threads = call[11];
    const void *cos = (const void *)call[2], *sin = (const void *)call[3];
    const double sign = call[4];
    const int64_t head_dim = call[5], first = call[6], n = call[7], width = call[8], block = call[10];
    const Tensor *tensors = (const Tensor *)(call + 12);
#ifndef WHORL_HALF
    if (dtype == 3) return 2;
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
