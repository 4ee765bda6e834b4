/* What attention.c and one_query.c share: what a call of theirs is told, and functions of the numbers in vectors. */

#ifndef WHORL_CALL
#define WHORL_CALL

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tiles.h"

typedef struct { /* what is constant, or a line, on runs of keys: see runs.h */
    int64_t count, batch; /* runs of a query, or 0 where nothing goes by runs; a stride of `begin`: 0 where rows of the batch share it */
    const int32_t *begin;                          /* [batch or 1, count - 1, queries] */
    int64_t kinds, rows_batch;                     /* how many values a query has: count, but where runs share them */
    const int32_t *rows;                           /* [batch or 1, count, queries]: which of them each run has; or none */
    const float *values, *slopes, *feature;        /* [batch, heads, kinds, queries]; feature as a bias lies; or none */
    float *mass;                                   /* [batch, heads, kinds, queries], or none */
    const float *to_mass;                          /* the backward pass alone, as the three after it */
    float *to_values, *to_slopes, *to_feature;     /* to_feature: [chunks, batch, heads, queries + keys - 1], zeros, or none */
} Runs;

typedef struct {
    const void *at; /* this and all that follows is 8 bytes each */
    int64_t batch, head, token; /* strides, in elements; channels are adjacent */
} Tensor;

typedef struct {
    int64_t bf16, threads, batches, heads, key_heads, queries, keys, dim, dim_v, bias_stride, ranges_stride, chunks, channels;
    int64_t dropout, seed; /* weights whose random 32 bits are below `dropout` are dropped */
    double scale, kept, softcap; /* kept: 1 / (1 - the dropout's probability); no softcap: 0 */
    const int64_t *first, *end;  /* [batch or 1, queries] */
    const float *bias, *sinks;   /* [heads or 1, queries + keys - 1], at i - j + keys - 1; [heads]; or none */
    float *top, *normal;        /* [batch, heads, queries]: a row's largest logit, and 1 / the sum of exp(logit - top) */
    Tensor q, k, v, out, more_q, more_k; /* all from out on are float; more: the channels that are added, by heads of queries */
    Tensor factor; /* [batch or 1, heads or 1, queries], by which q is multiplied, or none; a stride of 0 where it is 1 */
    Runs runs;
    /* the backward pass alone; all but grad are float */
    Tensor grad, to_q;
    float *to_k, *to_v;  /* [chunks, batch, key heads, keys, dim or dim_v] */
    float *to_bias;      /* [chunks, batch, heads, queries + keys - 1], zeros, or none */
    float *delta;        /* [batch, heads, queries]: a row's output times its gradient */
    float *to_more_q, *to_more_k; /* [batch, heads, queries, channels] and [chunks, batch, heads, keys, channels], zeros */
    float *to_factor;             /* [batch, heads, queries], or none */
} Call;

/* What a query's q is multiplied by. */
static inline float scale_of(const Call *c, int64_t b, int64_t h, int64_t i) {
    const Tensor *f = &c->factor;
    return (float)c->scale * (f->at ? ((const float *)f->at)[b * f->batch + h * f->head + i] : 1);
}

int whorl_attention_of_one(const Call *c); /* of one query, without dropout; 0, or 1 where there was no memory */

static inline float load_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* exp to 1 in 10^7 for x <= 0, by 2^k times a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2] (Taylor's, whose next term is
 * 1.2e-7 there / 7!). Below -60 it is 0: 1e-26 beside a 1 is nothing to a float, and smaller numbers, and what they are
 * multiplied to, stop being normal, and take many times as long. */
INLINE vec exp_not_positive(vec x) {
    const float magic = 12582912; /* 1.5 * 2^23: a sum with it is rounded to a whole number, in its last bits */
    const ints low = x < -60.0f;
    const vec y = either(low, all(-60), x), sum = y * 1.44269504f + magic, k = sum - magic;
    const vec r = (y - k * 0.693359375f) + k * 2.12194440e-4f;
    vec p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const vec power = (vec)(((ints)sum - 0x4b400000 + 127) << 23);
    return either(low, all(0), p * power); /* NaN stays NaN */
}

/* tanh to 2 in 10^7: a series near 0, where the difference of the other form would lose what it is to tell. */
INLINE vec tanh_of(vec x) {
    const vec a = either(x < 0, -x, x), e = exp_not_positive(-2 * a), far = (1 - e) / (1 + e), y = x * x;
    vec p = all(21844.0f / 6081075);
    p = p * y - 1382.0f / 155925;
    p = p * y + 62.0f / 2835;
    p = p * y - 17.0f / 315;
    p = p * y + 2.0f / 15;
    p = p * y - 1.0f / 3;
    return either(a < 0.4f, x + x * y * p, either(x < 0, -far, far));
}

#endif
