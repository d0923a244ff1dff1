// Interface of the CPU kernels. It uses raw pointers and does not depend on PyTorch, so that the kernels can be built
// and tested on their own.
#pragma once

#include <cstdint>

namespace corner_pool {

// A line is a column (scan over the height) or a row (scan over the width) of a map. Scan modes: y[i] is the maximum of
// elements 0 to i (forward), of elements i to the last (reverse) or of all elements (whole).
enum class Scan : int { kForward = 0, kReverse = 1, kWhole = 2 };

enum class Format : int { kFloat = 0, kDouble = 1, kHalf = 2, kBFloat16 = 3 };

#ifdef __CUDACC__
#define CORNER_POOL_HOST_DEVICE __host__ __device__
#else
#define CORNER_POOL_HOST_DEVICE
#endif

// The index within the line that a scan visits at `step`.
CORNER_POOL_HOST_DEVICE inline int64_t position(int64_t step, int64_t length, Scan scan) {
  return scan == Scan::kReverse ? length - 1 - step : step;
}

// Layout of a plane: `height` rows of `width` pixels, each pixel with `channels` contiguous elements. `row` and `pixel`
// are the strides, in elements. `next` is the offset in elements to the plane that is processed next, for prefetching,
// or 0 if this is the last one.
struct Plane {
  int64_t height, row, width, pixel, channels, next = 0;
};

struct Kernels {
  // y = a scanned over the height + b scanned over the width. One of a and b may be null.
  // scratch: (width + 1) * channels elements.
  void (*pool)(const void* a, Scan a_scan, const void* b, Scan b_scan, void* y, const Plane& plane, void* scratch);
  // Gradients of `lines` lines of `length` elements that are `stride` elements apart. If stride is 1, the lines are
  // stored one after another; otherwise line k starts at element k.
  // scratch_size: bytes of scratch, which limits how many lines are processed at the same time.
  void (*backward)(const void* grad, const void* x, void* grad_x, int64_t lines, int64_t length, int64_t stride,
                   Scan scan, void* scratch, int64_t scratch_size);
};

// The kernels for the best instruction set of this processor.
Kernels kernels_for(Format format);

}  // namespace corner_pool
