// The CPU kernels, on plain pointers.
#pragma once

#include <cstdint>

#include "terms.h"

namespace focal_loss {

struct Sum {
  double loss = 0;
  int64_t positives = 0;
};

// The sum over n elements, added up in pairs. T: float, double, or torch's Half or BFloat16.
template <typename T>
Sum forward(const T* logits, const Wide<T>* target, int64_t n, const Terms& terms);

// grad[i] = scale * the derivative of element i.
template <typename T>
void backward(const T* logits, const Wide<T>* target, T* grad, int64_t n, const Terms& terms, Wide<T> scale);

}  // namespace focal_loss
