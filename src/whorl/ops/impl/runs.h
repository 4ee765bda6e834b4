/* Attention by runs of keys: for query i and a key j in its run r,
 *
 *   value[r][i] + slope[r][i] feature[i - j]      is added to the logit (the second term where there are slopes),
 *   mass[r][i], the sum of the weights in a run,  is an output; so `sum over r of mass[r][i] vector[r]` costs no more than runs.
 *
 * The runs of a query are numbered as keys follow one another, and may be empty. Run 0 begins at the first key; a later one
 * at begin[r][i]. Runs may share values, slopes, a mass and a vector: these are then of `kinds`, fewer than runs, and
 * rows[r][i] is the one that run r has for query i. Most rows of a vector of lanes are in one run for all its queries, and the others in two or three: these
 * are told apart by masks, and no number is looked up lane by lane. What is here passes over a tile that is in the cache. */

#include "call.h"

/* Of a tile of queries. Numbers lie as [kinds][QUERIES], and after these, where runs share numbers, [count][QUERIES] for the runs
 * whose queries do not all have the same: `where` says which row a vector of lanes has in a run. NULL is what is not asked for. */
typedef struct {
    int64_t count, kinds, lanes; /* lanes: as a tile's */
    int32_t *begin;              /* [count + 1][QUERIES]; the last never begins */
    int32_t *any, *every, *where; /* [QUERIES / WIDTH][count + 1]: where the first and where all lanes have begun a run */
    float *values, *slopes, *mass, *to_mass, *to_values, *to_slopes;
} TileRuns;

static int64_t rows_of_runs(const Runs *runs) { return runs->kinds + (runs->rows ? runs->count : 0); }

static int64_t room_of_runs(const Runs *runs) {
    return (runs->count + 1) * (QUERIES + 3 * (QUERIES / WIDTH)) + 6 * rows_of_runs(runs) * QUERIES;
}

static void room_for_runs(TileRuns *t, float *room, const Runs *runs) {
    const struct {
        float **part;
        const void *asked;
    } parts[] = {{&t->values, runs->values}, {&t->slopes, runs->slopes}, {&t->mass, runs->mass},
                 {&t->to_mass, runs->to_mass}, {&t->to_values, runs->to_values}, {&t->to_slopes, runs->to_slopes}};
    for (int n = 0; n < 6; n++, room += rows_of_runs(runs) * QUERIES) *parts[n].part = parts[n].asked ? room : NULL;
    t->count = runs->count, t->kinds = runs->kinds, t->begin = (int32_t *)room;
    t->any = t->begin + (t->count + 1) * QUERIES;
    t->every = t->any + (t->count + 1) * (QUERIES / WIDTH), t->where = t->every + (t->count + 1) * (QUERIES / WIDTH);
}

INLINE const int32_t *shared_by(const Runs *runs, int64_t b, int64_t r, int64_t q0, int64_t queries) {
    return runs->rows + b * runs->rows_batch + r * queries + q0;
}

/* Which row each vector of lanes has in each run. */
static void find_rows(TileRuns *t, const Runs *runs, int64_t b, int64_t q0, int64_t lanes, int64_t queries) {
    for (int64_t r = 0; r < t->count; r++) {
        const int32_t *rows = runs->rows ? shared_by(runs, b, r, q0, queries) : NULL;
        for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
            int32_t differ = 0;
            const int64_t there = least(WIDTH, lanes - lane);
            for (int64_t n = 1; n < there && rows; n++) differ |= rows[lane + n] ^ rows[lane];
            t->where[lane / WIDTH * (t->count + 1) + r] = (int32_t)(!rows ? r : there <= 0 ? 0 : differ ? t->kinds + r : rows[lane]);
        }
    }
}

/* For each run and vector whose lanes have different rows: those are copied to the run's (`apart`), or the run's added to them. */
static void share(const int apart, float *x, const TileRuns *t, const Runs *runs, int64_t b, int64_t q0, int64_t lanes, int64_t queries) {
    for (int64_t r = 0; r < t->count && runs->rows && x; r++)
        for (int64_t lane = 0; lane < lanes; lane += WIDTH) {
            if (t->where[lane / WIDTH * (t->count + 1) + r] < t->kinds) continue;
            const int32_t *rows = shared_by(runs, b, r, q0, queries);
            float *own = x + (t->kinds + r) * QUERIES;
            for (int64_t i = lane; i < lane + WIDTH; i++)
                if (apart)
                    own[i] = i < lanes ? x[rows[i] * QUERIES + i] : 0; /* what is no number there would reach gradients of keys */
                else if (i < lanes)
                    x[rows[i] * QUERIES + i] += own[i];
        }
}

static void read_by_run(float *to, const float *from, const TileRuns *t, const Runs *runs, int64_t b, int64_t q0, int64_t lanes, int64_t queries) {
    if (!to) return;
    for (int64_t r = 0; r < t->kinds; r++) {
        memcpy(to + r * QUERIES, from + r * queries, lanes * sizeof(float));
        memset(to + r * QUERIES + lanes, 0, (QUERIES - lanes) * sizeof(float));
    }
    share(1, to, t, runs, b, q0, lanes, queries);
}

/* Sums begin at zero. */
static void clear_by_run(float *to, const TileRuns *t) {
    if (!to) return;
    memset(to, 0, t->kinds * QUERIES * sizeof(float));
    for (int64_t r = 0; r < t->count; r++)
        for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
            const int32_t row = t->where[lane / WIDTH * (t->count + 1) + r];
            if (row >= t->kinds) AT(vec, to + row * QUERIES + lane) = all(0);
        }
}

static void write_by_run(float *to, float *from, const TileRuns *t, const Runs *runs, int64_t b, int64_t q0, int64_t lanes, int64_t queries) {
    if (!from) return;
    share(0, from, t, runs, b, q0, lanes, queries);
    for (int64_t r = 0; r < t->kinds; r++) memcpy(to + r * queries, from + r * QUERIES, lanes * sizeof(float));
}

/* head: that of all heads of the batch. */
static void open_runs(TileRuns *t, const Runs *runs, int64_t b, int64_t head, int64_t q0, int64_t queries) {
    const int64_t count = runs->count, lanes = least(QUERIES, queries - q0), at = head * runs->kinds * queries + q0;
    t->lanes = up_to(LANES, lanes);
    for (int64_t i = 0; i < QUERIES; i++) t->begin[i] = INT32_MIN, t->begin[count * QUERIES + i] = INT32_MAX;
    for (int64_t r = 1; r < count; r++) { /* lanes past the last query begin with it */
        memcpy(t->begin + r * QUERIES, runs->begin + b * runs->batch + (r - 1) * queries + q0, lanes * sizeof(int32_t));
        for (int64_t i = lanes; i < QUERIES; i++) t->begin[r * QUERIES + i] = t->begin[r * QUERIES + lanes - 1];
    }
    for (int64_t r = 0; r <= count; r++)
        for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
            const int32_t *begin = t->begin + r * QUERIES + lane;
            int32_t lowest = begin[0], highest = begin[0];
            for (int n = 1; n < WIDTH; n++) {
                lowest = begin[n] < lowest ? begin[n] : lowest;
                highest = begin[n] > highest ? begin[n] : highest;
            }
            t->any[lane / WIDTH * (count + 1) + r] = lowest, t->every[lane / WIDTH * (count + 1) + r] = highest;
        }
    find_rows(t, runs, b, q0, lanes, queries);
    read_by_run(t->values, runs->values + at, t, runs, b, q0, lanes, queries);
    read_by_run(t->slopes, runs->slopes + at, t, runs, b, q0, lanes, queries);
    read_by_run(t->to_mass, runs->to_mass + at, t, runs, b, q0, lanes, queries);
    clear_by_run(t->mass, t), clear_by_run(t->to_values, t), clear_by_run(t->to_slopes, t);
}

/* What was summed up, to where it goes; a mass is not yet divided by the sum of all weights: factors [QUERIES] do it. */
static void close_runs(const TileRuns *t, const Runs *runs, int64_t b, int64_t head, int64_t q0, int64_t queries, const float *factors) {
    const int64_t lanes = least(QUERIES, queries - q0), at = head * t->kinds * queries + q0;
    write_by_run(runs->to_values + at, t->to_values, t, runs, b, q0, lanes, queries);
    write_by_run(runs->to_slopes + at, t->to_slopes, t, runs, b, q0, lanes, queries);
    if (!factors) return;
    write_by_run(runs->mass + at, t->mass, t, runs, b, q0, lanes, queries);
    for (int64_t r = 0; r < t->kinds; r++)
        for (int64_t i = 0; i < lanes; i++) runs->mass[at + r * queries + i] *= factors[i];
}

/* Moves first .. last, the runs that lanes of a vector are in at a key before this one, on to `key`: those of all keys up to
 * the one that it gives. */
INLINE int64_t move_on(const TileRuns *t, int64_t vector, int64_t key, int64_t *first, int64_t *last) {
    const int32_t *any = t->any + vector * (t->count + 1) + 1, *every = t->every + vector * (t->count + 1) + 1;
    while (any[*last] <= key) ++*last;
    while (every[*first] <= key) ++*first;
    return least(any[*last], every[*first]);
}

/* Puts, or adds, what a tile's queries have by run (and slopes times the feature) to all keys of a tile. */
INLINE void spread(const int add, const int lines, float *to, const TileRuns *t, const float *values, const float *feature,
                   int64_t k0, int64_t keys) {
    for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
        int64_t first = 0, last = 0;
        const int32_t *where = t->where + lane / WIDTH * (t->count + 1);
        for (int64_t j = 0, end; j < keys; j = end) {
            end = least(keys, move_on(t, lane / WIDTH, k0 + j, &first, &last) - k0);
            for (int64_t i = j; i < end; i++) {
                vec value = AT(const vec, values + where[first] * QUERIES + lane), slope = all(0);
                if (lines) slope = AT(const vec, t->slopes + where[first] * QUERIES + lane);
                for (int64_t r = first + 1; r <= last; r++) {
                    const ints begun = AT(const ints, t->begin + r * QUERIES + lane) <= (int32_t)(k0 + i);
                    value = either(begun, AT(const vec, values + where[r] * QUERIES + lane), value);
                    if (lines) slope = either(begun, AT(const vec, t->slopes + where[r] * QUERIES + lane), slope);
                }
                if (lines) value += slope * AT(const vec, feature + KEYS - 1 - i + lane);
                vec *place = (vec *)(to + i * QUERIES + lane);
                *place = add ? *place + value : value;
            }
        }
    }
}

/* The reverse: adds up a tile's numbers by run; and, with the feature, those of slopes and of the feature by distance (or not: NULL). */
INLINE void collect(const int lines, float *sums, float *to_feature, const float *from, TileRuns *t, const float *feature,
                    int64_t k0, int64_t keys) {
    for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
        int64_t first = 0, last = 0;
        const int32_t *where = t->where + lane / WIDTH * (t->count + 1);
        for (int64_t j = 0, end; j < keys; j = end) {
            end = least(keys, move_on(t, lane / WIDTH, k0 + j, &first, &last) - k0);
            for (int64_t r = first; r <= last; r++) {
                const ints begin = AT(const ints, t->begin + r * QUERIES + lane), next = AT(const ints, t->begin + (r + 1) * QUERIES + lane);
                vec sum = all(0), by_feature = all(0);
                for (int64_t i = j; i < end; i++) {
                    const int32_t key = (int32_t)(k0 + i);
                    vec x = AT(const vec, from + i * QUERIES + lane);
                    if (first < last) x = either((begin <= key) & (next > key), x, all(0));
                    sum += x;
                    if (lines) by_feature += x * AT(const vec, feature + KEYS - 1 - i + lane);
                    if (lines && to_feature)
                        AT(vec, to_feature + KEYS - 1 - i + lane) += x * AT(const vec, t->slopes + where[r] * QUERIES + lane);
                }
                AT(vec, sums + where[r] * QUERIES + lane) += sum;
                if (lines) AT(vec, t->to_slopes + where[r] * QUERIES + lane) += by_feature;
            }
        }
    }
}

/* Each of these compiled once, by itself. */
static __attribute__((noinline)) void put_values(float *to, const TileRuns *t, int64_t k0, int64_t keys) {
    spread(0, 0, to, t, t->values, NULL, k0, keys);
}
static __attribute__((noinline)) void put_lines(float *to, const TileRuns *t, const float *feature, int64_t k0, int64_t keys) {
    spread(0, 1, to, t, t->values, feature, k0, keys);
}
static __attribute__((noinline)) void add_masses_gradient(float *to, const TileRuns *t, int64_t k0, int64_t keys) {
    spread(1, 0, to, t, t->to_mass, NULL, k0, keys);
}
static __attribute__((noinline)) void sum_by_run(float *sums, const float *from, TileRuns *t, int64_t k0, int64_t keys) {
    collect(0, sums, NULL, from, t, NULL, k0, keys);
}
static __attribute__((noinline)) void sum_lines(float *to_feature, const float *from, TileRuns *t, const float *feature,
                                                int64_t k0, int64_t keys) {
    collect(1, t->to_values, to_feature, from, t, feature, k0, keys);
}

/* What was summed up of earlier keys, scaled to later ones' largest logit. */
static void fade_mass(const TileRuns *t, const float *fade) {
    for (int64_t lane = 0; lane < t->lanes; lane += WIDTH) {
        const vec by = AT(const vec, fade + lane);
        for (int64_t r = 0; r < t->kinds; r++) AT(vec, t->mass + r * QUERIES + lane) *= by;
        for (int64_t r = 0; r < t->count; r++) {
            const int32_t row = t->where[lane / WIDTH * (t->count + 1) + r];
            if (row >= t->kinds) AT(vec, t->mass + row * QUERIES + lane) *= by;
        }
    }
}
