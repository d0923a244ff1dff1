// What the CPU and CUDA parts share: checks of arguments and how kernels see a tensor.
#pragma once

#include "../../native.h"
#include "scan.h"

namespace corner_pool {

using native::layout_of;
using native::MemoryFormat;
using native::Tensor;

// For memory's sake; messages for users come from ../__init__.py.
inline void check(const Tensor& x, int64_t dim, int64_t scan) {
  STD_TORCH_CHECK(x.dim() == 4, "corner pooling expects a 4-D tensor (B, C, H, W), got ", x.dim(), "-D");
  STD_TORCH_CHECK(dim == 2 || dim == 3, "corner pooling scans dim 2 (height) or 3 (width), got dim ", dim);
  STD_TORCH_CHECK(scan >= 0 && scan <= 2, "corner pooling scans forward (0), reverse (1) or whole (2), got ", scan);
}

inline void check_same(const Tensor& a, const Tensor& b, const char* what) {
  const auto sizes = a.sizes(), others = b.sizes();
  STD_TORCH_CHECK(sizes.size() == others.size() && std::equal(sizes.begin(), sizes.end(), others.begin()) &&
                      a.scalar_type() == b.scalar_type() && a.device() == b.device(),
                  "corner pooling's ", what, " must have one shape, dtype and device");
}

inline Format format_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case native::ScalarType::Float: return Format::kFloat;
    case native::ScalarType::Double: return Format::kDouble;
    case native::ScalarType::Half: return Format::kHalf;
    case native::ScalarType::BFloat16: return Format::kBFloat16;
    default:
      STD_TORCH_CHECK(false, "corner pooling expects float32, float64, float16 or bfloat16, got ",
                      torch::headeronly::toString(x.scalar_type()));
  }
}

// Lines in memory: `outer` groups of `inner` lines side by side (one behind the other if inner is 1), of `length`
// elements that are `inner` apart. In a contiguous (B, C, H, W) tensor a scan over H has outer = B*C, inner = W, and
// one over W has outer = B*C*H, inner = 1; in channels_last (stored as B, H, W, C) they have outer = B, inner = W*C and
// outer = B*H, inner = C.
struct Lines {
  int64_t outer, length, inner;
};

inline Lines lines_of(const Tensor& x, int64_t dim, MemoryFormat layout) {
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  if (layout == MemoryFormat::ChannelsLast) return dim == 2 ? Lines{b, h, w * c} : Lines{b * h, w, c};
  return dim == 2 ? Lines{b * c, h, w} : Lines{b * c * h, w, 1};
}

}  // namespace corner_pool
