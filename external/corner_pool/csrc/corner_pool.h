// What the CPU and CUDA parts share: input checks and the (outer, length, inner) view of a tensor.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace corner_pool {

struct Scan {
  int64_t outer, length, inner;
};

inline void check_input(const at::Tensor& x, int64_t dim) {
  TORCH_CHECK_VALUE(x.dim() == 4, "corner pooling expects a 4-D tensor (B, C, H, W), got ", x.dim(), "-D of shape ",
                    x.sizes());
  TORCH_CHECK_VALUE(dim == 2 || dim == 3, "corner pooling scans dim 2 (height) or 3 (width), got dim ", dim);
  const auto type = x.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
                   "corner pooling expects float32, float64, float16 or bfloat16, got ", type);
}

inline void check_grad(const at::Tensor& grad, const at::Tensor& x) {
  TORCH_CHECK_VALUE(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type() && grad.device() == x.device(),
                    "corner pooling's gradient must have the shape, dtype and device of its input: got ", grad.sizes(),
                    " ", grad.scalar_type(), " on ", grad.device(), " for ", x.sizes(), " ", x.scalar_type(), " on ",
                    x.device());
}

// The layout the output will have: that of x if it is one of the two dense ones, else contiguous.
inline at::MemoryFormat layout_of(const at::Tensor& x) {
  const bool channels_last = !x.is_contiguous() && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

inline Scan scan_of(const at::Tensor& x, int64_t dim, at::MemoryFormat layout) {
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  if (layout == at::MemoryFormat::ChannelsLast) {
    return dim == 2 ? Scan{b, h, w * c} : Scan{b * h, w, c};
  }
  return dim == 2 ? Scan{b * c, h, w} : Scan{b * c * h, w, 1};
}

}  // namespace corner_pool
