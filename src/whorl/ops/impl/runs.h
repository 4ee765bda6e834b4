/* Attention by runs of keys: for query i and a key j in its run r,
 *
 *   value[r][i] + slope[r][i] feature[i - j]      is added to the logit (the second term where there are slopes),
 *   mass[r][i], the sum of the weights in a run,  is an output; so `sum over r of mass[r][i] vector[r]` costs no more than runs.
 *
 * The runs of a query are numbered as keys follow one another, and may be empty. Run 0 begins at the first key; a later one
 * at begin[r][i]. Most rows of a vector of lanes are in one run for all its queries, and the others in two or three: these
 * are told apart by masks, and no number is looked up lane by lane. What is here passes over a tile that is in the cache. */

#include "call.h"

/* Of a tile of queries: [count][QUERIES], `begin` with a run more than there are, which never begins. */
typedef struct {
    int64_t count;
    int32_t *begin, *any, *every; /* [QUERIES / WIDTH][count + 1]: where the first and where all lanes of a vector have begun a run */
    float *values, *slopes, *mass, *to_mass, *to_values, *to_slopes; /* slopes are NULL where there are none */
} TileRuns;

static int64_t room_of_runs(int64_t count) { return (count + 1) * (QUERIES + 2 * (QUERIES / WIDTH)) + 6 * count * QUERIES; }

static void room_for_runs(TileRuns *t, float *room, int64_t count) {
    float **const parts[] = {&t->values, &t->slopes, &t->mass, &t->to_mass, &t->to_values, &t->to_slopes};
    for (int n = 0; n < 6; n++, room += count * QUERIES) *parts[n] = room;
    t->count = count, t->begin = (int32_t *)room;
    t->any = t->begin + (count + 1) * QUERIES, t->every = t->any + (count + 1) * (QUERIES / WIDTH);
}

static void read_by_run(float *to, const float *from, int64_t count, int64_t lanes, int64_t queries) {
    memset(to, 0, count * QUERIES * sizeof(float));
    for (int64_t r = 0; r < count && from; r++) memcpy(to + r * QUERIES, from + r * queries, lanes * sizeof(float));
}

static void write_by_run(float *to, const float *from, int64_t count, int64_t lanes, int64_t queries) {
    for (int64_t r = 0; r < count; r++) memcpy(to + r * queries, from + r * QUERIES, lanes * sizeof(float));
}

/* head: that of all heads of the batch. */
static void open_runs(TileRuns *t, const Runs *runs, int64_t b, int64_t head, int64_t q0, int64_t queries) {
    const int64_t count = runs->count, lanes = least(QUERIES, queries - q0), at = head * count * queries + q0;
    for (int64_t i = 0; i < QUERIES; i++) { /* lanes past the last query begin with it */
        const int32_t *from = runs->begin + b * runs->batch + q0 + least(i, lanes - 1);
        t->begin[i] = INT32_MIN, t->begin[count * QUERIES + i] = INT32_MAX;
        for (int64_t r = 1; r < count; r++) t->begin[r * QUERIES + i] = from[(r - 1) * queries];
    }
    for (int64_t r = 0; r <= count; r++)
        for (int64_t lane = 0; lane < QUERIES; lane += WIDTH) {
            const int32_t *begin = t->begin + r * QUERIES + lane;
            int32_t lowest = begin[0], highest = begin[0];
            for (int n = 1; n < WIDTH; n++) {
                lowest = begin[n] < lowest ? begin[n] : lowest;
                highest = begin[n] > highest ? begin[n] : highest;
            }
            t->any[lane / WIDTH * (count + 1) + r] = lowest, t->every[lane / WIDTH * (count + 1) + r] = highest;
        }
    read_by_run(t->values, runs->values ? runs->values + at : NULL, count, lanes, queries);
    read_by_run(t->slopes, runs->slopes ? runs->slopes + at : NULL, count, lanes, queries);
    read_by_run(t->to_mass, runs->to_mass ? runs->to_mass + at : NULL, count, lanes, queries);
    for (int64_t n = 0; n < count * QUERIES; n++) t->mass[n] = t->to_values[n] = t->to_slopes[n] = 0;
}

static void close_runs(const TileRuns *t, const Runs *runs, int64_t head, int64_t q0, int64_t queries) {
    const int64_t lanes = least(QUERIES, queries - q0), at = head * t->count * queries + q0;
    if (runs->to_values) write_by_run(runs->to_values + at, t->to_values, t->count, lanes, queries);
    if (runs->to_slopes) write_by_run(runs->to_slopes + at, t->to_slopes, t->count, lanes, queries);
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
    for (int64_t lane = 0; lane < QUERIES; lane += WIDTH) {
        int64_t first = 0, last = 0;
        for (int64_t j = 0, end; j < keys; j = end) {
            end = least(keys, move_on(t, lane / WIDTH, k0 + j, &first, &last) - k0);
            for (int64_t i = j; i < end; i++) {
                vec value = AT(const vec, values + first * QUERIES + lane), slope = all(0);
                if (lines) slope = AT(const vec, t->slopes + first * QUERIES + lane);
                for (int64_t r = first + 1; r <= last; r++) {
                    const ints begun = AT(const ints, t->begin + r * QUERIES + lane) <= (int32_t)(k0 + i);
                    value = either(begun, AT(const vec, values + r * QUERIES + lane), value);
                    if (lines) slope = either(begun, AT(const vec, t->slopes + r * QUERIES + lane), slope);
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
    for (int64_t lane = 0; lane < QUERIES; lane += WIDTH) {
        int64_t first = 0, last = 0;
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
                        AT(vec, to_feature + KEYS - 1 - i + lane) += x * AT(const vec, t->slopes + r * QUERIES + lane);
                }
                AT(vec, sums + r * QUERIES + lane) += sum;
                if (lines) AT(vec, t->to_slopes + r * QUERIES + lane) += by_feature;
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
static void fade_mass(TileRuns *t, const float *fade) {
    for (int64_t r = 0; r < t->count; r++)
        for (int64_t lane = 0; lane < QUERIES; lane += WIDTH) AT(vec, t->mass + r * QUERIES + lane) *= AT(const vec, fade + lane);
}
