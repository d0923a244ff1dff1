// Interface of the CPU kernels, which use raw pointers.
#pragma once

#include <cstdint>

#include "terms.h"

namespace focal_loss {

struct Sum {
  double loss = 0;
  int64_t positives = 0;
};

// The sum of the loss and the number of positives over n elements, by pairwise summation. T: float, double, or
// PyTorch's Half or BFloat16.
template <typename T>
Sum forward(const T* logits, const Wide<T>* target, int64_t n, const Terms& terms);

// grad[i] = scale * the derivative of the loss of element i.
template <typename T>
void backward(const T* logits, const Wide<T>* target, T* grad, int64_t n, const Terms& terms, Wide<T> scale);

}  // namespace focal_loss
