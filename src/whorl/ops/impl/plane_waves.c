/* Turns pairs of channels at the patches of a grid by angles that are linear in row y and column x, one speed along each for
 * every head and pair, forward and backward. Built by building.py; no link to torch or Python.
 *
 *   (a, b) -> (a cos - b sin, b cos + a sin),   angle = y along_rows + x along_columns
 *
 * cos and sin are made of those of rows and columns (cos(u + v) = cos u cos v - sin u sin v) a few patches at a time, for all
 * images and tensors: nothing is kept that is as large as heads x tokens x pairs. Nor is it for the gradients of speeds: an angle's
 * is a db - b da, of a pair and its gradient before the turn, and is added up over patches, images and tensors as it is made.
 *
 * Arithmetic is that of the tensors, float or double; cos and sin of rows and columns are made in double and rounded to it once. */

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
    void *sides;                   /* [heads][rows + columns][2][pairs], cos and sin: made going forward, read going back */
    double *to_speeds;             /* as speeds, or none */
    Tensor tensors[2];
} Call;

#define INLINE static inline __attribute__((always_inline))
#define AT(TYPE, t, what, token) ((TYPE)(t)->what + b * (t)->what##_stride[0] + h * (t)->what##_stride[1] + (token) * (t)->what##_stride[2])

enum { TOGETHER = 64, AFRESH = 64, WIDE = 256, UNITS = 64 };
enum { TERMS = 16 }; /* these are added up in a tensor's own precision, and then in double */
enum { LANES = 16 }; /* pairs in a loop that the compiler need not end early: it makes whole vectors of it */

/* cos and sin to 1 in 10^16, in a loop that the compiler makes vectors of: with x less a multiple of pi / 2, which has 33 bits in each
 * of two parts and the rest in a third, by fdlibm's polynomials on -pi / 4 .. pi / 4. Larger numbers, of which that would leave
 * less, and what is no number are the library's. */
INLINE void circle(double *to_cos, double *to_sin, const double *x, int64_t n) {
    const double magic = 0x1.8p52; /* a sum with it is rounded to a whole number, in its last bits */
    int64_t far = 0;
    for (int64_t i = 0; i < n; i++) {
        const double sum = x[i] * 0x1.45f306dc9c883p-1 + magic, k = sum - magic;
        const double r = ((x[i] - k * 0x1.921fb544p0) - k * 0x1.0b4611a6p-34) - k * 0x1.3198a2e037073p-69, z = r * r;
        const double s = r + r * z * (-0x1.5555555555549p-3 + z * (0x1.111111110f8a6p-7 + z * (-0x1.a01a019c161d5p-13
            + z * (0x1.71de357b1fe7dp-19 + z * (-0x1.ae5e68a2b9cebp-26 + z * 0x1.5d93a5acfd57cp-33)))));
        const double c = 1 - (z / 2 - z * z * (0x1.555555555554cp-5 + z * (-0x1.6c16c16c15177p-10 + z * (0x1.a01a019cb159p-16
            + z * (-0x1.27e4f809c52adp-22 + z * (0x1.1ee9ebdb4b1c4p-29 - z * 0x1.8fae9be8838d4p-37))))));
        int64_t turns;
        memcpy(&turns, &sum, sizeof turns);
        const double there = turns & 1 ? s : c, aside = turns & 1 ? c : s;
        to_cos[i] = (turns + 1) & 2 ? -there : there;
        to_sin[i] = turns & 2 ? -aside : aside;
        far += !(fabs(x[i]) < 0x1p20);
    }
    for (int64_t i = 0; far && i < n; i++) to_cos[i] = cos(x[i]), to_sin[i] = sin(x[i]);
}

/* cos and sin of speed x first, speed x (first + 1), ..: by one complex product after another, and afresh every so often. */
#define POWERS(NAME, MATH)                                                                                             \
    static void NAME(MATH *to, const double *speeds, int64_t first, int64_t count, int64_t pairs) {                    \
        for (int64_t p0 = 0; p0 < pairs; p0 += TOGETHER) {                                                             \
            const int64_t n = pairs - p0 < TOGETHER ? pairs - p0 : TOGETHER;                                           \
            double c[TOGETHER], s[TOGETHER], step_c[TOGETHER], step_s[TOGETHER], angles[TOGETHER];                     \
            circle(step_c, step_s, speeds + p0, n);                                                                    \
            for (int64_t at = 0; at < count; at++) {                                                                   \
                MATH *to_c = to + at * 2 * pairs + p0, *to_s = to_c + pairs;                                           \
                if (at % AFRESH == 0) {                                                                                \
                    for (int64_t p = 0; p < n; p++) angles[p] = speeds[p0 + p] * (double)(first + at);                 \
                    circle(c, s, angles, n);                                                                           \
                }                                                                                                      \
                for (int64_t p = 0; p < n; p++) {                                                                      \
                    const double old = c[p];                                                                           \
                    to_c[p] = (MATH)old, to_s[p] = (MATH)s[p];                                                         \
                    c[p] = old * step_c[p] - s[p] * step_s[p], s[p] = s[p] * step_c[p] + old * step_s[p];              \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }

/* One pair, in one tensor: channels FIRST and SECOND. Both are read before they are written, and no two pairs share one. */
#define TURN(TENSOR, FIRST, SECOND)                                                                                    \
    {                                                                                                                  \
        const MATH_ u = TENSOR##_in[FIRST], v = TENSOR##_in[SECOND], to_u = u * c - v * s, to_v = v * c + u * s;       \
        if (learned) to_angle += TENSOR##_turned[FIRST] * to_v - TENSOR##_turned[SECOND] * to_u;                       \
        TENSOR##_out[FIRST] = to_u, TENSOR##_out[SECOND] = to_v;                                                       \
    }
#define PAIR(FIRST, SECOND)                                                                                            \
    {                                                                                                                  \
        const MATH_ c = cy[i] * cx[i] - cy[pairs + i] * cx[pairs + i];                                                 \
        const MATH_ s = way * (cy[pairs + i] * cx[i] + cy[i] * cx[pairs + i]);                                         \
        MATH_ to_angle = 0;                                                                                            \
        TURN(one, FIRST, SECOND)                                                                                       \
        if (both) TURN(other, FIRST, SECOND)                                                                           \
        if (learned) to_angles[i] += to_angle, to_angles[pairs + i] += (MATH_)(x - from) * to_angle;                   \
    }

/* Where a head of a token lies in one tensor, from token to token of a row and from head to head. */
#define ROW_OF(TENSOR, MATH)                                                                                           \
    MATH *TENSOR##_out_row = AT(MATH *, TENSOR, out, token);                                                           \
    const MATH *TENSOR##_in_row = AT(const MATH *, TENSOR, in, token);                                                 \
    const MATH *TENSOR##_turned_row = learned ? AT(const MATH *, TENSOR, turned, token) : TENSOR##_in_row;             \
    const int64_t TENSOR##_steps[] = {TENSOR->out_stride[2], TENSOR->in_stride[2], TENSOR->turned_stride[2]};          \
    const int64_t TENSOR##_heads[] = {TENSOR->out_stride[1], TENSOR->in_stride[1], TENSOR->turned_stride[1]};
#define TOKEN(TENSOR, MATH)                                                                                            \
    MATH *TENSOR##_out = TENSOR##_out_row;                                                                             \
    const MATH *TENSOR##_in = TENSOR##_in_row, *TENSOR##_turned = TENSOR##_turned_row;                                 \
    TENSOR##_out_row += TENSOR##_steps[0], TENSOR##_in_row += TENSOR##_steps[1], TENSOR##_turned_row += TENSOR##_steps[2];
#define NEXT_HEAD(TENSOR)                                                                                              \
    TENSOR##_out += TENSOR##_heads[0], TENSOR##_in += TENSOR##_heads[1], TENSOR##_turned += TENSOR##_heads[2];

/* A unit of work: patches of some rows of an image, of all tensors; of all heads, where those of a token lie side by side, as models
 * give them, or else of one. UNITS or more are made where there are so many rows, however many threads there are: so sums of them
 * are the same. */
typedef struct {
    int64_t image, head, heads, row, rows, first, end; /* the first row and how many; columns */
} Unit;

/* Of one image, in one tensor or both at once. What is `const int` is known where this is compiled: no loop over pairs has a branch.
 * learned: sums of to_angle and column to_angle of each pair, in `sums`, by head; of row to_angle and column to_angle in `partial`. */
#define ROW(NAME, MATH, FIRST, SECOND)                                                                                 \
    INLINE void NAME(const int both, const int learned, const Call *call, Unit unit, MATH *restrict sums,              \
                     double *restrict partial) {                                                                       \
        typedef MATH MATH_;                                                                                            \
        const Tensor *one = call->tensors, *other = one + both;                                                        \
        const int64_t pairs = call->pairs, of_head = (call->rows + call->columns) * 2 * pairs;                         \
        const int64_t b = unit.image, h = unit.head;                                                                   \
        const int64_t token = call->prefix + unit.row * call->columns + unit.first;                                    \
        const size_t rest = (call->head_dim - 2 * pairs) * sizeof(MATH);                                               \
        const MATH way = call->backward ? -1 : 1, *of_row = (const MATH *)call->sides + h * of_head + unit.row * 2 * pairs;\
        const MATH *of_column = (const MATH *)call->sides + h * of_head + (call->rows + unit.first) * 2 * pairs;       \
        ROW_OF(one, MATH)                                                                                              \
        ROW_OF(other, MATH)                                                                                            \
        for (int64_t x = unit.first, from = x; x < unit.end; x++, of_column += 2 * pairs) {                            \
            const MATH *restrict cy = of_row, *restrict cx = of_column;                                                \
            MATH *restrict to_angles = sums;                                                                           \
            TOKEN(one, MATH)                                                                                           \
            TOKEN(other, MATH)                                                                                         \
            for (int64_t head = 0; head < unit.heads; head++, cy += of_head, cx += of_head, to_angles += 2 * pairs) {  \
                int64_t i = 0;                                                                                         \
                for (int64_t vector = 0; vector < pairs / LANES; vector++)                                             \
                    _Pragma("GCC ivdep") for (int64_t n = 0; n < LANES; n++, i++) PAIR(FIRST, SECOND)                  \
                for (; i < pairs; i++) PAIR(FIRST, SECOND)                                                             \
                if (rest) memcpy(one_out + 2 * pairs, one_in + 2 * pairs, rest);                                       \
                if (rest && both) memcpy(other_out + 2 * pairs, other_in + 2 * pairs, rest);                           \
                NEXT_HEAD(one)                                                                                         \
                NEXT_HEAD(other)                                                                                       \
            }                                                                                                          \
            if (!learned || (x + 1 - from < TERMS && x + 1 < unit.end)) continue;                                      \
            const double row = (double)(call->first[0] + unit.row), column = (double)(call->first[1] + from);          \
            for (int64_t head = 0; head < unit.heads; head++) {                                                        \
                MATH *of_terms = sums + head * 2 * pairs;                                                              \
                double *of_unit = partial + head * 2 * pairs;                                                          \
                for (int64_t i = 0; i < pairs; i++) {                                                                  \
                    of_unit[i] += row * (double)of_terms[i];                                                           \
                    of_unit[pairs + i] += column * (double)of_terms[i] + (double)of_terms[pairs + i];                  \
                    of_terms[i] = of_terms[pairs + i] = 0;                                                             \
                }                                                                                                      \
            }                                                                                                          \
            from = x + 1;                                                                                              \
        }                                                                                                              \
    }

/* The tokens before the patches go with the first. sums: room for them. partial: NULL where none are asked for. */
#define LOOPS(NAME, MATH)                                                                                              \
    POWERS(NAME##_powers, MATH)                                                                                        \
    ROW(NAME##_halves, MATH, i, pairs + i)                                                                             \
    ROW(NAME##_neighbours, MATH, 2 * i, 2 * i + 1)                                                                     \
    static void NAME##_sides(const Call *c, int64_t h) {                                                               \
        MATH *of_rows = (MATH *)c->sides + h * (c->rows + c->columns) * 2 * c->pairs;                                  \
        NAME##_powers(of_rows, c->speeds + h * c->pairs, c->first[0], c->rows, c->pairs);                              \
        NAME##_powers(of_rows + c->rows * 2 * c->pairs, c->speeds + (c->heads + h) * c->pairs, c->first[1], c->columns, c->pairs);\
    }                                                                                                                  \
    static void NAME(const Call *c, Unit unit, MATH *sums, double *partial) {                                          \
        const int64_t b = unit.image;                                                                                  \
        memset(sums, 0, unit.heads * 2 * c->pairs * sizeof(MATH));                                                     \
        for (int64_t i = 0; i < c->prefix && !unit.row && !unit.first; i++)                                            \
            for (const Tensor *t = c->tensors; t < c->tensors + c->count; t++)                                         \
                for (int64_t h = unit.head; h < unit.head + unit.heads; h++)                                           \
                    memcpy(AT(MATH *, t, out, i), AT(const MATH *, t, in, i), c->head_dim * sizeof(MATH));             \
        for (; unit.rows > 0; unit.row++, unit.rows--) {                                                               \
            const int both = c->count == 2, learned = partial != NULL;                                                 \
            if (c->interleaved) {                                                                                      \
                EACH(NAME##_neighbours)                                                                                \
            } else {                                                                                                   \
                EACH(NAME##_halves)                                                                                    \
            }                                                                                                          \
        }                                                                                                              \
    }
#define EACH(NAME) ONE(NAME, 0, 0) ONE(NAME, 0, 1) ONE(NAME, 1, 0) ONE(NAME, 1, 1)
#define ONE(NAME, BOTH, LEARNED) if (both == BOTH && learned == LEARNED) NAME(BOTH, LEARNED, c, unit, sums, partial);

LOOPS(of_float, float)
LOOPS(of_double, double)

/* Returns 0, or 1 where there was no memory. */
int whorl_plane_waves(const int64_t *call) {
    const Call *c = (const Call *)call;
    if (!c->heads) return 0;
    const int64_t heads = c->tensors->in_stride[1] > c->tensors->in_stride[2] ? 1 : c->heads, size = heads * 2 * c->pairs;
    const int64_t across = (c->columns - 1) / WIDE + 1, blocks = c->heads / heads * c->batch * across;
    const int64_t together = c->rows * blocks < UNITS ? 1 : c->rows * blocks / UNITS < c->rows ? c->rows * blocks / UNITS : c->rows;
    const int64_t down = (c->rows - 1) / together + 1, of_image = down * across, units = blocks * down;
    double *partial = NULL; /* [units][heads][2][pairs], and never nothing */
    if (c->to_speeds && !(partial = calloc(units * size + 1, sizeof(double)))) return 1;
    int failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1)
    {
        void *sums = malloc((size + 1) * sizeof(double));
        if (!c->backward) {
#pragma omp for schedule(static)
            for (int64_t h = 0; h < c->heads; h++)
                if (c->is_double)
                    of_double_sides(c, h);
                else
                    of_float_sides(c, h);
        }
#pragma omp for schedule(static)
        for (int64_t n = 0; n < units; n++) { /* image by image, and head by head where these are apart */
            const int64_t first = n % across * WIDE, row = n / across % down * together, of = n / of_image;
            const Unit unit = {
                of / (c->heads / heads), of % (c->heads / heads) * heads, heads,
                row, row + together < c->rows ? together : c->rows - row,
                first, first + WIDE < c->columns ? first + WIDE : c->columns,
            };
            double *of_unit = partial ? partial + n * size : NULL;
            if (!sums)
                failed = 1;
            else if (c->is_double)
                of_double(c, unit, sums, of_unit);
            else
                of_float(c, unit, sums, of_unit);
        }
        free(sums);
    }
    for (int64_t h = 0; partial && !failed && h < c->heads; h++)
        for (int64_t i = 0; i < c->pairs; i++) {
            double by_row = 0, by_column = 0;
            for (int64_t n = h / heads * of_image; n < units; n += of_image * (c->heads / heads))
                for (int64_t m = n; m < n + of_image; m++) {
                    const double *of_unit = partial + m * size + h % heads * 2 * c->pairs + i;
                    by_row += of_unit[0], by_column += of_unit[c->pairs];
                }
            c->to_speeds[h * c->pairs + i] = by_row, c->to_speeds[(c->heads + h) * c->pairs + i] = by_column;
        }
    free(partial);
    return failed;
}
