// Detection of the processor's vector instructions. Does not depend on PyTorch.
#pragma once

#include <cstdlib>
#include <cstring>

namespace native {

#if defined(__x86_64__) && defined(__GNUC__)
// The size in bytes of the widest vectors to use: 16 (SSE2), 32 (AVX2, FMA, BMI2) or 64 (AVX-512 F, BW, DQ, VL).
// Depends on the processor. As for PyTorch's own kernels, ATEN_CPU_CAPABILITY=avx2 or default lowers it.
inline int widest_vectors() {
  const char* const asked = std::getenv("ATEN_CPU_CAPABILITY");
  const bool only_sse2 = asked != nullptr && std::strcmp(asked, "default") == 0;
  const bool only_avx2 = asked != nullptr && std::strcmp(asked, "avx2") == 0;
  if (only_sse2 || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("bmi2")) {
    return 16;
  }
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return only_avx2 || !avx512 ? 32 : 64;
}
#endif

}  // namespace native
