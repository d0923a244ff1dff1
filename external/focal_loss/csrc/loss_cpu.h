// Kernels on explicit vectors for float32 arithmetic and the published exponents, alpha 2 and beta 4. No include guard:
// cpu.cpp includes it once per instruction set, with VECTOR_BYTES (see vectors.h).
#include "../../vectors.h"

constexpr int kLanes = lanes<float>;
using Floats = Vec<float, kLanes>;
using Ints = Vec<int32_t, kLanes>;
using Words = Vec<uint32_t, kLanes>;
using Doubles = Vec<double, kLanes>;

// Logits of the type T, whose bits are in the format F, as float32 and back.
template <typename F, typename T>
inline Floats load_logits(const T* from) {
  return F::template value<kLanes>(load<typename F::Bits, kLanes>(reinterpret_cast<const typename F::Bits*>(from)));
}
template <typename F, typename T>
inline void store_logits(T* to, Floats v) {
  store<kLanes>(reinterpret_cast<typename F::Bits*>(to), F::template bits<kLanes>(v));
}

// exp(-a), 0 <= a <= 87, to 1 ulp.
inline Floats exp_of_minus(Floats a) {
  constexpr float shift = 0x1.8p23f;  // its last place is 1: adding it rounds to a whole number, found in the low bits
  const Floats shifted = a * -0x1.715476p0f + shift, n = shifted - shift;
  // ln 2 in two parts; n times the first is exact
  const Floats r = (-a - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;
  // minimax on |r| <= ln(2) / 2
  Floats p = 0.0013901283964514732f * r + 0.008363146334886551f;
  p = p * r + 0.04166685417294502f;
  p = p * r + 0.16666577756404877f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  const Floats power = as<Floats>((as<Ints>(shifted) + 127) << 23);
  return p * power + power;
}

// log(1 + e), 0 <= e <= 1, to 2 ulp: minimax of log(1 + e) / e.
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

// Element of terms.h, of a vector.
struct Together {
  Words sign, clamped;  // of the slope; masks
  Ints positive;
  Floats weight, u, v, softplus;
};

inline Together element(Floats logit, Floats target, float limit) {
  Together result;
  result.positive = target == 1.0f;
  result.sign = as<Words>(result.positive) & 0x80000000;
  const Floats y = as<Floats>(as<Words>(logit) ^ result.sign);  // not clamped yet; its sign is all that is used
  const Floats magnitude = as<Floats>(as<Words>(logit) & 0x7fffffff);
  const auto above = magnitude > limit;
  const Floats a = above ? Floats{} + limit : magnitude;
  result.clamped = as<Words>(above);
  const Floats e = exp_of_minus(a), larger = 1.0f / (1.0f + e), smaller = e * larger;
  const auto rises = y > 0.0f;
  result.u = rises ? larger : smaller;
  result.v = rises ? smaller : larger;
  result.softplus = as<Floats>(as<Words>(rises) & as<Words>(a)) + log_of_one_plus(e);
  const Floats rest = 1.0f - target, squared = rest * rest;  // 0 at a positive
  const Floats one = as<Floats>(as<Words>(result.positive) & 0x3f800000);
  result.weight = (squared * squared + one) * (result.u * result.u);
  return result;
}

// n is a multiple of kLanes.
template <typename F, typename T>
void forward_block(const T* logits, const float* target, int64_t n, float limit, Sum* sum) {
  constexpr int64_t together = 16;  // added up in float32
  Doubles total{};
  Ints positives{};
  for (int64_t start = 0; start < n; start += together * kLanes) {
    const int64_t end = start + together * kLanes < n ? start + together * kLanes : n;
    Floats part{};
    for (int64_t i = start; i < end; i += kLanes) {
      const Together now = element(load_logits<F>(logits + i), load<float, kLanes>(target + i), limit);
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
    const Together now = element(load_logits<F>(logits + i), load<float, kLanes>(target + i), limit);
    const Floats slope = scale * (now.weight * (now.u + 2.0f * (now.v * now.softplus)));
    store_logits<F>(grad + i, as<Floats>((as<Words>(slope) ^ now.sign) & ~now.clamped));
  }
}

inline void choose(Kernels<float>* kernels) { *kernels = {kLanes, forward_block<F32>, backward_block<F32>}; }
inline void choose(Kernels<Half>* kernels) { *kernels = {kLanes, forward_block<F16>, backward_block<F16>}; }
inline void choose(Kernels<BFloat16>* kernels) { *kernels = {kLanes, forward_block<BF16>, backward_block<BF16>}; }
