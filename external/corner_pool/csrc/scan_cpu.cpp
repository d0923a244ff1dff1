// Compiles the CPU kernels for several instruction sets and selects one at run time.
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include "../../processor.h"
#include "scan.h"

namespace corner_pool {

#if defined(__x86_64__) && defined(__GNUC__)

#define SCAN_SHUFFLE16 false
#define VECTOR_BYTES 16
namespace sse2 {
#include "scan_cpu.h"
}  // namespace sse2
#undef VECTOR_BYTES

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2")
#endif
#define VECTOR_BYTES 32
namespace avx2 {
#include "scan_cpu.h"
}  // namespace avx2
#undef VECTOR_BYTES
#undef SCAN_SHUFFLE16
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2,prefer-vector-width=512")
#endif
#define VECTOR_BYTES 64
#define SCAN_SHUFFLE16 true
namespace avx512 {
#include "scan_cpu.h"
}  // namespace avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

Kernels kernels_for(Format format) {
  static const int bytes = native::widest_vectors();
  return bytes == 64 ? avx512::kernels(format) : bytes == 32 ? avx2::kernels(format) : sse2::kernels(format);
}

#else

#if defined(__GNUC__)
#define VECTOR_BYTES 16
#define SCAN_SHUFFLE16 true
#endif
namespace portable {
#include "scan_cpu.h"
}  // namespace portable

Kernels kernels_for(Format format) { return portable::kernels(format); }

#endif

}  // namespace corner_pool
