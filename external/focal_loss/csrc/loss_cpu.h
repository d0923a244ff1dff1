// SIMD kernels for float32 arithmetic and the published exponents, alpha 2 and beta 4. There is no include guard:
// cpu.cpp includes this file once per instruction set, with VECTOR_BYTES defined (see vectors.h).
#include "../../vectors.h"

constexpr int kLanes = lanes<float>;
using Floats = Vec<float, kLanes>;
using Ints = Vec<int32_t, kLanes>;
using Words = Vec<uint32_t, kLanes>;
using Doubles = Vec<double, kLanes>;

// Load logits of type T and format F as float32, and store float32 in that format.
template <typename F, typename T>
inline Floats load_logits(const T* from) {
  return F::template value<kLanes>(load<typename F::Bits, kLanes>(reinterpret_cast<const typename F::Bits*>(from)));
}
template <typename F, typename T>
inline void store_logits(T* to, Floats v) {
  store<kLanes>(reinterpret_cast<typename F::Bits*>(to), F::template bits<kLanes>(v));
}

// exp(-a) for 0 <= a <= 87, with an error of at most 1 ulp.
inline Floats exp_of_minus(Floats a) {
  constexpr float shift = 0x1.8p23f;  // its ulp is 1: adding it rounds to an integer, which is in the low bits
  const Floats shifted = a * -0x1.715476p0f + shift, n = shifted - shift;
  // ln 2 is split into two parts, so that n times the first part is exact
  const Floats r = (-a - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;
  // minimax polynomial on |r| <= ln(2) / 2
  Floats p = 0.0013901283964514732f * r + 0.008363146334886551f;
  p = p * r + 0.04166685417294502f;
  p = p * r + 0.16666577756404877f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  const Floats power = bit_cast<Floats>((bit_cast<Ints>(shifted) + 127) << 23);
  return p * power + power;
}

// log(1 + e) for 0 <= e <= 1, with an error of at most 2 ulp: a minimax polynomial of log(1 + e) / e.
inline Floats log_of_one_plus(Floats e) {
  Floats p = -0.0032439804635941982f * e + 0.019851261749863625f;
  p = p * e - 0.056959155946969986f;
  p = p * e + 0.10603616386651993f;
  p = p * e - 0.15305569767951965f;
  p = p * e + 0.19675931334495544f;
  p = p * e - 0.24954132735729218f;
  p = p * e + 0.3332996368408203f;
  p = p * e - 0.4999990165233612f;
  return p * (e * e) + e;
}

// `Element` of terms.h, for a vector of elements.
struct VectorElement {
  Words sign, clamped;  // sign bit of the derivative; mask of clamped elements
  Ints positive;
  Floats weight, u, v, softplus;
};

inline VectorElement element(Floats logit, Floats target, float limit) {
  VectorElement result;
  result.positive = bit_cast<Floats>(bit_cast<Words>(target) & 0x7fffffff) == 1.0f;
  result.sign = bit_cast<Words>(result.positive) & 0x80000000;
  const Floats y = bit_cast<Floats>(bit_cast<Words>(logit) ^ result.sign);  // not clamped; only its sign is used
  const Floats magnitude = bit_cast<Floats>(bit_cast<Words>(logit) & 0x7fffffff);
  const auto above = magnitude > limit;
  const Floats a = above ? Floats{} + limit : magnitude;
  result.clamped = bit_cast<Words>(above);
  const Floats e = exp_of_minus(a), larger = 1.0f / (1.0f + e), smaller = e * larger;
  const auto rises = y > 0.0f;
  result.u = rises ? larger : smaller;
  result.v = rises ? smaller : larger;
  result.softplus = bit_cast<Floats>(bit_cast<Words>(rises) & bit_cast<Words>(a)) + log_of_one_plus(e);
  const Floats rest = 1.0f - target, squared = rest * rest;  // both are 0 at positives
  const Floats one = bit_cast<Floats>(bit_cast<Words>(result.positive) & 0x3f800000);
  const Words masked = bit_cast<Words>(target < 0.0f);
  result.weight = bit_cast<Floats>(bit_cast<Words>((squared * squared + one) * (result.u * result.u)) & ~masked);
  return result;
}

// n must be a multiple of kLanes.
template <typename F, typename T>
void forward_block(const T* logits, const float* target, int64_t n, float limit, Sum* sum) {
  constexpr int64_t vectors_per_sum = 16;  // summed in float32; further sums are float64
  Doubles total{};
  Ints positives{};
  for (int64_t start = 0; start < n; start += vectors_per_sum * kLanes) {
    const int64_t end = start + vectors_per_sum * kLanes < n ? start + vectors_per_sum * kLanes : n;
    Floats part{};
    for (int64_t i = start; i < end; i += kLanes) {
      const VectorElement now = element(load_logits<F>(logits + i), load<float, kLanes>(target + i), limit);
      part += now.weight * now.softplus;
      positives -= now.positive;
    }
    total += __builtin_convertvector(part, Doubles);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    sum->loss += total[lane];
    sum->positives += positives[lane];
  }
}

template <typename F, typename T>
void backward_block(const T* logits, const float* target, T* grad, int64_t n, float limit, float scale) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const VectorElement now = element(load_logits<F>(logits + i), load<float, kLanes>(target + i), limit);
    const Floats slope = scale * (now.weight * (now.u + 2.0f * (now.v * now.softplus)));
    store_logits<F>(grad + i, bit_cast<Floats>((bit_cast<Words>(slope) ^ now.sign) & ~now.clamped));
  }
}

inline void choose(Kernels<float>* kernels) { *kernels = {kLanes, forward_block<F32>, backward_block<F32>}; }
inline void choose(Kernels<Half>* kernels) { *kernels = {kLanes, forward_block<F16>, backward_block<F16>}; }
inline void choose(Kernels<BFloat16>* kernels) { *kernels = {kLanes, forward_block<BF16>, backward_block<BF16>}; }
