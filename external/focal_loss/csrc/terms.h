// One element of the loss and of its gradient, for the CPU and CUDA; no torch.
//
// With y = -logit at a positive (target 1) and y = logit elsewhere, both lines of the paper's equation 1 are
//   w u^alpha softplus(y),  u = sigmoid(y), softplus(y) = -log(1 - u), here positive,
// with w = 1 at a positive and (1 - target)^beta elsewhere. A score clamped to [eps, 1 - eps] is a logit clamped to
// [-limit, limit], limit = log((1 - eps) / eps); beyond there is no gradient. A NaN stays one.
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

// What is computed in for logits of type T; the target is of this type.
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
  const bool positive = target == W(1);
  const W limit = static_cast<W>(terms.limit), y = positive ? -logit : logit, magnitude = std::abs(logit);
  const bool clamped = magnitude > limit, rises = y > W(0);
  const W a = clamped ? limit : magnitude, e = std::exp(-a);
  const W larger = W(1) / (W(1) + e), smaller = e * larger, u = rises ? larger : smaller;
  const W penalty = positive ? W(1) : power(W(1) - target, static_cast<W>(terms.beta));
  return {positive, clamped, penalty * power(u, static_cast<W>(terms.alpha)), u, rises ? smaller : larger,
          (rises ? a : W(0)) + std::log1p(e)};
}

template <typename W>
FOCAL_HOST_DEVICE inline W loss_of(const Element<W>& x) {
  return x.weight * x.softplus;
}

// Derivative of the loss with respect to a logit that is not clamped. (That of one that is, is 0.)
template <typename W>
FOCAL_HOST_DEVICE inline W slope_of(const Element<W>& x, const Terms& terms) {
  const W rising = x.weight * (x.u + static_cast<W>(terms.alpha) * (x.v * x.softplus));
  return x.positive ? -rising : rising;
}

}  // namespace focal_loss
