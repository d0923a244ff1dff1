// The processor's vectors; no torch.
#pragma once

#include <cstdlib>
#include <cstring>

namespace native {

#if defined(__x86_64__) && defined(__GNUC__)
// Bytes of the widest vectors to use, 16 (SSE2), 32 (AVX2, FMA, BMI2) or 64 (AVX-512 F, BW, DQ, VL): what the processor
// has, limited as PyTorch's own kernels are by ATEN_CPU_CAPABILITY=avx2 or default.
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
