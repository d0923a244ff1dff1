// The CPU kernels. For float32 arithmetic and the published exponents they use SIMD kernels, which are compiled for
// several instruction sets and selected at run time. All other cases, and elements that do not fill a vector, are
// computed one by one.
#include "cpu.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstring>

#include "../../processor.h"

namespace focal_loss {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// SIMD kernels: forward and backward as in cpu.h for alpha 2 and beta 4. n must be a multiple of `lanes`.
template <typename T>
struct Kernels {
  int lanes;
  void (*forward)(const T* logits, const float* target, int64_t n, float limit, Sum* sum);  // adds to the sum
  void (*backward)(const T* logits, const float* target, T* grad, int64_t n, float limit, float scale);
};

#if defined(__x86_64__) && defined(__GNUC__)

namespace sse2 {
#define VECTOR_BYTES 16
#include "loss_cpu.h"
#undef VECTOR_BYTES
}  // namespace sse2

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
namespace avx2 {
#define VECTOR_BYTES 32
#include "loss_cpu.h"
#undef VECTOR_BYTES
}  // namespace avx2
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
namespace avx512 {
#define VECTOR_BYTES 64
#include "loss_cpu.h"
#undef VECTOR_BYTES
}  // namespace avx512
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

template <typename T>
Kernels<T> best_kernels() {
  Kernels<T> kernels;
  switch (native::widest_vectors()) {
    case 64: avx512::choose(&kernels); break;
    case 32: avx2::choose(&kernels); break;
    default: sse2::choose(&kernels);
  }
  return kernels;
}

#elif defined(__GNUC__)

#define VECTOR_BYTES 16
#include "loss_cpu.h"

template <typename T>
Kernels<T> best_kernels() {
  Kernels<T> kernels;
  choose(&kernels);
  return kernels;
}

#else

template <typename T>
Kernels<T> best_kernels() {
  return {0, nullptr, nullptr};
}

#endif

// The number of leading elements that the SIMD kernels process, and these kernels in *kernels.
template <typename T>
int64_t vectorised_count(int64_t n, const Terms& terms, Kernels<T>* kernels) {
  if constexpr (std::is_same_v<Wide<T>, float>) {
    static const Kernels<T> best = best_kernels<T>();
    *kernels = best;
    if (best.lanes > 0 && terms.alpha == 2 && terms.beta == 4) return n - n % best.lanes;
  }
  return 0;
}

}  // namespace

template <typename T>
Sum forward(const T* logits, const Wide<T>* target, int64_t n, const Terms& terms) {
  constexpr int64_t leaf_size = 512;
  Sum sum;
  if (n > leaf_size) {
    const int64_t half = (n / 2 + leaf_size - 1) / leaf_size * leaf_size;
    const Sum first = forward(logits, target, half, terms);
    const Sum second = forward(logits + half, target + half, n - half, terms);
    return {first.loss + second.loss, first.positives + second.positives};
  }
  Kernels<T> kernels{};
  const int64_t done = vectorised_count(n, terms, &kernels);
  if constexpr (std::is_same_v<Wide<T>, float>) {
    if (done > 0) kernels.forward(logits, target, done, static_cast<float>(terms.limit), &sum);
  }
  double rest[8] = {};
  for (int64_t i = done; i < n; ++i) {
    const auto now = element(static_cast<Wide<T>>(logits[i]), target[i], terms);
    rest[i % 8] += static_cast<double>(loss_of(now));
    sum.positives += now.positive;
  }
  sum.loss += ((rest[0] + rest[1]) + (rest[2] + rest[3])) + ((rest[4] + rest[5]) + (rest[6] + rest[7]));
  return sum;
}

template <typename T>
void backward(const T* logits, const Wide<T>* target, T* grad, int64_t n, const Terms& terms, Wide<T> scale) {
  Kernels<T> kernels{};
  const int64_t done = vectorised_count(n, terms, &kernels);
  if constexpr (std::is_same_v<Wide<T>, float>) {
    if (done > 0) kernels.backward(logits, target, grad, done, static_cast<float>(terms.limit), scale);
  }
  for (int64_t i = done; i < n; ++i) {
    const auto now = element(static_cast<Wide<T>>(logits[i]), target[i], terms);
    grad[i] = static_cast<T>(now.clamped ? Wide<T>(0) : scale * slope_of(now, terms));
  }
}

#define FOCAL_INSTANTIATE(T)                                                                      \
  template Sum forward<T>(const T*, const Wide<T>*, int64_t, const Terms&);                       \
  template void backward<T>(const T*, const Wide<T>*, T*, int64_t, const Terms&, Wide<T> scale);
FOCAL_INSTANTIATE(float)
FOCAL_INSTANTIATE(double)
FOCAL_INSTANTIATE(Half)
FOCAL_INSTANTIATE(BFloat16)
#undef FOCAL_INSTANTIATE

}  // namespace focal_loss
