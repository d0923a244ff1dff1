// Shared by the CPU and CUDA operators: argument checks, and the tensor layout that the kernels work on.
#pragma once

#include "../../native.h"
#include "scan.h"

namespace corner_pool {

using native::layout_of;
using native::MemoryFormat;
using native::Tensor;

// These checks keep memory accesses in bounds. The checks with messages for users are in ../__init__.py.
inline void check(const Tensor& x, int64_t dim, int64_t scan) {
  STD_TORCH_CHECK(x.dim() == 4, "corner pooling expects a 4-D tensor (B, C, H, W), got ", x.dim(), "-D");
  STD_TORCH_CHECK(dim == 2 || dim == 3, "corner pooling scans dim 2 (height) or 3 (width), got dim ", dim);
  STD_TORCH_CHECK(scan >= 0 && scan <= 2, "corner pooling scans forward (0), reverse (1) or whole (2), got ", scan);
}

inline void check_same(const Tensor& a, const Tensor& b, const char* what) {
  const auto sizes = a.sizes(), others = b.sizes();
  STD_TORCH_CHECK(sizes.size() == others.size() && std::equal(sizes.begin(), sizes.end(), others.begin()) &&
                      a.scalar_type() == b.scalar_type() && a.device() == b.device(),
                  "corner pooling: ", what, " must have the same shape, dtype and device");
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

// The lines of a tensor in memory: `outer` groups of `inner` interleaved lines. A line has `length` elements that are
// `inner` elements apart; if inner is 1, the lines are contiguous.
//   contiguous (B, C, H, W):              scan over H: outer = B*C, inner = W;   over W: outer = B*C*H, inner = 1
//   channels_last (stored as B, H, W, C): scan over H: outer = B,   inner = W*C; over W: outer = B*H,   inner = C
struct Lines {
  int64_t outer, length, inner;
};

inline Lines lines_of(const Tensor& x, int64_t dim, MemoryFormat layout) {
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  if (layout == MemoryFormat::ChannelsLast) return dim == 2 ? Lines{b, h, w * c} : Lines{b * h, w, c};
  return dim == 2 ? Lines{b * c, h, w} : Lines{b * c * h, w, 1};
}

}  // namespace corner_pool
