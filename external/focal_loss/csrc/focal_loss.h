// Shared by the CPU and CUDA operators: argument checks and allocation of scalar results.
#pragma once

#include <algorithm>
#include <cmath>

#include "../../native.h"
#include "terms.h"

namespace focal_loss {

using native::layout_of;
using native::MemoryFormat;
using native::ScalarType;
using native::Tensor;

inline ScalarType wide_of(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// These checks keep memory accesses in bounds. The checks with messages for users are in ../__init__.py.
inline void check(const Tensor& logits, const Tensor& target) {
  const auto sizes = logits.sizes(), others = target.sizes();
  STD_TORCH_CHECK(sizes.size() == others.size() && std::equal(sizes.begin(), sizes.end(), others.begin()) &&
                      target.scalar_type() == wide_of(logits) && logits.device() == target.device(),
                  "focal loss: logits and target must have the same shape and device, and the target must be float64 "
                  "for float64 logits, else float32");
}

inline void check_scalars(const Tensor& grad, const Tensor& positives, const Tensor& logits) {
  STD_TORCH_CHECK(grad.numel() == 1 && grad.scalar_type() == wide_of(logits) && grad.device() == logits.device() &&
                      positives.numel() == 1 && positives.scalar_type() == ScalarType::Long &&
                      positives.device() == logits.device(),
                  "focal loss: the upstream gradient (of the loss's dtype) and the number of positives (int64) must be "
                  "scalars on the logits' device");
}

inline Terms terms_of(double alpha, double beta, double eps) { return {alpha, beta, std::log((1 - eps) / eps)}; }

inline Tensor empty_scalar(const Tensor& x, ScalarType type) {
  return torch::stable::new_empty(x, torch::headeronly::IntHeaderOnlyArrayRef(), type);
}

}  // namespace focal_loss
