/* The softmax of a block of biased attention, and its derivative: everything between two matrix products in one pass over a
 * row, which lies in the first-level cache. Built by native.py; no link to torch or Python.
 *
 * Row i of block n (numbered batch by batch, heads within) has the logits s[i][j] + bias[head][i + j] for j < seen(i),
 * where seen(i) = clamp(seen_0 - i, 0, keys): queries are in reverse order, so a causal row sees one key fewer than the row
 * before it, and the bias of a row is a run of a vector of distances. Keys past seen(i) are hidden; s = -inf hides others.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp to 1 in 10^7 for x <= 0, by 2^k times a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2] (Taylor's, whose next term is
 * 1.2e-7 there / 7!). Below -60 it is 1e-26, which no float sum beside a 1 can tell from 0: smaller numbers, and
 * what they are multiplied to, stop being normal, and take many times as long. */
static inline float exp_not_positive(float x) {
    x = x < -60.0f ? -60.0f : x;
    float k = __builtin_rintf(x * 1.44269504f);
    float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits;
    memcpy(&bits, &p, 4);
    bits += (int32_t)k << 23;
    memcpy(&p, &bits, 4);
    return p;
}

static inline float load_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t store_bf16(float value) { /* to nearest even; no NaN comes here but from NaN */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline int64_t seen_by(int64_t seen_0, int64_t row, int64_t keys) {
    int64_t seen = seen_0 - row;
    return seen < 0 ? 0 : seen > keys ? keys : seen;
}

/* call: [0] s [1] bias, or 0 [2] top [3] total [4] fade (addresses) [5] blocks [6] heads [7] rows [8] keys [9] bias's stride
 * by head [10] its offset [11] seen_0 [12] threads [13] weights in bfloat16, or 0.
 *
 * top, total, fade: a number per row, over the blocks of keys so far: the largest logit, the sum of exp(logit - top), and
 * what earlier sums and outputs are to be multiplied by. s becomes exp(logit - top), or the bfloat16 weights do. */
int whorl_softmax(const int64_t *call) {
    float *s = (float *)call[0], *top = (float *)call[2], *total = (float *)call[3], *fade = (float *)call[4];
    const float *bias = (const float *)call[1];
    uint16_t *rounded = (uint16_t *)call[13];
    const int64_t blocks = call[5], heads = call[6], rows = call[7], keys = call[8], stride = call[9], offset = call[10];
    const int64_t seen_0 = call[11];
#pragma omp parallel for schedule(static) num_threads((int)call[12]) if (call[12] > 1)
    for (int64_t at = 0; at < blocks * rows; at++) {
        const int64_t n = at / rows, i = at % rows;
        float *restrict row = s + at * keys;
        int64_t seen = seen_by(seen_0, i, keys);
        if (bias) {
            const float *restrict b = bias + n % heads * stride + offset + i;
            for (int64_t j = 0; j < seen; j++) row[j] += b[j];
        }
        float peak = -INFINITY, sum = 0;
#pragma omp simd reduction(max : peak)
        for (int64_t j = 0; j < seen; j++) peak = row[j] > peak ? row[j] : peak;
        const float before = top[at];
        const float base = peak > before ? peak : before;
        if (base == -INFINITY) { /* nothing seen yet */
            fade[at] = 1;
            seen = 0;
        } else {
            const float f = before == -INFINITY ? 0 : exp_not_positive(before - base);
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < seen; j++) {
                const float p = exp_not_positive(row[j] - base);
                row[j] = p;
                sum += p;
            }
            fade[at] = f, top[at] = base, total[at] = total[at] * f + sum;
        }
        if (rounded) {
            uint16_t *restrict to = rounded + at * keys;
            for (int64_t j = 0; j < seen; j++) to[j] = store_bf16(row[j]);
            memset(to + seen, 0, (keys - seen) * sizeof(uint16_t));
        } else {
            memset(row + seen, 0, (keys - seen) * sizeof(float));
        }
    }
    return 0;
}

/* call: as above, but [2] top [3] dp, the gradient that reaches p = exp(logit - top) normal [4] delta, a number per row to be
 * taken from it, or 0: the row's own sum of p dp, for keys that are all in one block [13] the bias's gradient, or 0, laid out as the bias [14] normal, a number per row [15] p in bfloat16, or 0.
 *
 * dp becomes the logits' gradient, p (dp - delta). s becomes p, or [15] does. Threads take heads, so that no two write to one
 * part of the bias's gradient. */
int whorl_softmax_backward(const int64_t *call) {
    float *s = (float *)call[0], *dp = (float *)call[3], *to_bias = (float *)call[13];
    const float *bias = (const float *)call[1], *top = (const float *)call[2], *delta = (const float *)call[4];
    const float *normal = (const float *)call[14];
    uint16_t *rounded = (uint16_t *)call[15];
    const int64_t blocks = call[5], heads = call[6], rows = call[7], keys = call[8], stride = call[9], offset = call[10];
    const int64_t seen_0 = call[11], batch = blocks / heads;
    const int64_t units = to_bias ? heads : blocks * rows; /* of work that may run at once */
#pragma omp parallel for schedule(static) num_threads((int)call[12]) if (call[12] > 1)
    for (int64_t unit = 0; unit < units; unit++) {
        for (int64_t within = 0; within < (to_bias ? batch * rows : 1); within++) {
            const int64_t at = to_bias ? (within / rows * heads + unit) * rows + within % rows : unit;
            const int64_t n = at / rows, i = at % rows;
            const float base = top[at], scale = normal[at];
            float minus = 0;
            const int64_t seen = base == -INFINITY ? 0 : seen_by(seen_0, i, keys);
            float *restrict p = s + at * keys, *restrict d = dp + at * keys;
            if (bias) {
                const float *restrict b = bias + n % heads * stride + offset + i;
                for (int64_t j = 0; j < seen; j++) p[j] += b[j];
            }
#pragma omp simd reduction(+ : minus)
            for (int64_t j = 0; j < seen; j++) {
                const float x = p[j] - base, q = exp_not_positive(x < 0 ? x : 0) * scale;
                p[j] = q;
                minus += q * d[j];
            }
            if (delta) minus = delta[at];
            for (int64_t j = 0; j < seen; j++) d[j] = p[j] * (d[j] - minus);
            memset(d + seen, 0, (keys - seen) * sizeof(float));
            if (rounded) {
                uint16_t *restrict to = rounded + at * keys;
                for (int64_t j = 0; j < seen; j++) to[j] = store_bf16(p[j]);
                memset(to + seen, 0, (keys - seen) * sizeof(uint16_t));
            } else {
                memset(p + seen, 0, (keys - seen) * sizeof(float));
            }
            if (to_bias) {
                float *restrict g = to_bias + n % heads * stride + offset + i;
                for (int64_t j = 0; j < seen; j++) g[j] += d[j];
            }
        }
    }
    return 0;
}

/* The same from weights that were kept: call as above, but [0] exp(logit - top) as `whorl_softmax` left it, in bfloat16 if
 * [15], [2] is not read [16] where p goes, in the dtype of [0]. delta is found here, from p and dp: keys are all in one block. */
int whorl_kept_backward(const int64_t *call) {
    float *dp = (float *)call[3], *to_bias = (float *)call[13];
    const float *normal = (const float *)call[14];
    const int64_t blocks = call[5], heads = call[6], rows = call[7], keys = call[8], stride = call[9], offset = call[10];
    const int64_t batch = blocks / heads, rounded = call[15], units = to_bias ? heads : blocks * rows;
#pragma omp parallel for schedule(static) num_threads((int)call[12]) if (call[12] > 1)
    for (int64_t unit = 0; unit < units; unit++) {
        for (int64_t within = 0; within < (to_bias ? batch * rows : 1); within++) {
            const int64_t at = to_bias ? (within / rows * heads + unit) * rows + within % rows : unit;
            const float scale = normal[at];
            float *restrict d = dp + at * keys;
            float minus = 0;
            if (rounded) {
                const uint16_t *restrict p = (const uint16_t *)call[0] + at * keys;
                uint16_t *restrict to = (uint16_t *)call[16] + at * keys;
#pragma omp simd reduction(+ : minus)
                for (int64_t j = 0; j < keys; j++) minus += load_bf16(p[j]) * d[j];
                minus *= scale;
                for (int64_t j = 0; j < keys; j++) {
                    const float q = load_bf16(p[j]) * scale;
                    d[j] = q * (d[j] - minus);
                    to[j] = store_bf16(q);
                }
            } else {
                const float *restrict p = (const float *)call[0] + at * keys;
                float *restrict to = (float *)call[16] + at * keys;
#pragma omp simd reduction(+ : minus)
                for (int64_t j = 0; j < keys; j++) minus += p[j] * d[j];
                minus *= scale;
                for (int64_t j = 0; j < keys; j++) {
                    const float q = p[j] * scale;
                    d[j] = q * (d[j] - minus);
                    to[j] = q;
                }
            }
            if (to_bias) {
                float *restrict g = to_bias + at / rows % heads * stride + offset + at % rows;
                for (int64_t j = 0; j < keys; j++) g[j] += d[j];
            }
        }
    }
    return 0;
}
