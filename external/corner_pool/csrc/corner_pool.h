// What the CPU and CUDA parts share: input checks and the (outer, length, inner) view of a tensor.
#pragma once

#include "../../native.h"

namespace corner_pool {

using native::MemoryFormat;
using native::Tensor;

struct Scan {
  int64_t outer, length, inner;
};

// For memory's sake; messages for users come from ../__init__.py.
inline void check_input(const Tensor& x, int64_t dim) {
  STD_TORCH_CHECK(x.dim() == 4, "corner pooling expects a 4-D tensor (B, C, H, W), got ", x.dim(), "-D");
  STD_TORCH_CHECK(dim == 2 || dim == 3, "corner pooling scans dim 2 (height) or 3 (width), got dim ", dim);
}

inline void check_grad(const Tensor& grad, const Tensor& x) {
  const auto a = grad.sizes(), b = x.sizes();
  STD_TORCH_CHECK(a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()) &&
                      grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
                  "corner pooling's gradient must have the shape, dtype and device of its input");
}

// Whether the elements of a 4-D tensor lie in the order given by `dims`, slowest first, without gaps.
inline bool dense_in_order(const Tensor& x, std::initializer_list<int> dims) {
  int64_t expected = 1;
  for (auto dim = dims.end(); dim-- != dims.begin();) {
    if (x.size(*dim) == 1) continue;
    if (x.stride(*dim) != expected) return false;
    expected *= x.size(*dim);
  }
  return true;
}

// The layout the output will have: that of x if it is one of the two dense ones, else contiguous.
inline MemoryFormat layout_of(const Tensor& x) {
  const bool channels_last = !x.is_contiguous() && dense_in_order(x, {0, 2, 3, 1});
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

inline Tensor empty_like(const Tensor& x, MemoryFormat layout) {
  return torch::stable::empty(x.sizes(), x.scalar_type(), std::nullopt, x.device(), std::nullopt, layout);
}

inline Scan scan_of(const Tensor& x, int64_t dim, MemoryFormat layout) {
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  if (layout == MemoryFormat::ChannelsLast) {
    return dim == 2 ? Scan{b, h, w * c} : Scan{b * h, w, c};
  }
  return dim == 2 ? Scan{b * c, h, w} : Scan{b * c * h, w, 1};
}

}  // namespace corner_pool
