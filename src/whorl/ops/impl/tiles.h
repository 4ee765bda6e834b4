/* What attention.c and runs.h share: how large a tile is, and vectors of the compiler's own, as wide as the machine's. */

#ifndef WHORL_TILES
#define WHORL_TILES

#include <stdint.h>

#ifdef __AVX512F__
#define WIDTH 16 /* floats in a vector */
#define HEIGHT 8 /* rows of a product's block: HEIGHT x 2 vectors of sums, and 2 + 1 more, are the registers that there are */
#elif defined(__AVX__)
#define WIDTH 8
#define HEIGHT 6
#else
#define WIDTH 4
#define HEIGHT 4
#endif

#if HEIGHT == 6
enum { QUERIES = 48, KEYS = 144 };
#else
enum { QUERIES = 64, KEYS = 128 };
#endif
enum { LANES = WIDTH % HEIGHT ? 3 * WIDTH : WIDTH }; /* a last tile is of so many queries, or twice as many, ..: whole vectors and blocks */
_Static_assert(QUERIES % LANES == 0 && LANES % HEIGHT == 0, "so is a part of a tile");
_Static_assert(QUERIES % HEIGHT == 0 && KEYS % HEIGHT == 0 && QUERIES % WIDTH == 0 && QUERIES % 8 == 0, "a tile is whole blocks");

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef uint32_t bits __attribute__((vector_size(4 * WIDTH), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define AT(TYPE, address) (*(TYPE *)(address)) /* WIDTH numbers from an address on */
INLINE vec all(float x) { return (vec){0} + x; }
INLINE vec either(ints mask, vec yes, vec no) { return (vec)((mask & (ints)yes) | (~mask & (ints)no)); }

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t up_to(int64_t multiple, int64_t n) { return (n + multiple - 1) / multiple * multiple; }

#endif
