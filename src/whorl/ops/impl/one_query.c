/* Attention of one query, as in decoding, without dropout. (A tile of attention.c would reckon QUERIES lanes for one.)
 *
 * Keys and values are read where they lie, once for all heads of queries that share them. They are taken in pieces, by as many
 * threads as there are; each has a softmax of its own until all are joined: Flash-Decoding. What a piece is does not depend on
 * the threads, so no result does. The numbers of a piece lie from its last key to its first, as biases do. */

#include <stdlib.h>

#include "call.h"

enum { PIECE = 256, DEPTH = 64, ROWS = 4 };
#if WIDTH == 16
enum { TOGETHER = 4, ACROSS = 4 }; /* heads, and vectors of a value: their product and a few more are the registers that there are */
#else
enum { TOGETHER = 2, ACROSS = 2 };
#endif

/* Some heads that share keys, and a piece of these. */
typedef struct {
    int64_t batch, head, last, count; /* the first head of queries; the last key, and how many keys there are up to it */
} Piece;

/* --- products --------------------------------------------------------------------------------------------------------- */

typedef uint16_t halves __attribute__((vector_size(2 * WIDTH), aligned(2)));

INLINE vec load(const int bf16, const void *x, int64_t at) {
    if (bf16) return (vec)(__builtin_convertvector(AT(const halves, (const uint16_t *)x + at), bits) << 16);
    return AT(const vec, (const float *)x + at);
}

INLINE float load_one(const int bf16, const void *x, int64_t at) {
    return bf16 ? load_bf16(((const uint16_t *)x)[at]) : ((const float *)x)[at];
}

typedef float quad __attribute__((vector_size(16), aligned(4)));

INLINE quad folded(vec x) { /* to four lanes */
    quad parts[WIDTH / 4], sum;
    memcpy(parts, &x, sizeof x);
    sum = parts[0];
    for (int n = 1; n < WIDTH / 4; n++) sum += parts[n];
    return sum;
}

/* The sum of each of ROWS vectors. */
INLINE quad sums_of(const vec *x) {
    const quad a = folded(x[0]), b = folded(x[1]), c = folded(x[2]), d = folded(x[3]);
#if defined __has_builtin
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLED __builtin_shufflevector
#endif
#endif
#ifdef SHUFFLED
    const quad ab = SHUFFLED(a, b, 0, 4, 1, 5) + SHUFFLED(a, b, 2, 6, 3, 7), cd = SHUFFLED(c, d, 0, 4, 1, 5) + SHUFFLED(c, d, 2, 6, 3, 7);
    return SHUFFLED(ab, cd, 0, 1, 4, 5) + SHUFFLED(ab, cd, 2, 3, 6, 7);
#else
    return (quad){(a[0] + a[1]) + (a[2] + a[3]), (b[0] + b[1]) + (b[2] + b[3]), (c[0] + c[1]) + (c[2] + c[3]), (d[0] + d[1]) + (d[2] + d[3])};
#endif
}

/* to[head][r] = q[head] . key r, the last key first; `from` is where that is. The last rows may be asked for twice. */
INLINE void dots(const int heads, const int bf16, float *to, const float *q, const void *k, int64_t from, int64_t token, int64_t count, int64_t dim) {
    const int64_t whole = dim / WIDTH * WIDTH;
    for (int64_t r = 0; r < count; r += ROWS) {
        int64_t at[ROWS];
        vec sum[TOGETHER][ROWS];
#pragma GCC unroll 4
        for (int n = 0; n < ROWS; n++) at[n] = from - least(r + n, count - 1) * token;
#pragma GCC unroll 4
        for (int g = 0; g < heads; g++)
#pragma GCC unroll 4
            for (int n = 0; n < ROWS; n++) sum[g][n] = (vec){0};
        for (int64_t d = 0; d < whole; d += WIDTH) {
            vec x[ROWS];
#pragma GCC unroll 4
            for (int n = 0; n < ROWS; n++) x[n] = load(bf16, k, at[n] + d);
#pragma GCC unroll 4
            for (int g = 0; g < heads; g++) {
                const vec y = AT(const vec, q + g * dim + d);
#pragma GCC unroll 4
                for (int n = 0; n < ROWS; n++) sum[g][n] += y * x[n];
            }
        }
#pragma GCC unroll 4
        for (int g = 0; g < heads; g++) {
            quad sums = sums_of(sum[g]);
            for (int64_t d = whole; d < dim; d++)
                for (int n = 0; n < ROWS; n++) sums[n] += q[g * dim + d] * load_one(bf16, k, at[n] + d);
            AT(quad, to + g * PIECE + r) = sums;
        }
    }
}

/* Adds to to[head] the sum of p[head][r] times `across` vectors of value r. Sums of DEPTH terms start at zero, as in attention.c. */
INLINE void columns(const int heads, const int across, const int bf16, float *to, int64_t dim, const float *p, const void *v, int64_t from,
                    int64_t token, int64_t count) {
    for (int64_t begin = 0; begin < count; begin += DEPTH) {
        vec sum[TOGETHER][ACROSS];
#pragma GCC unroll 4
        for (int g = 0; g < heads; g++)
#pragma GCC unroll 4
            for (int n = 0; n < across; n++) sum[g][n] = (vec){0};
        for (int64_t r = begin; r < least(begin + DEPTH, count); r++) {
            vec x[ACROSS];
#pragma GCC unroll 4
            for (int n = 0; n < across; n++) x[n] = load(bf16, v, from - r * token + n * WIDTH);
#pragma GCC unroll 4
            for (int g = 0; g < heads; g++)
#pragma GCC unroll 4
                for (int n = 0; n < across; n++) sum[g][n] += p[g * PIECE + r] * x[n];
        }
#pragma GCC unroll 4
        for (int g = 0; g < heads; g++)
#pragma GCC unroll 4
            for (int n = 0; n < across; n++) AT(vec, to + g * dim + n * WIDTH) += sum[g][n];
    }
}

INLINE void weighted(const int heads, const int bf16, float *to, const float *p, const void *v, int64_t from, int64_t token, int64_t count, int64_t dim) {
    int64_t d = 0;
    memset(to, 0, heads * dim * sizeof(float));
    for (; d + ACROSS * WIDTH <= dim; d += ACROSS * WIDTH) columns(heads, ACROSS, bf16, to + d, dim, p, v, from + d, token, count);
    for (; d + WIDTH <= dim; d += WIDTH) columns(heads, 1, bf16, to + d, dim, p, v, from + d, token, count);
    for (; d < dim; d++)
        for (int g = 0; g < heads; g++)
            for (int64_t r = 0; r < count; r++) to[g * dim + d] += p[g * PIECE + r] * load_one(bf16, v, from + d - r * token);
}

/* As functions of their own for each number of heads and dtype, in which both are known. */
#define PRODUCTS(HEADS, BF16)                                                                                                         \
    static void dots_##HEADS##_##BF16(float *to, const float *q, const void *k, int64_t from, int64_t token, int64_t count, int64_t dim) { \
        dots(HEADS, BF16, to, q, k, from, token, count, dim);                                                                         \
    }                                                                                                                                 \
    static void weighted_##HEADS##_##BF16(float *to, const float *p, const void *v, int64_t from, int64_t token, int64_t count, int64_t dim) { \
        weighted(HEADS, BF16, to, p, v, from, token, count, dim);                                                                     \
    }
#define BOTH(HEADS) PRODUCTS(HEADS, 0) PRODUCTS(HEADS, 1)
typedef void Product(float *, const float *, const void *, int64_t, int64_t, int64_t, int64_t);
#define ROW(KIND, HEADS) {KIND##_##HEADS##_0, KIND##_##HEADS##_1}
BOTH(1) BOTH(2)
#if WIDTH == 16
BOTH(3) BOTH(4)
static Product *const DOTS[TOGETHER][2] = {ROW(dots, 1), ROW(dots, 2), ROW(dots, 3), ROW(dots, 4)};
static Product *const WEIGHTED[TOGETHER][2] = {ROW(weighted, 1), ROW(weighted, 2), ROW(weighted, 3), ROW(weighted, 4)};
#else
static Product *const DOTS[TOGETHER][2] = {ROW(dots, 1), ROW(dots, 2)};
static Product *const WEIGHTED[TOGETHER][2] = {ROW(weighted, 1), ROW(weighted, 2)};
#endif

/* --- what is added to logits ------------------------------------------------------------------------------------------ */

/* What the channels add. */
static void add_channels(float *to, const Call *c, const Piece *piece, int64_t h) {
    const float *q = (const float *)c->more_q.at + piece->batch * c->more_q.batch + h * c->more_q.head;
    const float *k = (const float *)c->more_k.at + piece->batch * c->more_k.batch + h * c->more_k.head + piece->last * c->more_k.token;
    for (int64_t r = 0; r < piece->count; r++, k -= c->more_k.token) {
        float sum = k[0] * q[0];
        for (int64_t e = 1; e < c->channels; e++) sum += k[e] * q[e];
        to[r] += sum;
    }
}

/* The keys of run r in a piece are from .. to. */
static void stretch(const Runs *runs, const Piece *piece, int64_t r, int64_t *from, int64_t *to) {
    const int32_t *begin = runs->begin + piece->batch * runs->batch;
    const int64_t ahead = r + 1 < runs->count ? piece->last + 1 - begin[r] : 0;
    *from = ahead > 0 ? ahead : 0, *to = least(piece->count, piece->last + 1 - (r ? begin[r - 1] : 0));
}

/* What runs add; row: the head's among those of all the batch. */
static void add_runs(float *to, const Call *c, const Piece *piece, int64_t row) {
    const Runs *runs = &c->runs;
    const float *feature = runs->feature ? runs->feature + c->keys - 1 - piece->last : NULL;
    for (int64_t r = 0, at, end; r < runs->count; r++) {
        const float value = runs->values[row * runs->count + r], slope = feature ? runs->slopes[row * runs->count + r] : 0;
        stretch(runs, piece, r, &at, &end);
        if (feature)
            for (; at < end; at++) to[at] += value + slope * feature[at];
        else
            for (; at < end; at++) to[at] += value;
    }
}

static void add_up_runs(float *mass, const Runs *runs, const Piece *piece, const float *weights) {
    for (int64_t r = 0, at, end; r < runs->count; r++) {
        float sum = 0;
        stretch(runs, piece, r, &at, &end);
#pragma omp simd reduction(+ : sum)
        for (int64_t n = at; n < end; n++) sum += weights[n];
        mass[r] = sum;
    }
}

/* --- pieces, and heads -------------------------------------------------------------------------------------------------- */

/* What a piece makes of a head: the largest logit, the sum of exp(logit - top), that of these times values, and by runs. */
static int64_t size_of_made(const Call *c) { return 2 + c->dim_v + (c->runs.mass ? c->runs.count : 0); }

/* The logits' exp(logit - top), in their place; `made` begins with what becomes of it. */
static void soften(float *s, float *made, const Call *c, const Piece *piece, int64_t h) {
    float more[PIECE];
    const int64_t count = piece->count, row = piece->batch * c->heads + h;
    const int adds = c->channels || c->runs.values;
    if (adds) memset(more, 0, up_to(WIDTH, count) * sizeof(float));
    if (c->channels) add_channels(more, c, piece, h);
    if (c->runs.values) add_runs(more, c, piece, row);
    for (int64_t r = count; r < up_to(WIDTH, count); r++) s[r] = -INFINITY;

    const float *biases = c->bias ? c->bias + h * c->bias_stride + c->keys - 1 - piece->last : NULL, cap = (float)c->softcap;
    vec tops = all(-INFINITY), sum = all(0);
    for (int64_t r = 0; r < count; r += WIDTH) {
        vec x = AT(vec, s + r);
        if (cap) x = either(x == -INFINITY, x, cap * tanh_of(x / cap));
        if (adds) x += AT(const vec, more + r);
        if (biases && r + WIDTH <= count)
            x += AT(const vec, biases + r);
        else if (biases)
            for (int64_t n = 0; n < count - r; n++) x[n] += biases[r + n];
        AT(vec, s + r) = x;
        tops = either(x > tops, x, tops);
    }
    float top = -INFINITY, total = 0;
    for (int64_t n = 0; n < WIDTH; n++) top = tops[n] > top ? tops[n] : top;
    const vec base = all(top == -INFINITY ? 0 : top);
    for (int64_t r = 0; r < count; r += WIDTH) sum += AT(vec, s + r) = exp_not_positive(AT(vec, s + r) - base);
    for (int64_t n = 0; n < WIDTH; n++) total += sum[n];
    made[0] = top, made[1] = total;
}

/* A piece of keys, for all heads of queries that share them. made: of the first of these, and so many floats to the next. */
static void of_piece(const Call *c, Piece *piece, int64_t g, float *made, int64_t next) {
    const int64_t together = c->heads / c->key_heads, bf16 = c->bf16 != 0;
    const int64_t from_k = piece->batch * c->k.batch + g * c->k.head + piece->last * c->k.token;
    const int64_t from_v = piece->batch * c->v.batch + g * c->v.head + piece->last * c->v.token;
    float s[TOGETHER * PIECE], q[TOGETHER * c->dim], sums[TOGETHER * c->dim_v];
    for (int64_t first = 0, heads; first < together; first += heads) {
        heads = least(TOGETHER, together - first);
        piece->head = g * together + first;
        for (int64_t n = 0; n < heads; n++) {
            const int64_t from = piece->batch * c->q.batch + (piece->head + n) * c->q.head;
            const float scale = scale_of(c, piece->batch, piece->head + n, 0);
            for (int64_t d = 0; d < c->dim; d++) q[n * c->dim + d] = load_one(bf16, c->q.at, from + d) * scale;
        }
        DOTS[heads - 1][bf16](s, q, c->k.at, from_k, c->k.token, piece->count, c->dim);
        for (int64_t n = 0; n < heads; n++) soften(s + n * PIECE, made + (first + n) * next, c, piece, piece->head + n);
        WEIGHTED[heads - 1][bf16](sums, s, c->v.at, from_v, c->v.token, piece->count, c->dim_v);
        for (int64_t n = 0; n < heads; n++) {
            float *one = made + (first + n) * next;
            memcpy(one + 2, sums + n * c->dim_v, c->dim_v * sizeof(float));
            if (c->runs.mass) add_up_runs(one + 2 + c->dim_v, &c->runs, piece, s + n * PIECE);
        }
    }
}

/* A head's output, from what its pieces made. */
static void join(const Call *c, const float *made, int64_t pieces, int64_t b, int64_t h) {
    const int64_t row = b * c->heads + h, size = size_of_made(c), runs = c->runs.mass ? c->runs.count : 0;
    float *out = (float *)c->out.at + b * c->out.batch + h * c->out.head, *mass = runs ? c->runs.mass + row * runs : NULL;
    float top = c->sinks ? c->sinks[h] : -INFINITY, total = 0;
    for (int64_t n = 0; n < pieces; n++) top = made[n * size] > top ? made[n * size] : top;
    const float base = top == -INFINITY ? 0 : top;
    if (c->sinks) total += exp_not_positive(all(c->sinks[h] - base))[0];
    for (int64_t n = 0; n < pieces; n++) total += made[n * size + 1] * exp_not_positive(all(made[n * size] - base))[0];
    const float normal = total == 0 ? 0 : 1 / total;
    memset(out, 0, c->dim_v * sizeof(float));
    if (runs) memset(mass, 0, runs * sizeof(float));
    for (int64_t n = 0; n < pieces; n++, made += size) {
        const float share = exp_not_positive(all(made[0] - base))[0] * normal;
        for (int64_t d = 0; d < c->dim_v; d++) out[d] += made[2 + d] * share;
        for (int64_t r = 0; r < runs; r++) mass[r] += made[2 + c->dim_v + r] * share;
    }
    c->top[row] = top, c->normal[row] = normal;
}

static int64_t keys_of(const Call *c, int64_t b) {
    const int64_t count = c->end[b * c->ranges_stride] - c->first[b * c->ranges_stride];
    return count > 0 ? count : 0;
}

int whorl_attention_of_one(const Call *c) {
    const int64_t most = (c->keys - 1) / PIECE + 1, size = size_of_made(c), units = c->batches * c->key_heads * most;
    float *made = malloc(c->batches * c->heads * most * size * sizeof(float)); /* [batch, heads, pieces, size] */
    if (made == NULL) return 1;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
#pragma omp for schedule(dynamic) /* the last pieces hold few keys */
        for (int64_t unit = 0; unit < units; unit++) {
            const int64_t b = unit / most / c->key_heads, g = unit / most % c->key_heads, n = unit % most, count = keys_of(c, b);
            Piece piece = {b, 0, c->end[b * c->ranges_stride] - 1 - n * PIECE, least(PIECE, count - n * PIECE)};
            const int64_t row = b * c->heads + g * (c->heads / c->key_heads);
            if (piece.count > 0) of_piece(c, &piece, g, made + (row * most + n) * size, most * size);
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < c->batches * c->heads; row++) {
            const int64_t b = row / c->heads, pieces = (keys_of(c, b) + PIECE - 1) / PIECE;
            join(c, made + row * most * size, pieces, b, row % c->heads);
        }
    }
    free(made);
    return 0;
}
