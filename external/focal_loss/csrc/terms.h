// The loss of one element and its derivative, for the CPU and CUDA. Does not depend on PyTorch.
//
// Let y = -logit at a positive (target 1) and y = logit elsewhere. Then both cases of the paper's equation 1, including
// its minus sign, are
//   w u^alpha softplus(y),  where u = sigmoid(y) and softplus(y) = -log(1 - u).
// w is 1 at a positive and (1 - target)^beta elsewhere. Clamping a score to [eps, 1 - eps] is the same as clamping its
// logit to [-limit, limit] with limit = log((1 - eps) / eps). The derivative of clamped elements is 0. NaNs are
// propagated. Elements with a negative target are masked: w is 0. Those of target -1 count as positives.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define FOCAL_HOST_DEVICE __host__ __device__
#else
#define FOCAL_HOST_DEVICE
#endif

namespace focal_loss {

struct Terms {
  double alpha, beta, limit;
};

// The type of the computation and of the target, for logits of type T.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename W>
FOCAL_HOST_DEVICE inline W power(W base, W exponent) {
  if (exponent == W(2)) return base * base;
  if (exponent == W(4)) return (base * base) * (base * base);
  return std::pow(base, exponent);
}

template <typename W>
struct Element {
  bool positive, clamped;
  W weight, u, v, softplus;  // w u^alpha, u, 1 - u, softplus(y)
};

template <typename W>
FOCAL_HOST_DEVICE inline Element<W> element(W logit, W target, const Terms& terms) {
  const bool positive = std::abs(target) == W(1), masked = target < W(0);
  const W limit = static_cast<W>(terms.limit), y = positive ? -logit : logit, magnitude = std::abs(logit);
  const bool clamped = magnitude > limit, rises = y > W(0);
  const W a = clamped ? limit : magnitude, e = std::exp(-a);
  const W larger = W(1) / (W(1) + e), smaller = e * larger, u = rises ? larger : smaller;
  const W penalty = masked ? W(0) : positive ? W(1) : power(W(1) - target, static_cast<W>(terms.beta));
  return {positive, clamped, penalty * power(u, static_cast<W>(terms.alpha)), u, rises ? smaller : larger,
          (rises ? a : W(0)) + std::log1p(e)};
}

template <typename W>
FOCAL_HOST_DEVICE inline W loss_of(const Element<W>& x) {
  return x.weight * x.softplus;
}

// The derivative of the loss of an element with respect to its logit, if that is not clamped; otherwise it is 0.
template <typename W>
FOCAL_HOST_DEVICE inline W slope_of(const Element<W>& x, const Terms& terms) {
  const W rising = x.weight * (x.u + static_cast<W>(terms.alpha) * (x.v * x.softplus));
  return x.positive ? -rising : rising;
}

}  // namespace focal_loss
