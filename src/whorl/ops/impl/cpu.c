/* Which of building.py's FLAVOURS this processor runs, with a kernel that keeps its registers. Built for any processor. */

const char *whorl_flavour(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("x86-64-v4")) return __builtin_cpu_supports("avx512bf16") ? "avx512-bf16" : "avx512";
    if (__builtin_cpu_supports("x86-64-v3")) return "avx2";
#endif
    return "baseline";
}
