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

/* One pair of a token. Every pair is read before it is written, and no two share a channel. */
#define TURN(A, B)                                                                                                     \
    {                                                                                                                  \
        const MATH_ x = in[A], y = in[B];                                                                              \
        out[A] = x * c[i] - y * s[i], out[B] = y * c[i] + x * s[i];                                                    \
    }
/* And going back. */
#define TURN_BACK(A, B)                                                                                                \
    {                                                                                                                  \
        const MATH_ x = in[A], y = in[B], to_a = x * c[i] + y * s[i], to_b = y * c[i] - x * s[i];                      \
        out[A] = to_a, out[B] = to_b;                                                                                  \
        if (sums) {                                                                                                    \
            const MATH_ to_angle = turned[A] * to_b - turned[B] * to_a;                                                \
            sums[i] += to_angle, sums[pairs + i] += column * to_angle;                                                 \
        }                                                                                                              \
    }
#define TOKEN(NAME, MATH, A, B)                                                                                        \
    static inline void NAME(MATH *restrict out, const MATH *restrict in, const MATH *restrict c, const MATH *restrict s, int64_t pairs) {\
        typedef MATH MATH_;                                                                                            \
        for (int64_t i = 0; i < pairs; i++) TURN(A, B)                                                                 \
    }                                                                                                                  \
    static inline __attribute__((always_inline)) void NAME##_back(                                                     \
        MATH *restrict out, const MATH *restrict in, const MATH *restrict turned, const MATH *restrict c, const MATH *restrict s,\
        MATH *restrict sums, MATH column, int64_t pairs) {                                                             \
        typedef MATH MATH_;                                                                                            \
        for (int64_t i = 0; i < pairs; i++) TURN_BACK(A, B)                                                            \
    }

/* A unit of work: one head's row of patches, of all images and tensors, after the tokens before the patches where it is the
 * first. space: cos and sin of each column's pairs, and two sums of each pair. partial: those sums, of the head's row. */
#define ROW(NAME, MATH)                                                                                                \
    static void NAME(const Call *c, MATH *space, double *partial, int64_t h, int64_t row) {                            \
        const int64_t pairs = c->pairs, columns = c->columns, rest = c->head_dim - 2 * pairs;                          \
        const double *restrict cy = c->sides + (h * (c->rows + columns) + row) * 2 * pairs, *restrict sy = cy + pairs; \
        const double *of_columns = c->sides + (h * (c->rows + columns) + c->rows) * 2 * pairs;                         \
        MATH *sums = space + 2 * columns * pairs;                                                                      \
        for (int64_t x = 0; x < columns; x++) {                                                                        \
            MATH *restrict cos = space + x * 2 * pairs, *restrict sin = cos + pairs;                                   \
            const double *restrict cx = of_columns + x * 2 * pairs, *restrict sx = cx + pairs;                         \
            for (int64_t i = 0; i < pairs; i++)                                                                        \
                cos[i] = (MATH)(cy[i] * cx[i] - sy[i] * sx[i]), sin[i] = (MATH)(sy[i] * cx[i] + cy[i] * sx[i]);        \
        }                                                                                                              \
        for (int64_t b = 0; b < c->batch; b++)                                                                         \
            for (const Tensor *t = c->tensors; t < c->tensors + c->count; t++) {                                       \
                const int64_t in_token = t->in_stride[2], out_token = t->out_stride[2], turned_token = t->turned_stride[2];\
                const MATH *in = (const MATH *)t->in + b * t->in_stride[0] + h * t->in_stride[1];                      \
                MATH *out = (MATH *)t->out + b * t->out_stride[0] + h * t->out_stride[1];                              \
                for (int64_t i = 0; i < c->prefix && row == 0; i++)                                                    \
                    memcpy(out + i * out_token, in + i * in_token, c->head_dim * sizeof(MATH));                        \
                const int64_t before = c->prefix + row * columns;                                                      \
                in += before * in_token, out += before * out_token;                                                    \
                const MATH *turned = partial ? (const MATH *)t->turned + b * t->turned_stride[0] + h * t->turned_stride[1] + before * turned_token : NULL;\
                memset(sums, 0, 2 * pairs * sizeof(MATH));                                                             \
                for (int64_t x = 0; x < columns; x++, in += in_token, out += out_token) {                              \
                    const MATH *cos = space + x * 2 * pairs, *sin = cos + pairs;                                       \
                    if (partial && c->interleaved)                                                                     \
                        NAME##_neighbours_back(out, in, turned + x * turned_token, cos, sin, sums, (MATH)x, pairs);    \
                    else if (partial)                                                                                  \
                        NAME##_halves_back(out, in, turned + x * turned_token, cos, sin, sums, (MATH)x, pairs);        \
                    else if (c->backward && c->interleaved)                                                            \
                        NAME##_neighbours_back(out, in, NULL, cos, sin, NULL, 0, pairs);                               \
                    else if (c->backward)                                                                              \
                        NAME##_halves_back(out, in, NULL, cos, sin, NULL, 0, pairs);                                   \
                    else if (c->interleaved)                                                                           \
                        NAME##_neighbours(out, in, cos, sin, pairs);                                                   \
                    else                                                                                               \
                        NAME##_halves(out, in, cos, sin, pairs);                                                       \
                    if (rest) memcpy(out + 2 * pairs, in + 2 * pairs, rest * sizeof(MATH));                            \
                    if (!partial || ((x + 1) % TERMS && x + 1 < columns)) continue;                                    \
                    for (int64_t i = 0; i < 2 * pairs; i++) partial[i] += (double)sums[i], sums[i] = 0;                \
                }                                                                                                      \
            }                                                                                                          \
    }

#define LOOPS(NAME, MATH)                                                                                              \
    TOKEN(NAME##_halves, MATH, i, pairs + i)                                                                           \
    TOKEN(NAME##_neighbours, MATH, 2 * i, 2 * i + 1)                                                                   \
    ROW(NAME, MATH)

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
