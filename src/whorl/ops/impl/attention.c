/* Softmax attention whose bias depends on the distance between query and key, in tiles that stay in the second-level cache:
 * Dao et al., FlashAttention-2, arXiv 2307.08691. Built by building.py; no link to torch or Python.
 *
 *   logit(i, j) = scale factor_i q_i . k_j + bias[head][i - j],   for the keys first(i) <= j < end(i) that query i sees,
 *
 * where the product may be capped first, softcap tanh(product / softcap), and the product of a few more channels of each
 * token, which are float, may be added: summed up before it is, since what is left of two large terms must not be rounded
 * with them. So may what is constant or linear on runs of keys (runs.h).
 *
 * A tile of logits lies transposed, a row of QUERIES lanes for each key. So a softmax is done lane by lane with nothing to be
 * summed across, the biases of a row are neighbours, and none of the seven products needs keys or values transposed.
 *
 * Everything is float inside; q, k, v and the gradient that arrives may be bfloat16. */

#include <stdlib.h>

#include "runs.h"

enum { DEPTH = KEYS / 2, TILES = 4 }; /* TILES of queries pass over a tile of keys that was read once */

/* --- products ---------------------------------------------------------------------------------------------------------
 *
 * c[row][column] (+)= sum over k of a[row][k] b[k][column], with a's two strides free: a tile and its transpose are one. */

INLINE void block(const int across, int64_t depth, const float *a, int64_t a_row, int64_t a_step, const float *b,
                  int64_t b_step, float *c, int64_t c_row, int add) {
    vec sum[HEIGHT][2];
#pragma GCC unroll 8
    for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 2
        for (int n = 0; n < across; n++) sum[r][n] = (vec){0};
    for (int64_t k = 0; k < depth; k++) {
        vec y[2];
#pragma GCC unroll 2
        for (int n = 0; n < across; n++) y[n] = *(const vec *)(b + k * b_step + n * WIDTH);
#pragma GCC unroll 8
        for (int r = 0; r < HEIGHT; r++) {
            const float x = a[r * a_row + k * a_step];
#pragma GCC unroll 2
            for (int n = 0; n < across; n++) sum[r][n] += x * y[n];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < HEIGHT; r++)
#pragma GCC unroll 2
        for (int n = 0; n < across; n++) {
            vec *to = (vec *)(c + r * c_row + n * WIDTH);
            *to = add ? *to + sum[r][n] : sum[r][n];
        }
}

/* rows: rounded up to HEIGHT here, so that every buffer has that many. columns: a multiple of WIDTH. Sums of DEPTH terms start
 * at zero and are added up: a sum of all terms, one by one, would be off by the square root of how many there are. */
INLINE void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row, int64_t a_step,
                    const float *b, int64_t b_step, float *c, int64_t c_row, int add) {
    for (int64_t k = 0; k < depth; k += DEPTH, a += DEPTH * a_step, b += DEPTH * b_step, add = 1) {
        const int64_t terms = depth - k < DEPTH ? depth - k : DEPTH;
        int64_t n = 0;
        for (; n + 2 * WIDTH <= columns; n += 2 * WIDTH)
            for (int64_t r = 0; r < rows; r += HEIGHT)
                block(2, terms, a + r * a_row, a_row, a_step, b + n, b_step, c + r * c_row + n, c_row, add);
        if (n < columns)
            for (int64_t r = 0; r < rows; r += HEIGHT)
                block(1, terms, a + r * a_row, a_row, a_step, b + n, b_step, c + r * c_row + n, c_row, add);
    }
}

/* As functions of their own, so that they are compiled once each. */
#define PRODUCT(NAME, A_ROW, A_STEP, ADD)                                                                              \
    static __attribute__((noinline)) void NAME(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_stride, \
                                               const float *b, int64_t b_step, float *c, int64_t c_row) {              \
        product(rows, columns, depth, a, A_ROW, A_STEP, b, b_step, c, c_row, ADD);                                     \
    }
PRODUCT(rows_times, a_stride, 1, 0)     /* c  = a b */
PRODUCT(add_rows_times, a_stride, 1, 1) /* c += a b */
PRODUCT(add_columns_times, 1, a_stride, 1) /* c += a^T b */

/* --- reading and writing ---------------------------------------------------------------------------------------------- */

/* Rows first .. first + count - 1 of a head as to[row][channel]; what is beyond them or the channels is zero. */
static void read_rows(float *to, int64_t width, int64_t rows, const Tensor *x, int64_t bf16, int64_t b, int64_t h,
                      int64_t first, int64_t count, int64_t dim) {
    for (int64_t r = 0; r < rows; r++) {
        float *row = to + r * width;
        const int64_t at = b * x->batch + h * x->head + (first + r) * x->token, n = r < count ? dim : 0;
        if (bf16)
            for (int64_t d = 0; d < n; d++) row[d] = load_bf16(((const uint16_t *)x->at)[at + d]);
        else
            for (int64_t d = 0; d < n; d++) row[d] = ((const float *)x->at)[at + d];
        for (int64_t d = n; d < width; d++) row[d] = 0;
    }
}

/* The same of queries, each times what it is multiplied by. */
static void read_queries(float *to, int64_t width, const Call *c, int64_t b, int64_t h, int64_t first, int64_t count) {
    read_rows(to, width, QUERIES, &c->q, c->bf16, b, h, first, count, c->dim);
    for (int64_t r = 0; r < count; r++) {
        const float scale = scale_of(c, b, h, first + r);
        for (int64_t d = 0; d < width; d++) to[r * width + d] *= scale;
    }
}

static void transpose(float *to, const float *from, int64_t width) { /* to[channel][QUERIES] */
    for (int64_t d = 0; d < width; d += 4)
        for (int64_t i = 0; i < QUERIES; i += 8)
            for (int64_t e = 0; e < 4; e++)
                for (int64_t j = 0; j < 8; j++) to[(d + e) * QUERIES + i + j] = from[(i + j) * width + d + e];
}

/* --- weights ---------------------------------------------------------------------------------------------------------- */

/* 32 bits at random for a weight, the same whenever they are asked for (Wellons' lowbias32; the row's from splitmix64). */
INLINE bits random_bits(bits row, uint32_t key) {
    bits x = row ^ key * 0x9e3779b9u;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static uint32_t row_seed(uint64_t seed, uint64_t row) {
    uint64_t x = seed + (row + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (uint32_t)((x ^ x >> 31) >> 16);
}

/* What is known of a tile of queries while keys pass by. Lanes past the last query see nothing. */
typedef struct {
    float top[QUERIES], total[QUERIES], normal[QUERIES], delta[QUERIES];
    int32_t first[QUERIES], end[QUERIES];
    uint32_t seed[QUERIES];
    int64_t lanes; /* of which any is a query's: the rest is neither read nor reckoned */
    int64_t sees_first, sees_end, all_first, all_end; /* any lane sees, and all lanes see, the keys from .. to */
    float *q, *q_t, *grad, *grad_t, *sums; /* [QUERIES][width] or, transposed, [width][QUERIES] */
    float *more_t, *to_more_t;             /* [channels][QUERIES] */
    float fade[QUERIES];                   /* what sums of earlier keys were multiplied by at the last keys */
    TileRuns runs;
} Tile;

static void open_tile(Tile *t, const Call *c, int64_t b, int64_t h, int64_t q0) {
    t->lanes = up_to(LANES, least(QUERIES, c->queries - q0));
    t->sees_first = t->all_end = INT32_MAX, t->sees_end = t->all_first = 0;
    for (int64_t i = 0; i < QUERIES; i++) {
        const int64_t at = b * c->ranges_stride + q0 + i, there = q0 + i < c->queries;
        t->first[i] = there ? c->first[at] : 0, t->end[i] = there ? c->end[at] : 0;
        t->top[i] = -INFINITY, t->total[i] = 0;
        t->seed[i] = c->dropout ? row_seed(c->seed, (b * c->heads + h) * c->queries + q0 + i) : 0;
        if (t->first[i] < t->sees_first && t->first[i] < t->end[i]) t->sees_first = t->first[i];
        if (t->end[i] > t->sees_end) t->sees_end = t->end[i];
        if (t->first[i] > t->all_first) t->all_first = t->first[i];
        if (t->end[i] < t->all_end) t->all_end = t->end[i];
        for (int64_t e = 0; e < c->channels; e++) {
            const float *from = (const float *)c->more_q.at + b * c->more_q.batch + h * c->more_q.head;
            t->more_t[e * QUERIES + i] = there ? from[(q0 + i) * c->more_q.token + e] : 0;
        }
    }
    if (c->runs.count) open_runs(&t->runs, &c->runs, b, b * c->heads + h, q0, c->queries);
}

/* Numbers by distance (biases, a feature), those of a tile: its row j's are QUERIES neighbours from KEYS - 1 - j on. */
static void read_distances(float *to, const Call *c, const float *vector, int64_t q0, int64_t k0) {
    const int64_t span = c->queries + c->keys - 1, lowest = q0 - k0 - (KEYS - 1) + c->keys - 1;
    for (int64_t at = 0; at < QUERIES + KEYS - 1; at++) {
        const int64_t from = lowest + at;
        to[at] = from < 0 || from >= span ? 0 : vector[from];
    }
}

static void add_distances(float *to_vector, const Call *c, const float *add, int64_t q0, int64_t k0) {
    const int64_t span = c->queries + c->keys - 1, lowest = q0 - k0 - (KEYS - 1) + c->keys - 1;
    for (int64_t at = 0; at < QUERIES + KEYS - 1; at++)
        if (lowest + at >= 0 && lowest + at < span) to_vector[lowest + at] += add[at];
}

/* What a weight is multiplied by: 0 where it is dropped, else 1 / the share that is kept. */
INLINE vec keep(const Call *c, const Tile *t, int64_t lane, int64_t key) {
    const bits random = random_bits(AT(const bits, t->seed + lane), (uint32_t)key);
    return either((ints)(random >= (uint32_t)c->dropout), all((float)c->kept), all(0));
}

/* What the channels add to the logits of a key and some lanes. */
INLINE vec added(const int64_t channels, const Tile *t, const float *more_k, int64_t lane, int64_t j) {
    vec sum = more_k[j * channels] * AT(const vec, t->more_t + lane);
    for (int64_t e = 1; e < channels; e++) sum += more_k[j * channels + e] * AT(const vec, t->more_t + e * QUERIES + lane);
    return sum;
}

INLINE ints sees_key(const Tile *t, int64_t lane, int64_t key) {
    return (AT(const ints, t->first + lane) <= (int32_t)key) & (AT(const ints, t->end + lane) > (int32_t)key);
}

/* Logits to weights exp(logit - top), which are not yet divided by their sum; the sums of earlier keys are scaled to match. */
static void soften(float *s, Tile *t, const Call *c, const float *biases, const float *by_run, const float *more_k, int64_t k0,
                   int64_t keys, int64_t width_v) {
    const int masked = t->all_first > k0 || t->all_end < k0 + keys;
    const float cap = (float)c->softcap;
    for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
        const vec before = AT(vec, t->top + lane);
        vec top = before, sum = all(0);
        for (int64_t j = 0; j < keys; j++) {
            vec x = AT(vec, s + j * QUERIES + lane);
            if (cap) x = cap * tanh_of(x / cap);
            if (c->channels) x += added(c->channels, t, more_k, lane, j);
            if (biases) x += AT(const vec, biases + KEYS - 1 - j + lane);
            if (by_run) x += AT(const vec, by_run + j * QUERIES + lane);
            if (masked) x = either(sees_key(t, lane, k0 + j), x, all(-INFINITY));
            AT(vec, s + j * QUERIES + lane) = x;
            top = either(x > top, x, top);
        }
        const vec base = either(top == -INFINITY, all(0), top);
        for (int64_t j = 0; j < keys; j++) {
            const vec p = exp_not_positive(AT(vec, s + j * QUERIES + lane) - base);
            sum += p;
            AT(vec, s + j * QUERIES + lane) = c->dropout ? p * keep(c, t, lane, k0 + j) : p;
        }
        const vec faded = exp_not_positive(before - base);
        AT(vec, t->fade + lane) = faded;
        AT(vec, t->total + lane) = AT(vec, t->total + lane) * faded + sum;
        AT(vec, t->top + lane) = top;
    }
    for (int64_t i = 0; i < t->lanes; i++)
        if (t->fade[i] != 1)
            for (int64_t d = 0; d < width_v; d += WIDTH) AT(vec, t->sums + i * width_v + d) *= t->fade[i];
}

/* Logits to weights p, and the weights' gradient to the logits', p (dp - delta), which is added to the biases' too, takes
 * the place of what was added by run, and is added with the others' channels to those of queries, and to those of keys,
 * [KEYS][channels][WIDTH], which are to be summed across. */
INLINE void soften_again(const int64_t channels, float *s, float *dp, const Tile *t, const Call *c, const float *biases, float *to_biases,
                         float *by_run, const float *more_k, float *to_more_k, int64_t k0, int64_t keys) {
    const int masked = t->all_first > k0 || t->all_end < k0 + keys;
    const float cap = (float)c->softcap;
    for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
        const vec normal = AT(const vec, t->normal + lane), delta = AT(const vec, t->delta + lane);
        const vec top = AT(const vec, t->top + lane), base = either(top == -INFINITY, all(0), top);
        for (int64_t j = 0; j < keys; j++) {
            vec x = AT(vec, s + j * QUERIES + lane), d = AT(vec, dp + j * QUERIES + lane), tanh = all(0), p;
            if (cap) tanh = tanh_of(x / cap), x = cap * tanh;
            if (channels) x += added(channels, t, more_k, lane, j);
            if (biases) x += AT(const vec, biases + KEYS - 1 - j + lane);
            if (by_run) x += AT(const vec, by_run + j * QUERIES + lane);
            if (masked) x = either(sees_key(t, lane, k0 + j), x, all(-INFINITY));
            p = exp_not_positive(x - base) * normal;
            if (c->dropout) {
                const vec kept = keep(c, t, lane, k0 + j);
                d = p * (d * kept - delta), p *= kept;
            } else {
                d = p * (d - delta);
            }
            if (to_biases) AT(vec, to_biases + KEYS - 1 - j + lane) += d;
            if (by_run) AT(vec, by_run + j * QUERIES + lane) = d;
            for (int64_t e = 0; e < channels; e++) {
                AT(vec, t->to_more_t + e * QUERIES + lane) += d * more_k[j * channels + e];
                AT(vec, to_more_k + (j * channels + e) * WIDTH) += d * AT(const vec, t->more_t + e * QUERIES + lane);
            }
            AT(vec, s + j * QUERIES + lane) = p;
            AT(vec, dp + j * QUERIES + lane) = cap ? d * (1 - tanh * tanh) : d;
        }
    }
}

/* No channels, and two of them (a forget gate's), are compiled for themselves. */
static void soften_backward(float *s, float *dp, const Tile *t, const Call *c, const float *biases, float *to_biases,
                            float *by_run, const float *more_k, float *to_more_k, int64_t k0, int64_t keys) {
    if (c->channels == 0)
        soften_again(0, s, dp, t, c, biases, to_biases, by_run, more_k, to_more_k, k0, keys);
    else if (c->channels == 2)
        soften_again(2, s, dp, t, c, biases, to_biases, by_run, more_k, to_more_k, k0, keys);
    else
        soften_again(c->channels, s, dp, t, c, biases, to_biases, by_run, more_k, to_more_k, k0, keys);
}

/* --- the two passes ---------------------------------------------------------------------------------------------------- */

/* What a thread works in. Tiles of keys have KEYS rows, of queries QUERIES; channels are padded to whole vectors. */
typedef struct {
    float *k, *v, *s, *dp, *q, *to_k, *to_v; /* dp, to_k and to_v in the backward pass, q in the forward one */
    float *more_k, *to_more_k;               /* [KEYS][channels]; to_more_k as soften_backward has it */
    float *by_run;                           /* [KEYS][QUERIES]: what runs add to logits, then its gradient */
    Tile tiles[TILES];
    float biases[QUERIES + KEYS], to_biases[QUERIES + KEYS], feature[QUERIES + KEYS], to_feature[QUERIES + KEYS];
    float *all;
} Space;

static float *take(float **from, int64_t count) {
    float *part = *from;
    *from += up_to(16, count);
    return part;
}

/* Returns 0, or 1 where there is no memory. */
static int open_space(Space *w, const Call *c, int backward) {
    const int64_t width = up_to(WIDTH, c->dim), width_v = up_to(WIDTH, c->dim_v), keys = c->keys, more = c->channels;
    const int64_t q = QUERIES * width, v = QUERIES * width_v, most = q > v ? q : v, s = KEYS * QUERIES;
    int64_t count = KEYS * (width + width_v + more) + 2 * s + q + TILES * (q + most + QUERIES * more);
    if (backward) count += TILES * (q + 2 * v + QUERIES * more) + (keys + KEYS) * (width + width_v) + KEYS * more * WIDTH;
    if (c->runs.count) count += s + TILES * room_of_runs(&c->runs);
    w->all = NULL;
    if (posix_memalign((void **)&w->all, 64, (count + 1024) * sizeof(float))) return 1;
    float *at = w->all;
    w->k = take(&at, KEYS * width), w->v = take(&at, KEYS * width_v), w->s = take(&at, s), w->dp = take(&at, s);
    w->q = take(&at, q), w->more_k = take(&at, KEYS * more);
    for (Tile *t = w->tiles; t < w->tiles + TILES; t++) {
        t->q_t = take(&at, q), t->sums = take(&at, most), t->more_t = take(&at, QUERIES * more);
        if (backward) t->q = take(&at, q), t->grad = take(&at, v), t->grad_t = take(&at, v), t->to_more_t = take(&at, QUERIES * more);
    }
    if (c->runs.count) w->by_run = take(&at, s);
    for (Tile *t = w->tiles; t < w->tiles + TILES && c->runs.count; t++)
        room_for_runs(&t->runs, take(&at, room_of_runs(&c->runs)), &c->runs);
    if (backward) w->to_more_k = take(&at, KEYS * more * WIDTH);
    if (backward) w->to_k = take(&at, (keys + KEYS) * width), w->to_v = take(&at, (keys + KEYS) * width_v);
    return 0;
}

/* The tiles of keys that any of some tiles of queries sees: from .. to; the first is a multiple of KEYS, the same for all. */
static void seen(const Tile *tiles, int64_t count, int64_t *from, int64_t *to) {
    *from = INT32_MAX, *to = 0;
    for (int64_t n = 0; n < count; n++) {
        if (tiles[n].sees_first < *from) *from = tiles[n].sees_first;
        if (tiles[n].sees_end > *to) *to = tiles[n].sees_end;
    }
    *from = *from / KEYS * KEYS;
}

INLINE int sees(const Tile *t, int64_t k0, int64_t k1) { return t->sees_first < k1 && t->sees_end > k0; }

static void read_keys(Space *w, const Call *c, int64_t b, int64_t h, int64_t k0, int64_t n) {
    const int64_t g = h / (c->heads / c->key_heads);
    read_rows(w->k, up_to(WIDTH, c->dim), up_to(HEIGHT, n), &c->k, c->bf16, b, g, k0, n, c->dim);
    read_rows(w->v, up_to(WIDTH, c->dim_v), up_to(HEIGHT, n), &c->v, c->bf16, b, g, k0, n, c->dim_v);
    read_rows(w->more_k, c->channels, c->channels ? n : 0, &c->more_k, 0, b, h, k0, n, c->channels);
}

/* What runs add to the logits of a tile. */
static void read_by_runs(Space *w, const Call *c, const Tile *t, int64_t q0, int64_t k0, int64_t keys) {
    if (c->runs.feature) {
        read_distances(w->feature, c, c->runs.feature, q0, k0);
        put_lines(w->by_run, &t->runs, w->feature, k0, keys);
    } else {
        put_values(w->by_run, &t->runs, k0, keys);
    }
}

/* The output of `together` tiles of queries from `begin` on, of one head. */
static void forward(const Call *c, Space *w, int64_t b, int64_t h, int64_t begin, int64_t together) {
    const int64_t width = up_to(WIDTH, c->dim), width_v = up_to(WIDTH, c->dim_v);
    int64_t count = 0, from, to;
    for (int64_t q0 = begin; count < together && q0 < c->queries; count++, q0 += QUERIES) {
        Tile *t = w->tiles + count;
        open_tile(t, c, b, h, q0);
        read_queries(w->q, width, c, b, h, q0, least(QUERIES, c->queries - q0));
        transpose(t->q_t, w->q, width);
        memset(t->sums, 0, QUERIES * width_v * sizeof(float));
    }
    seen(w->tiles, count, &from, &to);
    for (int64_t k0 = from; k0 < to; k0 += KEYS) {
        const int64_t n = least(KEYS, to - k0);
        read_keys(w, c, b, h, k0, n);
        for (int64_t at = 0; at < count; at++) {
            Tile *t = w->tiles + at;
            if (!sees(t, k0, k0 + n)) continue;
            rows_times(n, t->lanes, c->dim, w->k, width, t->q_t, QUERIES, w->s, QUERIES);
            if (c->bias) read_distances(w->biases, c, c->bias + h * c->bias_stride, begin + at * QUERIES, k0);
            if (c->runs.values) read_by_runs(w, c, t, begin + at * QUERIES, k0, n);
            soften(w->s, t, c, c->bias ? w->biases : NULL, c->runs.values ? w->by_run : NULL, w->more_k, k0, n, width_v);
            if (c->runs.mass) fade_mass(&t->runs, t->fade), sum_by_run(t->runs.mass, w->s, &t->runs, k0, n);
            add_columns_times(t->lanes, width_v, n, w->s, QUERIES, w->v, width_v, t->sums, width_v);
        }
    }
    for (int64_t row = begin; row < begin + count * QUERIES && row < c->queries; row++) {
        Tile *t = w->tiles + (row - begin) / QUERIES;
        const int64_t i = (row - begin) % QUERIES, where = (b * c->heads + h) * c->queries + row;
        float top = t->top[i], total = t->total[i], fade = 1;
        if (c->sinks) { /* one more logit, whose value is zero */
            top = c->sinks[h] > top ? c->sinks[h] : top;
            fade = exp_not_positive(all(t->top[i] - top))[0];
            total = total * fade + exp_not_positive(all(c->sinks[h] - top))[0];
        }
        const float normal = total == 0 ? 0 : 1 / total;
        float *out = (float *)c->out.at + b * c->out.batch + h * c->out.head + row * c->out.token;
        for (int64_t d = 0; d < c->dim_v; d++) out[d] = t->sums[i * width_v + d] * (fade * normal);
        t->fade[i] = fade * normal;
        c->top[where] = top, c->normal[where] = normal;
    }
    for (int64_t at = 0; at < count && c->runs.mass; at++)
        close_runs(&w->tiles[at].runs, &c->runs, b, b * c->heads + h, begin + at * QUERIES, c->queries, w->tiles[at].fade);
}

/* Returns 0, or 1 where there was no memory. */
int whorl_attention(const int64_t *call) {
    const Call *c = (const Call *)call;
    if (c->queries == 1 && !c->dropout && !c->runs.rows) return whorl_attention_of_one(c);
    const int64_t rows = c->batches * c->heads;
    int64_t together = TILES; /* in a unit of work: fewer where there would be too few units */
    while (together > 1 && rows * ((c->queries - 1) / (QUERIES * together) + 1) < 4 * c->threads) together /= 2;
    const int64_t groups = (c->queries - 1) / (QUERIES * together) + 1;
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        Space w;
        const int without = open_space(&w, c, 0);
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < rows * groups; unit++) /* the last queries first: they may see the most keys */
            if (without)
                failed = 1;
            else
                forward(c, &w, unit % rows / c->heads, unit % c->heads, (groups - 1 - unit / rows) * together * QUERIES, together);
        free(w.all);
    }
    return failed;
}

/* A tile of queries for the backward pass: as for the forward one, and what came of it. */
static void open_tile_again(Tile *t, const Call *c, int64_t b, int64_t h, int64_t q0) {
    const int64_t width = up_to(WIDTH, c->dim), width_v = up_to(WIDTH, c->dim_v), n = least(QUERIES, c->queries - q0);
    open_tile(t, c, b, h, q0);
    read_queries(t->q, width, c, b, h, q0, n);
    read_rows(t->grad, width_v, QUERIES, &c->grad, c->bf16, b, h, q0, n, c->dim_v);
    transpose(t->q_t, t->q, width), transpose(t->grad_t, t->grad, width_v);
    memset(t->sums, 0, QUERIES * width * sizeof(float));
    memset(t->to_more_t, 0, QUERIES * c->channels * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        const int64_t where = (b * c->heads + h) * c->queries + q0 + i;
        const float *out = (const float *)c->out.at + b * c->out.batch + h * c->out.head + (q0 + i) * c->out.token;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < c->dim_v; d++) sum += out[d] * t->grad[i * width_v + d];
        for (int64_t r = 0; r < c->runs.kinds && c->runs.mass; r++) {
            const int64_t at = ((b * c->heads + h) * c->runs.kinds + r) * c->queries + q0 + i;
            sum += c->runs.mass[at] * c->runs.to_mass[at];
        }
        c->delta[where] = t->delta[i] = sum;
        t->top[i] = c->top[where], t->normal[i] = c->normal[where];
    }
    for (int64_t i = n; i < QUERIES; i++) t->delta[i] = t->normal[i] = t->top[i] = 0;
}

/* All the gradients of TILES tiles of queries from `begin` on, of one head; those to keys and values are added up in w. */
static void backward(const Call *c, Space *w, int64_t b, int64_t h, int64_t begin, float *to_bias, float *to_more_k,
                     float *to_feature) {
    const int64_t width = up_to(WIDTH, c->dim), width_v = up_to(WIDTH, c->dim_v);
    int64_t count = 0, from, to;
    for (int64_t q0 = begin; count < TILES && q0 < c->queries; count++, q0 += QUERIES)
        open_tile_again(w->tiles + count, c, b, h, q0);
    seen(w->tiles, count, &from, &to);
    for (int64_t k0 = from; k0 < to; k0 += KEYS) {
        const int64_t n = least(KEYS, to - k0);
        read_keys(w, c, b, h, k0, n);
        for (int64_t at = 0; at < count; at++) {
            Tile *t = w->tiles + at;
            if (!sees(t, k0, k0 + n)) continue;
            rows_times(n, t->lanes, c->dim, w->k, width, t->q_t, QUERIES, w->s, QUERIES);
            rows_times(n, t->lanes, c->dim_v, w->v, width_v, t->grad_t, QUERIES, w->dp, QUERIES);
            if (c->bias) read_distances(w->biases, c, c->bias + h * c->bias_stride, begin + at * QUERIES, k0);
            if (c->runs.values) read_by_runs(w, c, t, begin + at * QUERIES, k0, n);
            if (c->runs.mass) add_masses_gradient(w->dp, &t->runs, k0, n);
            if (to_bias) memset(w->to_biases, 0, sizeof w->to_biases);
            memset(w->to_more_k, 0, KEYS * c->channels * WIDTH * sizeof(float));
            soften_backward(w->s, w->dp, t, c, c->bias ? w->biases : NULL, to_bias ? w->to_biases : NULL,
                            c->runs.values ? w->by_run : NULL, w->more_k, w->to_more_k, k0, n);
            if (c->runs.feature) {
                memset(w->to_feature, 0, sizeof w->to_feature);
                sum_lines(to_feature ? w->to_feature : NULL, w->by_run, &t->runs, w->feature, k0, n);
                if (to_feature) add_distances(to_feature, c, w->to_feature, begin + at * QUERIES, k0);
            } else if (c->runs.values) {
                sum_by_run(t->runs.to_values, w->by_run, &t->runs, k0, n);
            }
            for (int64_t at = 0; at < n * c->channels; at++)
                for (int64_t l = 0; l < WIDTH; l++) to_more_k[k0 * c->channels + at] += w->to_more_k[at * WIDTH + l];
            /* products take whole blocks of rows: those past n are of zeros, as the keys and values there */
            add_rows_times(n, width_v, t->lanes, w->s, QUERIES, t->grad, width_v, w->to_v + k0 * width_v, width_v);
            add_rows_times(n, width, t->lanes, w->dp, QUERIES, t->q, width, w->to_k + k0 * width, width);
            add_columns_times(t->lanes, width, n, w->dp, QUERIES, w->k, width, t->sums, width);
            if (to_bias) add_distances(to_bias, c, w->to_biases, begin + at * QUERIES, k0);
        }
    }
    for (int64_t row = begin; row < begin + count * QUERIES && row < c->queries; row++) {
        const float *sums = w->tiles[(row - begin) / QUERIES].sums + (row - begin) % QUERIES * width;
        float *out = (float *)c->to_q.at + b * c->to_q.batch + h * c->to_q.head + row * c->to_q.token;
        const float scale = scale_of(c, b, h, row);
        for (int64_t d = 0; d < c->dim; d++) out[d] = sums[d] * scale;
        if (c->to_factor) {
            float sum = 0;
            read_rows(w->q, width, 1, &c->q, c->bf16, b, h, row, 1, c->dim);
#pragma omp simd reduction(+ : sum)
            for (int64_t d = 0; d < c->dim; d++) sum += w->q[d] * sums[d];
            c->to_factor[(b * c->heads + h) * c->queries + row] = sum * (float)c->scale;
        }
        const float *to_more = w->tiles[(row - begin) / QUERIES].to_more_t + (row - begin) % QUERIES;
        float *more = c->to_more_q + ((b * c->heads + h) * c->queries + row) * c->channels;
        for (int64_t e = 0; e < c->channels; e++) more[e] = to_more[e * QUERIES];
    }
    for (int64_t at = 0; at < count && c->runs.values; at++)
        close_runs(&w->tiles[at].runs, &c->runs, b, b * c->heads + h, begin + at * QUERIES, c->queries, NULL);
}

/* A unit of work is a head of keys with its heads of queries; with several chunks, every so many tiles of their queries. */
int whorl_attention_backward(const int64_t *call) {
    const Call *c = (const Call *)call;
    const int64_t width = up_to(WIDTH, c->dim), width_v = up_to(WIDTH, c->dim_v), repeats = c->heads / c->key_heads;
    const int64_t rows = c->batches * c->key_heads, span = c->queries + c->keys - 1, step = QUERIES * TILES;
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        Space w;
        const int without = open_space(&w, c, 1);
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < rows * c->chunks; unit++) {
            if (without) {
                failed = 1;
                continue;
            }
            const int64_t b = unit % rows / c->key_heads, g = unit % c->key_heads, chunk = unit / rows;
            const int64_t head = (chunk * c->batches + b) * c->key_heads + g; /* of key heads, chunk after chunk */
            memset(w.to_k, 0, (c->keys + KEYS) * width * sizeof(float));
            memset(w.to_v, 0, (c->keys + KEYS) * width_v * sizeof(float));
            for (int64_t n = 0; n < repeats; n++)
                for (int64_t begin = chunk * step; begin < c->queries; begin += c->chunks * step)
                    backward(c, &w, b, g * repeats + n, begin, c->to_bias ? c->to_bias + (head * repeats + n) * span : NULL,
                             c->to_more_k + (head * repeats + n) * c->keys * c->channels,
                             c->runs.to_feature ? c->runs.to_feature + (head * repeats + n) * span : NULL);
            for (int64_t j = 0; j < c->keys; j++) {
                memcpy(c->to_k + (head * c->keys + j) * c->dim, w.to_k + j * width, c->dim * sizeof(float));
                memcpy(c->to_v + (head * c->keys + j) * c->dim_v, w.to_v + j * width_v, c->dim_v * sizeof(float));
            }
        }
        free(w.all);
    }
    return failed;
}
