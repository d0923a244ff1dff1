// The operators for CUDA tensors. Gradients are summed in scan order without atomics, so that they are deterministic
// and equal to those of the CPU kernels. All indices are 64-bit.
#include <cuda_runtime.h>

#include <algorithm>

#include "corner_pool.h"

namespace corner_pool {
namespace {

constexpr int kThreads = 256;               // per block, one thread per column
constexpr int kAhead = 8;                   // elements of a column that are loaded at once
constexpr int kTile = 32;                   // a warp's tile: 32 rows by 32 steps
constexpr int kWarps = 2;                   // warps per block of the row kernels: padded double tiles fit into 48 KiB
constexpr int64_t kMaxBlocks = 65535 * 16;  // larger tensors are covered by grid-stride loops

// Whether a later value in the scan replaces the maximum so far. An equal value does not. A NaN replaces a number, and
// nothing replaces a NaN.
template <typename Wide>
__device__ __forceinline__ bool takes_over(Wide value, Wide best) {
  return value > best || (value != value && best == best);
}

template <typename Wide, typename T>
__device__ __forceinline__ Wide wide(T value) {
  return static_cast<Wide>(value);
}

// *y = value, or *y += value
template <bool Add, typename Wide, typename T>
__device__ __forceinline__ void write_value(Wide value, T* y) {
  *y = static_cast<T>(Add ? wide<Wide>(*y) + value : value);
}

__device__ __forceinline__ int64_t first_of_grid() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Interleaved lines, one thread per line: neighbouring threads access neighbouring addresses.
template <typename T, typename Wide, bool Add>
__global__ void __launch_bounds__(kThreads) pool_columns(const T* __restrict__ x, T* __restrict__ y, Lines lines,
                                                         Scan scan) {
  const int64_t count = lines.outer * lines.inner, stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t line = first_of_grid(); line < count; line += stride) {
    const int64_t base = line / lines.inner * lines.length * lines.inner + line % lines.inner;
    Wide best = wide<Wide>(x[base + position(0, lines.length, scan) * lines.inner]);
    for (int64_t start = 0; start < lines.length; start += kAhead) {
      Wide values[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int64_t i = start + k < lines.length ? start + k : lines.length - 1;
        values[k] = wide<Wide>(x[base + position(i, lines.length, scan) * lines.inner]);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (start + k >= lines.length) break;
        if (takes_over(values[k], best)) best = values[k];
        if (scan != Scan::kWhole) {
          write_value<Add>(best, y + base + position(start + k, lines.length, scan) * lines.inner);
        }
      }
    }
    if (scan != Scan::kWhole) continue;
    for (int64_t i = 0; i < lines.length; ++i) write_value<Add>(best, y + base + i * lines.inner);
  }
}

// grad_x must be zeroed: only the elements that receive a gradient are written. In a scan of a whole line that is the
// last element that attains the maximum.
template <typename T, typename Wide>
__global__ void __launch_bounds__(kThreads)
    backward_columns(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x, Lines lines,
                     Scan scan) {
  const int64_t count = lines.outer * lines.inner, stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const bool whole = scan == Scan::kWhole;
  for (int64_t line = first_of_grid(); line < count; line += stride) {
    const int64_t base = line / lines.inner * lines.length * lines.inner + line % lines.inner;
    Wide best = 0, sum = 0;
    int64_t winner = 0;
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t at = base + position(i, lines.length, scan) * lines.inner;
      const Wide value = wide<Wide>(x[at]), g = wide<Wide>(grad[at]);
      const bool replaces = i == 0 || takes_over(value, best) || (whole && (value == best || value != value));
      if (replaces && i > 0 && !whole) grad_x[winner] = static_cast<T>(sum);
      sum = i == 0 || (replaces && !whole) ? g : sum + g;
      if (replaces) {
        winner = at;
        best = value;
      }
    }
    grad_x[winner] = static_cast<T>(sum);
  }
}

// Contiguous lines: a warp processes 32 of them. It loads and stores tiles of 32 rows by 32 steps along the rows
// (coalesced), and scans a tile with one row per lane. Tiles are padded by one column to avoid bank conflicts.
template <typename T, typename Wide, bool Add>
__global__ void __launch_bounds__(kTile* kWarps)
    pool_rows(const T* __restrict__ x, T* __restrict__ y, int64_t rows, int64_t length, Scan scan) {
  __shared__ Wide tiles[kWarps][kTile][kTile + 1];
  auto& tile = tiles[threadIdx.y];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps * kTile;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y) * kTile; row < rows; row += stride) {
    const int height = static_cast<int>(min(static_cast<int64_t>(kTile), rows - row));
    Wide best = 0;
    // For a whole line, the first pass computes the maximum and the second writes it
    for (int pass = scan == Scan::kWhole ? 0 : 1; pass < 2; ++pass) {
      for (int64_t step = 0; step < length; step += kTile) {
        const int width = static_cast<int>(min(static_cast<int64_t>(kTile), length - step));
        const int64_t at = row * length + position(step + lane, length, scan);  // used only where lane < width
        const bool reads = scan != Scan::kWhole || pass == 0;
        if (lane < width && reads) {
          for (int r = 0; r < height; ++r) tile[r][lane] = wide<Wide>(x[at + r * length]);
        }
        __syncwarp();
        if (lane < height) {
          for (int s = 0; s < width; ++s) {
            if (reads) {
              const Wide value = tile[lane][s];
              if ((step == 0 && s == 0) || takes_over(value, best)) best = value;
            }
            tile[lane][s] = best;
          }
        }
        __syncwarp();
        if (lane < width && pass == 1) {
          for (int r = 0; r < height; ++r) write_value<Add>(tile[r][lane], y + at + r * length);
        }
        __syncwarp();
      }
    }
  }
}

template <typename T, typename Wide>
__global__ void __launch_bounds__(kTile* kWarps)
    backward_rows(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x, int64_t rows,
                  int64_t length, Scan scan) {
  __shared__ Wide value_tiles[kWarps][kTile][kTile + 1];
  __shared__ Wide grad_tiles[kWarps][kTile][kTile + 1];
  auto& values = value_tiles[threadIdx.y];
  auto& grads = grad_tiles[threadIdx.y];
  const int lane = static_cast<int>(threadIdx.x);
  const bool whole = scan == Scan::kWhole;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps * kTile;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y) * kTile; row < rows; row += stride) {
    const int height = static_cast<int>(min(static_cast<int64_t>(kTile), rows - row));
    T* const out = grad_x + (row + lane) * length;  // used only where lane < height
    int64_t winner = 0;
    Wide best = 0, sum = 0;
    for (int64_t step = 0; step < length; step += kTile) {
      const int width = static_cast<int>(min(static_cast<int64_t>(kTile), length - step));
      const int64_t at = row * length + position(step + lane, length, scan);
      if (lane < width) {
        for (int r = 0; r < height; ++r) {
          values[r][lane] = wide<Wide>(x[at + r * length]);
          grads[r][lane] = wide<Wide>(grad[at + r * length]);
        }
      }
      __syncwarp();
      if (lane < height) {
        for (int s = 0; s < width; ++s) {
          const Wide value = values[lane][s], g = grads[lane][s];
          const bool first = step == 0 && s == 0;
          const bool replaces = first || takes_over(value, best) || (whole && (value == best || value != value));
          if (replaces && !first && !whole) out[winner] = static_cast<T>(sum);
          sum = first || (replaces && !whole) ? g : sum + g;
          if (replaces) {
            winner = position(step + s, length, scan);
            best = value;
          }
        }
      }
      __syncwarp();
    }
    if (lane < height) out[winner] = static_cast<T>(sum);
  }
}

unsigned int blocks_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned int>(std::min(kMaxBlocks, (work + per_block - 1) / per_block));
}

// y = x scanned over a dimension, or y += that. Both tensors are dense in the given memory format.
template <bool Add>
void run_pool(const Tensor& x, int64_t dim, Scan scan, MemoryFormat layout, Tensor& y) {
  const Lines lines = lines_of(x, dim, layout);
  const cudaStream_t stream = native::current_stream(x);
  native::dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Wide = typename native::Wide<T>::type;
    const auto in = static_cast<const T*>(x.const_data_ptr());
    const auto out = static_cast<T*>(y.mutable_data_ptr());
    if (lines.inner == 1) {
      pool_rows<T, Wide, Add><<<blocks_for(lines.outer, kWarps * kTile), dim3(kTile, kWarps), 0, stream>>>(
          in, out, lines.outer, lines.length, scan);
    } else {
      pool_columns<T, Wide, Add>
          <<<blocks_for(lines.outer * lines.inner, kThreads), kThreads, 0, stream>>>(in, out, lines, scan);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

Tensor pool(const Tensor& x, int64_t dim, int64_t scan) {
  check(x, dim, scan);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto layout = layout_of(x);
  const Tensor input = torch::stable::contiguous(x, layout);
  Tensor output = native::empty_like(input, layout);
  if (input.numel() > 0) run_pool<false>(input, dim, static_cast<Scan>(scan), layout, output);
  return output;
}

Tensor pool_sum(const Tensor& a, int64_t a_scan, const Tensor& b, int64_t b_scan) {
  check(a, 2, a_scan);
  check(b, 3, b_scan);
  check_same(a, b, "two maps");
  const torch::stable::accelerator::DeviceGuard guard(a.get_device_index());
  const auto layout = layout_of(a);
  const Tensor first = torch::stable::contiguous(a, layout), second = torch::stable::contiguous(b, layout);
  Tensor output = native::empty_like(first, layout);
  if (first.numel() == 0) return output;
  run_pool<false>(first, 2, static_cast<Scan>(a_scan), layout, output);
  run_pool<true>(second, 3, static_cast<Scan>(b_scan), layout, output);
  return output;
}

Tensor pool_backward(const Tensor& grad, const Tensor& x, int64_t dim, int64_t scan_code) {
  check(x, dim, scan_code);
  check_same(grad, x, "gradient and input");
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Scan scan = static_cast<Scan>(scan_code);
  const auto layout = layout_of(x);
  const Tensor input = torch::stable::contiguous(x, layout), upstream = torch::stable::contiguous(grad, layout);
  Tensor output = native::empty_like(input, layout);
  if (input.numel() == 0) return output;
  torch::stable::zero_(output);
  const Lines lines = lines_of(input, dim, layout);
  const cudaStream_t stream = native::current_stream(x);
  native::dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Wide = typename native::Wide<T>::type;
    const auto g = static_cast<const T*>(upstream.const_data_ptr());
    const auto in = static_cast<const T*>(input.const_data_ptr());
    const auto out = static_cast<T*>(output.mutable_data_ptr());
    if (lines.inner == 1) {
      backward_rows<T, Wide><<<blocks_for(lines.outer, kWarps * kTile), dim3(kTile, kWarps), 0, stream>>>(
          g, in, out, lines.outer, lines.length, scan);
    } else {
      backward_columns<T, Wide>
          <<<blocks_for(lines.outer * lines.inner, kThreads), kThreads, 0, stream>>>(g, in, out, lines, scan);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(corner_pool, CUDA, m) {
  m.impl("pool", TORCH_BOX(&pool));
  m.impl("pool_sum", TORCH_BOX(&pool_sum));
  m.impl("pool_backward", TORCH_BOX(&pool_backward));
}

}  // namespace corner_pool
