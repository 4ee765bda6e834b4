/* Turns pairs of channels of up to two tensors in one parallel region. Built by building.py; no link to torch or Python.
 *
 *   (a, b) -> (a cos - b sin, b cos + a sin),   pairs first .. first + n - 1
 *
 * in == out: nothing but the turning pairs is read or written. Otherwise the whole head is written.
 * Arithmetic is float (double for double), rounded once to nearest even.
 */

#include <stdint.h>
#include <string.h>
#if defined(__AVX512BW__) || defined(__AVX2__)
#include <immintrin.h>
#endif

typedef struct {
    void *out;
    const void *in;
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

/* float16 by hand, since compilers have it or not: its exponents are 112 lower than a float's. */
static inline float load_float16(uint16_t x) {
    uint32_t bits = (uint32_t)(x & 0x7fff) << 13;
    float value;
    memcpy(&value, &bits, 4);
    value *= 0x1p112f;
    memcpy(&bits, &value, 4);
    bits |= (x & 0x7c00) == 0x7c00 ? 0x7f800000 : 0; /* infinity or NaN */
    bits |= (uint32_t)(x & 0x8000) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t store_float16(float value) {
    uint32_t bits, small;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    float sum;
    memcpy(&sum, &size, 4);
    sum += 0.5f; /* whose last bit is a float16's least number, 2^-24 */
    memcpy(&small, &sum, 4);
    uint32_t rounded = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
    rounded = size < 113u << 23 ? small - 0x3f000000 : rounded;
    rounded = size >= 0x477ff000 ? 0x7c00 : rounded; /* 65520 and more */
    rounded = size > 0x7f800000 ? 0x7e00 : rounded;  /* NaN stays NaN */
    return sign | rounded;
}

#define SAME(x) (x)

/* Rows with gaps between what is touched defeat the hardware's own prefetching: asked for a few rows ahead, lines come in
 * time. For reading: asked for as one's own (prefetchw), all pairs took a tenth longer and half of them a third. A
 * prefetch past the end of the data does nothing. */
#define AHEAD 32
static inline void ahead(const void *from, int64_t bytes) {
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch((const char *)from + byte);
}

/* Out of place, with AVX-512, all of a row goes through registers as if every pair turned, and the pairs that do not are left as
 * they are there: a copy takes the time of a turn, since both wait for memory. Elsewhere, and where heads have channels that are
 * in no pair, a token's heads (or a head's tokens) are copied first, as one stretch where they are one, and then turned where
 * they lie, in the first-level cache. */
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

/* Vectors of LANES floats, with AVX-512 and with AVX2; processors of other kinds have the loops above, as the compiler makes
 * them. `Two` is 2 LANES numbers as floats. Natural order: the first LANES, then the rest. Sorted: the first channels of
 * neighbours, then the second ones; for bfloat16 that is how it unpacks (a shift and a mask) and packs again without moving
 * anything across lanes. `Some` says how many of the numbers there are. */
#if defined(__AVX512BW__)
#define LANES 16
#define TOGETHER 2 /* whose tables stay in registers while rows pass by */
typedef __m512 vec;
typedef struct {
    vec a, b;
} Two;
typedef __mmask32 Some;

static inline Some some(int64_t count) { return count < 32 ? (1u << count) - 1 : 0xffffffff; }

static inline Two load_float(const float *from, Some mask) {
    return (Two){_mm512_maskz_loadu_ps(mask, from), _mm512_maskz_loadu_ps(mask >> 16, from + 16)};
}

static inline void store_float(float *to, Some mask, Two x) {
    _mm512_mask_storeu_ps(to, mask, x.a), _mm512_mask_storeu_ps(to + 16, mask >> 16, x.b);
}

static inline Two load_half(const void *from, Some mask) {
    const __m512i x = _mm512_maskz_loadu_epi16(mask, from);
    return (Two){_mm512_cvtph_ps(_mm512_castsi512_si256(x)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64(x, 1))};
}

static inline void store_half(void *to, Some mask, Two x) {
    const __m256i a = _mm512_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i b = _mm512_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm512_mask_storeu_epi16(to, mask, _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1));
}

static inline Two load_bf16_sorted(const uint16_t *from, Some mask) {
    const __m512i x = _mm512_maskz_loadu_epi16(mask, from);
    return (Two){_mm512_castsi512_ps(_mm512_slli_epi32(x, 16)),
                 _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(0xffff0000)))};
}

#ifdef __AVX512BF16__
/* These machines have an instruction that rounds. (It takes denormals, below 1e-38, for zero.) */
static inline __m512i packed_bf16(Two x) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i mixed = _mm512_or_si512(lanes, _mm512_slli_epi32(_mm512_add_epi32(lanes, _mm512_set1_epi32(16)), 16));
    return _mm512_permutexvar_epi16(mixed, (__m512i)_mm512_cvtne2ps_pbh(x.b, x.a));
}

static inline void store_bf16_sorted(uint16_t *to, Some mask, Two x) { _mm512_mask_storeu_epi16(to, mask, packed_bf16(x)); }
#else
/* The upper halves and the lower halves of the floats, and to nearest even: up where the lower half is over 0x8000, or is just
 * that and the upper half is odd. As `store_bf16` without its NaN: every NaN here is a bfloat16's, or made by the arithmetic or
 * by `load_table`, and has a lower half of zeros. */
static inline void store_bf16_sorted(uint16_t *to, Some mask, Two x) {
    const __m512i even = _mm512_castps_si512(x.a), odd = _mm512_castps_si512(x.b), ones = _mm512_set1_epi16(1);
    const __m512i upper = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(even, 16), odd);
    const __m512i lower = _mm512_mask_blend_epi16(0xaaaaaaaa, even, _mm512_slli_epi32(odd, 16));
    const __m512i with_parity = _mm512_ternarylogic_epi32(lower, upper, ones, 0xf8); /* lower | (upper & 1) */
    const __mmask32 up = _mm512_cmpgt_epu16_mask(with_parity, _mm512_set1_epi16((short)0x8000));
    _mm512_mask_storeu_epi16(to, mask, _mm512_mask_add_epi16(upper, up, upper, ones));
}
#endif

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

static inline vec pairs_sorted(vec x) { return x; }
static inline Two table_sorted(Two x) { return sorted(x); }

/* Numbers from .. to - 1 of a row of a table, and `other` in the place of those before and after. */
static inline vec load_table(const float *row, int64_t from, int64_t to, float other) {
    const int64_t below = from < 0 ? 0 : from < 16 ? from : 16, end = to < 0 ? 0 : to < 16 ? to : 16;
    const __mmask16 mask = (uint32_t)((1u << end) - 1) & ~(uint32_t)((1u << below) - 1);
    const vec x = _mm512_mask_loadu_ps(_mm512_set1_ps(other), mask, row);
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x, _mm512_set1_ps(__builtin_nanf("")));
}

typedef __mmask16 Turns; /* which pairs of a vector turn */
static inline Turns turning(vec c, vec s) {
    return _mm512_cmp_ps_mask(c, _mm512_set1_ps(1), _CMP_NEQ_UQ) | _mm512_cmp_ps_mask(s, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}

static inline void turn(vec *x, vec *y, vec c, vec s) {
    const vec old = *x;
    *x = _mm512_fmsub_ps(old, c, _mm512_mul_ps(*y, s));
    *y = _mm512_fmadd_ps(*y, c, _mm512_mul_ps(old, s));
}

static inline void turn_some(vec *x, vec *y, vec c, vec s, Turns which) {
    const vec old = *x;
    *x = _mm512_mask_fmsub_ps(old, which, c, _mm512_mul_ps(*y, s));
    *y = _mm512_mask_fmadd_ps(*y, which, c, _mm512_mul_ps(old, s));
}
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LANES 8
#define TOGETHER 4
typedef __m256 vec;
typedef struct {
    vec a, b;
} Two;
typedef int64_t Some; /* may be below 0 */

static inline Some some(int64_t count) { return count < 16 ? count : 16; }

/* There are no masks for 16 bits: what is less than a vector goes through memory. */
#define PARTLY(TYPE, FULL, LOAD, STORE)                                                                                \
    static inline __attribute__((always_inline)) Two load_##LOAD(const TYPE *from, Some count) {                       \
        TYPE part[16] = {0};                                                                                           \
        if (count < 16) memcpy(part, from, count * sizeof(TYPE)), from = part;                                         \
        return FULL;                                                                                                   \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) void store_##LOAD(TYPE *to, Some count, Two x) {                      \
        TYPE part[16];                                                                                                 \
        if (count >= 16) {                                                                                             \
            STORE(to, x);                                                                                              \
        } else {                                                                                                       \
            STORE(part, x);                                                                                            \
            memcpy(to, part, count * sizeof(TYPE));                                                                    \
        }                                                                                                              \
    }

static inline void all_float(float *to, Two x) { _mm256_storeu_ps(to, x.a), _mm256_storeu_ps(to + 8, x.b); }

static inline Two split_bf16(__m256i x) {
    return (Two){_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
                 _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff0000)))};
}

/* As with AVX-512; numbers are compared as signed ones, from 0x8000 on. */
static inline void all_bf16_sorted(uint16_t *to, Two x) {
    const __m256i even = _mm256_castps_si256(x.a), odd = _mm256_castps_si256(x.b), ones = _mm256_set1_epi16(1);
    const __m256i upper = _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
    const __m256i lower = _mm256_blend_epi16(even, _mm256_slli_epi32(odd, 16), 0xaa);
    const __m256i with_parity = _mm256_or_si256(lower, _mm256_and_si256(upper, ones));
    const __m256i up = _mm256_cmpgt_epi16(_mm256_xor_si256(with_parity, _mm256_set1_epi16((short)0x8000)), _mm256_setzero_si256());
    _mm256_storeu_si256((__m256i *)to, _mm256_sub_epi16(upper, up));
}

#define HALF_AT(from) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from)))
#define TO_HALF(x) _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
static inline void all_half(void *to, Two x) {
    _mm256_storeu_si256(to, _mm256_set_m128i(TO_HALF(x.b), TO_HALF(x.a)));
}

PARTLY(float, ((Two){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}), float, all_float)
PARTLY(uint16_t, split_bf16(_mm256_loadu_si256((const __m256i *)from)), bf16_sorted, all_bf16_sorted)
PARTLY(uint16_t, ((Two){HALF_AT(from), HALF_AT(from + 8)}), half, all_half)

/* Natural order to sorted but for the order of the pairs, 0 1 4 5 2 3 6 7, which takes no step across halves of a vector. */
static inline Two sorted(Two x) {
    return (Two){_mm256_shuffle_ps(x.a, x.b, 0x88), _mm256_shuffle_ps(x.a, x.b, 0xdd)};
}

static inline Two unsorted(Two x) { /* and back */
    return (Two){_mm256_unpacklo_ps(x.a, x.b), _mm256_unpackhi_ps(x.a, x.b)};
}

static inline vec pairs_sorted(vec x) { return (vec)_mm256_permute4x64_pd((__m256d)x, 0xd8); } /* into that order, and back */
static inline Two table_sorted(Two x) {
    x = sorted(x);
    return (Two){pairs_sorted(x.a), pairs_sorted(x.b)};
}

static inline vec load_table(const float *row, int64_t from, int64_t to, float other) {
    const int below = from < 0 ? 0 : from < 8 ? (int)from : 8, end = to < 0 ? 0 : to < 8 ? (int)to : 8;
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(below), lanes), _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes));
    const vec x = _mm256_blendv_ps(_mm256_set1_ps(other), _mm256_maskload_ps(row, mask), _mm256_castsi256_ps(mask));
    return _mm256_blendv_ps(x, _mm256_set1_ps(__builtin_nanf("")), _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

typedef vec Turns;
static inline Turns turning(vec c, vec s) {
    return _mm256_or_ps(_mm256_cmp_ps(c, _mm256_set1_ps(1), _CMP_NEQ_UQ), _mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}

static inline void turn(vec *x, vec *y, vec c, vec s) {
    const vec old = *x;
    *x = _mm256_fmsub_ps(old, c, _mm256_mul_ps(*y, s));
    *y = _mm256_fmadd_ps(*y, c, _mm256_mul_ps(old, s));
}

static inline void turn_some(vec *x, vec *y, vec c, vec s, Turns which) {
    vec a = *x, b = *y;
    turn(&a, &b, c, s);
    *x = _mm256_blendv_ps(*x, a, which), *y = _mm256_blendv_ps(*y, b, which);
}
#endif

#ifdef LANES
/* Where some pairs do not turn, `which` of the first and of the second LANES numbers; these are in their registers as they came. */
#define store_float_some(to, mask, x, from, first, second) store_float(to, mask, x)
#define store_half_some(to, mask, x, from, first, second) store_half(to, mask, x)
#ifdef __AVX512BF16__
/* But for what the rounding takes for zero: there they are as they lie. */
static inline void store_bf16_sorted_some(uint16_t *to, Some mask, Two x, const uint16_t *from, Turns even, Turns odd) {
    const __mmask32 which = _pdep_u32(even, 0x55555555) | _pdep_u32(odd, 0xaaaaaaaa);
    const __m512i kept = _mm512_maskz_loadu_epi16(mask, from);
    _mm512_mask_storeu_epi16(to, mask, _mm512_mask_blend_epi16(which, kept, packed_bf16(x)));
}
#else
#define store_bf16_sorted_some(to, mask, x, from, first, second) store_bf16_sorted(to, mask, x)
#endif

static inline vec times(vec x, float y) { return x * y; }
static inline Two natural(Two x) { return x; }
static inline vec in_order(vec x) { return x; }

/* The tables of up to TOGETHER times 2 LANES pairs (in halves) or LANES (neighbours) are read once for all rows. ORDER is how
 * LOAD gives its numbers; SORT and UNSORT go from there to sorted, in which neighbours are first and second channels. */
#define VECTORS(NAME, TYPE, LOAD, STORE, ORDER, SORT, UNSORT, PAIRS)                                                   \
    static inline __attribute__((always_inline)) void NAME##_some(                                                     \
        const int count, const int still, int64_t first, int64_t last, const Some mask, TYPE *out,                     \
        const TYPE *in, int64_t half, int64_t rows,                                                                    \
        int64_t out_stride, int64_t in_stride, const float *cos, const float *sin, float sign) {                       \
        Two c[TOGETHER], s[TOGETHER];                                                                                  \
        for (int u = 0; u < count; u++) {                                                                              \
            const float *cu = cos + 2 * LANES * u, *su = sin + 2 * LANES * u;                                          \
            const int64_t a = first - 2 * LANES * u, b = last - 2 * LANES * u;                                         \
            c[u] = ORDER(((Two){load_table(cu, a, b, 1), load_table(cu + LANES, a - LANES, b - LANES, 1)}));           \
            s[u] = ORDER(((Two){times(load_table(su, a, b, 0), sign),                                                  \
                                times(load_table(su + LANES, a - LANES, b - LANES, 0), sign)}));                       \
        }                                                                                                              \
        Turns which[TOGETHER][2];                                                                                      \
        for (int u = 0; u < count && still; u++)                                                                       \
            which[u][0] = turning(c[u].a, s[u].a), which[u][1] = turning(c[u].b, s[u].b);                              \
        const int64_t bytes = 2 * LANES * count * sizeof(TYPE);                                                        \
        for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {                                 \
            ahead(in + AHEAD * in_stride, bytes), ahead(in + half + AHEAD * in_stride, bytes);                         \
            for (int u = 0; u < count; u++) {                                                                          \
                const TYPE *from = in + 2 * LANES * u;                                                                 \
                TYPE *to = out + 2 * LANES * u;                                                                        \
                Two x = LOAD(from, mask), y = LOAD(from + half, mask);                                                 \
                if (still) {                                                                                           \
                    turn_some(&x.a, &y.a, c[u].a, s[u].a, which[u][0]), turn_some(&x.b, &y.b, c[u].b, s[u].b, which[u][1]);\
                    STORE##_some(to, mask, x, from, which[u][0], which[u][1]);                                         \
                    STORE##_some(to + half, mask, y, from + half, which[u][0], which[u][1]);                           \
                } else {                                                                                               \
                    turn(&x.a, &y.a, c[u].a, s[u].a), turn(&x.b, &y.b, c[u].b, s[u].b);                                \
                    STORE(to, mask, x), STORE(to + half, mask, y);                                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) void halves_any_##NAME(                                               \
        const int still, int64_t first, int64_t last, TYPE *out, const TYPE *in, int64_t half, int64_t rows, int64_t out_stride,\
                                     int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {   \
        int64_t i = 0;                                                                                                 \
        for (; i + 2 * LANES * TOGETHER <= n; i += 2 * LANES * TOGETHER)                                               \
            NAME##_some(TOGETHER, still, first - i, last - i, some(2 * LANES), out + i, in + i, half, rows, out_stride, in_stride, cos + i,\
                        sin + i, sign);                                                                                \
        for (; TOGETHER > 2 && i + 4 * LANES <= n; i += 4 * LANES)                                                     \
            NAME##_some(2, still, first - i, last - i, some(2 * LANES), out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i,\
                        sign);                                                                                         \
        for (; i + 2 * LANES <= n; i += 2 * LANES)                                                                     \
            NAME##_some(1, still, first - i, last - i, some(2 * LANES), out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i,\
                        sign);                                                                                         \
        if (i < n)                                                                                                     \
            NAME##_some(1, still, first - i, last - i, some(n - i), out + i, in + i, half, rows, out_stride, in_stride, cos + i, sin + i, sign);\
    }                                                                                                                  \
    static inline __attribute__((always_inline)) void NAME##_some_neighbours(                                          \
        const int count, const int still, int64_t first, int64_t last, const Some mask, TYPE *out, const TYPE *in, int64_t rows,\
        int64_t out_stride, int64_t in_stride, const float *cos, const float *sin, float sign) {                       \
        vec c[TOGETHER], s[TOGETHER];                                                                                  \
        Turns which[TOGETHER];                                                                                         \
        for (int u = 0; u < count; u++) {                                                                              \
            const float *cu = cos + LANES * u, *su = sin + LANES * u;                                                  \
            const int64_t a = first - LANES * u, b = last - LANES * u;                                                 \
            c[u] = PAIRS(load_table(cu, a, b, 1));                                                                     \
            s[u] = PAIRS(times(load_table(su, a, b, 0), sign));                                                        \
            if (still) which[u] = turning(c[u], s[u]);                                                                 \
        }                                                                                                              \
        for (int64_t row = 0; row < rows; row++, in += in_stride, out += out_stride) {                                 \
            ahead(in + AHEAD * in_stride, 2 * LANES * count * sizeof(TYPE));                                           \
            for (int u = 0; u < count; u++) {                                                                          \
                Two x = SORT(LOAD(in + 2 * LANES * u, mask));                                                          \
                if (still) {                                                                                           \
                    turn_some(&x.a, &x.b, c[u], s[u], which[u]);                                                       \
                    STORE##_some(out + 2 * LANES * u, mask, UNSORT(x), in + 2 * LANES * u, which[u], which[u]);        \
                } else {                                                                                               \
                    turn(&x.a, &x.b, c[u], s[u]);                                                                      \
                    STORE(out + 2 * LANES * u, mask, UNSORT(x));                                                       \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) void neighbours_any_##NAME(                                           \
        const int still, int64_t first, int64_t last, TYPE *out, const TYPE *in, int64_t rows, int64_t out_stride,     \
                                         int64_t in_stride, const float *cos, const float *sin, float sign,            \
                                         int64_t n) {                                                                  \
        int64_t i = 0;                                                                                                 \
        for (; i + LANES * TOGETHER <= n; i += LANES * TOGETHER)                                                       \
            NAME##_some_neighbours(TOGETHER, still, first - i, last - i, some(2 * LANES), out + 2 * i, in + 2 * i, rows, out_stride,\
                                   in_stride, cos + i, sin + i, sign);                                                 \
        for (; i < n; i += LANES) {                                                                                    \
            const int64_t left = n - i < LANES ? n - i : LANES;                                                        \
            NAME##_some_neighbours(1, still, first - i, last - i, some(2 * left), out + 2 * i, in + 2 * i, rows, out_stride, in_stride,\
                                   cos + i, sin + i, sign);                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void halves_##NAME(TYPE *out, const TYPE *in, int64_t half, int64_t rows, int64_t out_stride,        \
                                     int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {   \
        halves_any_##NAME(0, 0, n, out, in, half, rows, out_stride, in_stride, cos, sin, sign, n);                     \
    }                                                                                                                  \
    static inline void halves_some_##NAME(int64_t first, int64_t last, TYPE *out, const TYPE *in, int64_t half, int64_t rows, int64_t out_stride,\
                                     int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {   \
        halves_any_##NAME(1, first, last, out, in, half, rows, out_stride, in_stride, cos, sin, sign, n);              \
    }                                                                                                                  \
    static inline void neighbours_##NAME(TYPE *out, const TYPE *in, int64_t rows, int64_t out_stride,                  \
                                         int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {\
        neighbours_any_##NAME(0, 0, n, out, in, rows, out_stride, in_stride, cos, sin, sign, n);                       \
    }                                                                                                                  \
    static inline void neighbours_some_##NAME(int64_t first, int64_t last, TYPE *out, const TYPE *in, int64_t rows, int64_t out_stride,\
                                         int64_t in_stride, const float *cos, const float *sin, float sign, int64_t n) {\
        neighbours_any_##NAME(1, first, last, out, in, rows, out_stride, in_stride, cos, sin, sign, n);                \
    }

VECTORS(float, float, load_float, store_float, natural, sorted, unsorted, pairs_sorted)
VECTORS(bf16, uint16_t, load_bf16_sorted, store_bf16_sorted, table_sorted, natural, natural, in_order)
VECTORS(half, uint16_t, load_half, store_half, natural, sorted, unsorted, pairs_sorted)
#else
HALVES(halves_float, float, float, SAME, SAME)
HALVES(halves_bf16, uint16_t, float, load_bf16, store_bf16)
NEIGHBOURS(neighbours_float, float, float, SAME, SAME)
NEIGHBOURS(neighbours_bf16, uint16_t, float, load_bf16, store_bf16)
HALVES(halves_half, uint16_t, float, load_float16, store_float16)
NEIGHBOURS(neighbours_half, uint16_t, float, load_float16, store_float16)
#endif

HALVES(halves_double, double, double, SAME, SAME)
NEIGHBOURS(neighbours_double, double, double, SAME, SAME)

/* All rows of a block of tokens. */
#define ROWS(NAME, TYPE, MATH, HALVES, NEIGHBOURS, VECTORS, HALVES_SOME, NEIGHBOURS_SOME)                              \
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
        const int moves = t.out != t.in && 2 * n < head_dim, whole = VECTORS == 16 && moves && width == head_dim;      \
        /* less than a vector: of pairs that are copied already, the vector that ends them or the row */               \
        const int64_t step = interleaved ? VECTORS : 2 * VECTORS, left = VECTORS == 8 && moves && half >= step ? n % step : 0;\
        const int64_t ends = first + n - left < half - step ? first + n - left : half - step;                                                     \
        for (int64_t i = 0; i < size[outer]; i++) {                                                                    \
            const TYPE *in = all_in + i * t.in_stride[outer];                                                          \
            int64_t in_stride = t.in_stride[inner];                                                                    \
            TYPE *out = all_out + i * t.out_stride[outer];                                                             \
            int64_t table = all_tables + i * t.table_stride[outer];                                                    \
            if (moves && !whole) {                                                                                     \
                copy_rows(out, in, size[inner], out_stride * bytes, in_stride * bytes, head_dim * bytes);              \
                in = out, in_stride = out_stride;                                                                      \
            }                                                                                                          \
            for (int64_t j = 0; j < size[inner]; j += rows) {                                                          \
                if (whole && interleaved)                                                                              \
                    NEIGHBOURS_SOME(first, first + n, out, in, rows, out_stride, in_stride, cos + table - first,       \
                                    sin + table - first, sign, half);                                                  \
                else if (whole)                                                                                        \
                    HALVES_SOME(first, first + n, out, in, half, rows, out_stride, in_stride, cos + table - first,     \
                                sin + table - first, sign, half);                                                      \
                else if (interleaved)                                                                                  \
                    NEIGHBOURS(out + 2 * first, in + 2 * first, rows, out_stride, in_stride, cos + table, sin + table, \
                               sign, n - left);                                                                        \
                else                                                                                                   \
                    HALVES(out + first, in + first, half, rows, out_stride, in_stride, cos + table, sin + table, sign, \
                           n - left);                                                                                  \
                if (left && interleaved)                                                                               \
                    NEIGHBOURS_SOME(first + n - left - ends, first + n - ends, out + 2 * ends, in + 2 * ends, rows, out_stride,\
                                    in_stride, cos + table - first + ends, sin + table - first + ends, sign, step);    \
                else if (left)                                                                                         \
                    HALVES_SOME(first + n - left - ends, first + n - ends, out + ends, in + ends, half, rows, out_stride,\
                                in_stride, cos + table - first + ends, sin + table - first + ends, sign, step);        \
                in += rows * in_stride, out += rows * out_stride, table += t.table_stride[inner];                      \
            }                                                                                                          \
        }                                                                                                              \
    }

/* Of types that have no vectors here: ROWS is told not to call these. */
#define NEVER(NAME, TYPE, MATH)                                                                                        \
    static inline void halves_some_##NAME(int64_t first, int64_t last, TYPE *out, const TYPE *in, int64_t half,        \
                                          int64_t rows, int64_t out_stride, int64_t in_stride, const MATH *cos,        \
                                          const MATH *sin, MATH sign, int64_t n) {}                                    \
    static inline void neighbours_some_##NAME(int64_t first, int64_t last, TYPE *out, const TYPE *in, int64_t rows,    \
                                              int64_t out_stride, int64_t in_stride, const MATH *cos, const MATH *sin, \
                                              MATH sign, int64_t n) {}
#define ROWS_OF(NAME, TYPE, MATH, VECTORS)                                                                             \
    ROWS(rows_##NAME, TYPE, MATH, halves_##NAME, neighbours_##NAME, VECTORS, halves_some_##NAME, neighbours_some_##NAME)
#ifndef LANES
#define LANES 0
NEVER(float, float, float)
NEVER(bf16, uint16_t, float)
NEVER(half, uint16_t, float)
#endif
NEVER(double, double, double)
ROWS_OF(float, float, float, LANES)
ROWS_OF(bf16, uint16_t, float, LANES)
ROWS_OF(half, uint16_t, float, LANES)
ROWS_OF(double, double, double, 0)

/* One array of numbers, since that is the cheapest call to make from Python; what changes from call to call comes first:
 *
 *   [0] threads   [1] cos   [2] sin   [3] out   [4] in   [5], [6] a second out and in (addresses; tables are double for double
 *   and float otherwise)   [7] dtype: 0 float, 1 double, 2 bfloat16, 3 half   [8] tensors: 1 or 2   [9] sign   [10] head dim
 *   [11] first   [12] n   [13] width   [14] interleaved   [15] tokens per unit of work   [16 ..] `batch` and on of each Tensor
 *
 * Returns 0. */
int whorl_rotate(const int64_t *call) {
    const int dtype = call[7], count = call[8], interleaved = call[14], threads = call[0];
    const void *cos = (const void *)call[1], *sin = (const void *)call[2];
    const double sign = call[9];
    const int64_t head_dim = call[10], first = call[11], n = call[12], width = call[13], block = call[15];
    Tensor tensors[2];
    for (int i = 0; i < count; i++) {
        tensors[i].out = (void *)call[3 + 2 * i], tensors[i].in = (const void *)call[4 + 2 * i];
        memcpy(&tensors[i].batch, call + 16 + 12 * i, 12 * sizeof(int64_t));
    }
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
            else
                rows_half(t, cos, sin, (float)sign, head_dim, first, n, width, interleaved, batch, begin, end);
        }
    }
    return 0;
}
