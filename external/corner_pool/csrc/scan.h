// The CPU kernels, on plain pointers: no torch, so that they can be built and checked alone.
#pragma once

#include <cstdint>

namespace corner_pool {

// How a line is scanned: y[i] is the maximum of the elements up to i (forward), from i on (reverse), of all (whole).
enum class Scan : int { kForward = 0, kReverse = 1, kWhole = 2 };

enum class Format : int { kFloat = 0, kDouble = 1, kHalf = 2, kBFloat16 = 3 };

#ifdef __CUDACC__
#define CORNER_POOL_HOST_DEVICE __host__ __device__
#else
#define CORNER_POOL_HOST_DEVICE
#endif

// Where a scan is after `step` steps along a line.
CORNER_POOL_HOST_DEVICE inline int64_t position(int64_t step, int64_t length, Scan scan) {
  return scan == Scan::kReverse ? length - 1 - step : step;
}

// height rows, `row` elements apart, of width pixels, `pixel` elements apart, of `channels` neighbouring elements.
// next: how many elements on the plane lies that comes next, to prefetch; 0 if none does.
struct Plane {
  int64_t height, row, width, pixel, channels, next = 0;
};

struct Kernels {
  // y = a scanned over the height + b scanned over the width; one of them may be null.
  // scratch: (width + 1) * channels elements.
  void (*pool)(const void* a, Scan a_scan, const void* b, Scan b_scan, void* y, const Plane& plane, void* scratch);
  // Gradients of `lines` lines of `length` elements, which are `stride` apart: if 1, a line follows the other, else
  // they lie side by side. scratch_size, in bytes, limits how many are done together.
  void (*backward)(const void* grad, const void* x, void* grad_x, int64_t lines, int64_t length, int64_t stride,
                   Scan scan, void* scratch, int64_t scratch_size);
};

// Those for the best instruction set this processor has.
Kernels kernels_for(Format format);

}  // namespace corner_pool
