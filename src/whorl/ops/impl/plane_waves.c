/* Turns pairs of channels at the patches of a grid by angles that are linear in row y and column x, one speed along each for
 * every head and pair, forward and backward. Built by building.py; no link to torch or Python.
 *
 *   (a, b) -> (a cos - b sin, b cos + a sin),   angle = y along_rows + x along_columns
 *
 * cos and sin are made of those of rows and columns (cos(u + v) = cos u cos v - sin u sin v) a row of patches at a time, for all
 * images and tensors: nothing is kept that is as large as heads x tokens x pairs. Nor is it for the gradients of speeds: an angle's
 * is a db - b da, of a pair and its gradient before the turn, and is added up over columns, images and tensors as it is made.
 *
 * Arithmetic is that of the tensors, float or double; cos and sin are made in double, and rounded once. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *out;
    const void *in, *turned; /* backward: the gradient that comes out, the one that came, and what the forward pass turned */
    int64_t out_stride[3], in_stride[3], turned_stride[3]; /* elements: batch, head, token; channels are adjacent */
} Tensor;

typedef struct {
    int64_t threads, is_double, backward, batch, heads, prefix, rows, columns, pairs, head_dim, interleaved, count;
    int64_t first[2];              /* the number of the first row and of the first column */
    const double *speeds;          /* [2][heads][pairs], radians per row and per column */
    double *sides;                 /* [heads][rows + columns][2][pairs], cos and sin: made going forward, read going back */
    double *to_speeds;             /* as speeds, or none */
    Tensor tensors[2];
} Call;

#define INLINE static inline __attribute__((always_inline))
#define AT(TYPE, t, what, token) ((TYPE)(t)->what + b * (t)->what##_stride[0] + h * (t)->what##_stride[1] + (token) * (t)->what##_stride[2])

enum { TOGETHER = 64, AFRESH = 64, TERMS = 16 }; /* TERMS are added up in a tensor's own precision, and then in double */

/* cos and sin of speed x first, speed x (first + 1), ..: by one complex product after another, and afresh every so often. */
static void powers(double *to, const double *speeds, int64_t first, int64_t count, int64_t pairs) {
    for (int64_t p0 = 0; p0 < pairs; p0 += TOGETHER) {
        const int64_t n = pairs - p0 < TOGETHER ? pairs - p0 : TOGETHER;
        double c[TOGETHER], s[TOGETHER], step_c[TOGETHER], step_s[TOGETHER];
        for (int64_t p = 0; p < n; p++) step_c[p] = cos(speeds[p0 + p]), step_s[p] = sin(speeds[p0 + p]);
        for (int64_t at = 0; at < count; at++) {
            double *to_c = to + at * 2 * pairs + p0, *to_s = to_c + pairs;
            if (at % AFRESH == 0)
                for (int64_t p = 0; p < n; p++) {
                    const double angle = speeds[p0 + p] * (double)(first + at);
                    c[p] = cos(angle), s[p] = sin(angle);
                }
            for (int64_t p = 0; p < n; p++) {
                const double old = to_c[p] = c[p];
                to_s[p] = s[p];
                c[p] = old * step_c[p] - s[p] * step_s[p], s[p] = s[p] * step_c[p] + old * step_s[p];
            }
        }
    }
}

/* One pair, in one tensor: channels FIRST and SECOND. Both are read before they are written, and no two pairs share one. */
#define TURN(TENSOR, FIRST, SECOND)                                                                                    \
    {                                                                                                                  \
        const MATH_ u = TENSOR##_in[FIRST], v = TENSOR##_in[SECOND], to_u = u * c - v * s, to_v = v * c + u * s;       \
        if (learned) to_angle += TENSOR##_turned[FIRST] * to_v - TENSOR##_turned[SECOND] * to_u;                       \
        TENSOR##_out[FIRST] = to_u, TENSOR##_out[SECOND] = to_v;                                                       \
    }
#define TOKEN(TENSOR, MATH)                                                                                            \
    MATH *TENSOR##_out = AT(MATH *, TENSOR, out, before + x);                                                          \
    const MATH *TENSOR##_in = AT(const MATH *, TENSOR, in, before + x);                                                \
    const MATH *TENSOR##_turned = learned ? AT(const MATH *, TENSOR, turned, before + x) : NULL;

/* A row of patches of one image and head, in one tensor or both at once. What is `const int` is known where this is compiled: no
 * loop over pairs has a branch. made: cos and sin lie in `space`, by column; else they are made between reading channels and
 * writing them, which takes longer, and put there. learned: to_angle and column to_angle are added up for each pair. */
#define ROW(NAME, MATH, FIRST, SECOND)                                                                                 \
    INLINE void NAME(const int both, const int made, const int learned, const Call *call, MATH *space, double *partial, \
                     int64_t b, int64_t h, int64_t row) {                                                              \
        typedef MATH MATH_;                                                                                            \
        const Tensor *one = call->tensors, *other = one + both;                                                        \
        const int64_t pairs = call->pairs, columns = call->columns, before = call->prefix + row * columns;             \
        const size_t rest = (call->head_dim - 2 * pairs) * sizeof(MATH);                                               \
        const double *of_head = call->sides + h * (call->rows + columns) * 2 * pairs;                                  \
        const double *restrict cy = of_head + row * 2 * pairs, *restrict sy = cy + pairs;                              \
        const double *restrict cx = of_head + call->rows * 2 * pairs, *restrict sx = cx + pairs;                       \
        const MATH way = call->backward ? -1 : 1;                                                                      \
        MATH *restrict cos = space, *restrict sin = space + pairs, *restrict sums = space + 2 * columns * pairs;       \
        for (int64_t x = 0; x < columns; x++, cos += 2 * pairs, sin += 2 * pairs, cx += 2 * pairs, sx += 2 * pairs) {  \
            TOKEN(one, MATH)                                                                                           \
            TOKEN(other, MATH)                                                                                         \
            _Pragma("GCC ivdep")                                                                                       \
            for (int64_t i = 0; i < pairs; i++) {                                                                      \
                if (!made) {                                                                                           \
                    cos[i] = (MATH)(cy[i] * cx[i] - sy[i] * sx[i]);                                                    \
                    sin[i] = (MATH)(sy[i] * cx[i] + cy[i] * sx[i]) * way;                                              \
                }                                                                                                      \
                const MATH c = cos[i], s = sin[i];                                                                     \
                MATH to_angle = 0;                                                                                     \
                TURN(one, FIRST, SECOND)                                                                               \
                if (both) TURN(other, FIRST, SECOND)                                                                   \
                if (learned) sums[i] += to_angle, sums[pairs + i] += (MATH)x * to_angle;                               \
            }                                                                                                          \
            if (rest) memcpy(one_out + 2 * pairs, one_in + 2 * pairs, rest);                                           \
            if (rest && both) memcpy(other_out + 2 * pairs, other_in + 2 * pairs, rest);                               \
            if (learned && ((x + 1) % TERMS == 0 || x + 1 == columns))                                                 \
                for (int64_t i = 0; i < 2 * pairs; i++) partial[i] += (double)sums[i], sums[i] = 0;                    \
        }                                                                                                              \
    }

/* A unit of work: one head's row of patches, of all images and tensors, after the tokens before the patches where it is the
 * first. space: cos and sin of each column's pairs, and two sums of each pair. partial: those sums, of the head's row; or NULL. */
#define LOOPS(NAME, MATH)                                                                                              \
    ROW(NAME##_halves, MATH, i, pairs + i)                                                                             \
    ROW(NAME##_neighbours, MATH, 2 * i, 2 * i + 1)                                                                     \
    static void NAME(const Call *c, MATH *space, double *partial, int64_t h, int64_t row) {                            \
        memset(space + 2 * c->columns * c->pairs, 0, 2 * c->pairs * sizeof(MATH));                                     \
        for (int64_t b = 0; b < c->batch; b++) {                                                                       \
            for (const Tensor *t = c->tensors; t < c->tensors + c->count && row == 0; t++)                             \
                for (int64_t i = 0; i < c->prefix; i++)                                                                \
                    memcpy(AT(MATH *, t, out, i), AT(const MATH *, t, in, i), c->head_dim * sizeof(MATH));             \
            const int both = c->count == 2, made = b > 0, learned = partial != NULL;                                   \
            if (c->interleaved) {                                                                                      \
                EACH(NAME##_neighbours)                                                                                \
            } else {                                                                                                   \
                EACH(NAME##_halves)                                                                                    \
            }                                                                                                          \
        }                                                                                                              \
    }
#define EACH(NAME)                                                                                                     \
    ONE(NAME, 0, 0, 0) ONE(NAME, 0, 0, 1) ONE(NAME, 0, 1, 0) ONE(NAME, 0, 1, 1)                                        \
    ONE(NAME, 1, 0, 0) ONE(NAME, 1, 0, 1) ONE(NAME, 1, 1, 0) ONE(NAME, 1, 1, 1)
#define ONE(NAME, BOTH, MADE, LEARNED)                                                                                 \
    if (both == BOTH && made == MADE && learned == LEARNED) NAME(BOTH, MADE, LEARNED, c, space, partial, b, h, row);

LOOPS(of_float, float)
LOOPS(of_double, double)

static void make_sides(const Call *c, int64_t h) {
    double *of_rows = c->sides + h * (c->rows + c->columns) * 2 * c->pairs;
    powers(of_rows, c->speeds + h * c->pairs, c->first[0], c->rows, c->pairs);
    powers(of_rows + c->rows * 2 * c->pairs, c->speeds + (c->heads + h) * c->pairs, c->first[1], c->columns, c->pairs);
}

/* The sums of rows, in order, so that they are the same however many threads there were. */
static void add_rows(const Call *c, const double *partial) {
    for (int64_t h = 0; h < c->heads; h++)
        for (int64_t i = 0; i < c->pairs; i++) {
            double by_row = 0, by_column = 0;
            for (int64_t y = 0; y < c->rows; y++) {
                const double *of_row = partial + (h * c->rows + y) * 2 * c->pairs;
                by_row += (double)(c->first[0] + y) * of_row[i];
                by_column += (double)c->first[1] * of_row[i] + of_row[c->pairs + i];
            }
            c->to_speeds[h * c->pairs + i] = by_row;
            c->to_speeds[(c->heads + h) * c->pairs + i] = by_column;
        }
}

/* Returns 0, or 1 where there was no memory. */
int whorl_plane_waves(const int64_t *call) {
    const Call *c = (const Call *)call;
    const int64_t units = c->heads * c->rows, size = 2 * (c->columns + 1) * c->pairs;
    double *partial = NULL;
    if (c->to_speeds && !(partial = calloc(units * 2 * c->pairs, sizeof(double)))) return 1;
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        void *space = malloc(size * sizeof(double));
        if (!c->backward) {
#pragma omp for schedule(static)
            for (int64_t h = 0; h < c->heads; h++) make_sides(c, h);
        }
#pragma omp for schedule(static)
        for (int64_t unit = 0; unit < units; unit++) {
            double *sums = partial ? partial + unit * 2 * c->pairs : NULL;
            if (!space)
                failed = 1;
            else if (c->is_double)
                of_double(c, space, sums, unit / c->rows, unit % c->rows);
            else
                of_float(c, space, sums, unit / c->rows, unit % c->rows);
        }
        free(space);
    }
    if (partial && !failed) add_rows(c, partial);
    free(partial);
    return failed;
}
