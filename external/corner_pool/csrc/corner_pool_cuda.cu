// CUDA kernels of the directional maximum. They add gradients up in scan order, without atomics: deterministic, and
// equal to the CPU's.
#include <cuda_runtime.h>

#include "corner_pool.h"
#include "directional_max.h"

namespace corner_pool {
namespace {

constexpr int kThreads = 256;          // per block, one thread per column
constexpr int kTile = 32;              // a warp's tile: 32 rows by 32 steps
constexpr int kWarps = 2;              // per block of the row kernels: two padded double tiles per warp fit into 48 KiB
constexpr int64_t kMaxBlocks = 65535;  // further work is reached by striding

// inner > 1: one thread per column; neighbouring threads read neighbouring addresses.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kThreads)
    scan_columns_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t outer, int64_t length, int64_t inner,
                        bool reverse) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t column = start; column < outer * inner; column += stride) {
    const int64_t base = column / inner * length * inner + column % inner;
    T best = x[base + scan_position(0, length, reverse) * inner];
    for (int64_t step = 0; step < length; ++step) {
      const int64_t at = base + scan_position(step, length, reverse) * inner;
      const T value = x[at];
      if (takes_over<Acc>(static_cast<Acc>(value), static_cast<Acc>(best))) best = value;
      y[at] = best;
    }
  }
}

// grad_x comes zeroed; only elements that are the maximum somewhere are written.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kThreads)
    scan_columns_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x,
                                 int64_t outer, int64_t length, int64_t inner, bool reverse) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t column = start; column < outer * inner; column += stride) {
    const int64_t base = column / inner * length * inner + column % inner;
    int64_t winner = base + scan_position(0, length, reverse) * inner;
    Acc best = static_cast<Acc>(x[winner]);
    Acc sum = static_cast<Acc>(grad[winner]);
    for (int64_t step = 1; step < length; ++step) {
      const int64_t at = base + scan_position(step, length, reverse) * inner;
      const Acc value = static_cast<Acc>(x[at]);
      const Acc g = static_cast<Acc>(grad[at]);
      if (takes_over<Acc>(value, best)) {
        grad_x[winner] = static_cast<T>(sum);
        winner = at;
        best = value;
        sum = g;
      } else {
        sum += g;
      }
    }
    grad_x[winner] = static_cast<T>(sum);
  }
}

// inner == 1: a warp takes 32 rows. It reads and writes tiles of 32 rows by 32 steps along the rows (coalesced) and
// scans them across, one row per lane. Tiles are padded by one column against bank conflicts.
template <typename T, typename Acc>
__global__ void __launch_bounds__(kTile* kWarps)
    scan_rows_kernel(const T* __restrict__ x, T* __restrict__ y, int64_t rows, int64_t length, bool reverse) {
  __shared__ Acc tiles[kWarps][kTile][kTile + 1];
  auto& tile = tiles[threadIdx.y];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps * kTile;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y) * kTile; row < rows; row += stride) {
    const int height = static_cast<int>(min(static_cast<int64_t>(kTile), rows - row));
    Acc best = Acc(0);
    for (int64_t step = 0; step < length; step += kTile) {
      const int width = static_cast<int>(min(static_cast<int64_t>(kTile), length - step));
      const int64_t at = row * length + scan_position(step + lane, length, reverse);  // read only where lane < width
      if (lane < width) {
        for (int r = 0; r < height; ++r) tile[r][lane] = static_cast<Acc>(x[at + r * length]);
      }
      __syncwarp();
      if (lane < height) {
        for (int s = 0; s < width; ++s) {
          const Acc value = tile[lane][s];
          if ((step == 0 && s == 0) || takes_over<Acc>(value, best)) best = value;
          tile[lane][s] = best;
        }
      }
      __syncwarp();
      if (lane < width) {
        for (int r = 0; r < height; ++r) y[at + r * length] = static_cast<T>(tile[r][lane]);
      }
      __syncwarp();
    }
  }
}

template <typename T, typename Acc>
__global__ void __launch_bounds__(kTile* kWarps)
    scan_rows_backward_kernel(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x, int64_t rows,
                              int64_t length, bool reverse) {
  __shared__ Acc value_tiles[kWarps][kTile][kTile + 1];
  __shared__ Acc grad_tiles[kWarps][kTile][kTile + 1];
  auto& values = value_tiles[threadIdx.y];
  auto& grads = grad_tiles[threadIdx.y];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps * kTile;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y) * kTile; row < rows; row += stride) {
    const int height = static_cast<int>(min(static_cast<int64_t>(kTile), rows - row));
    T* out = grad_x + (row + lane) * length;  // written only where lane < height
    int64_t winner = 0;
    Acc best = Acc(0), sum = Acc(0);
    for (int64_t step = 0; step < length; step += kTile) {
      const int width = static_cast<int>(min(static_cast<int64_t>(kTile), length - step));
      const int64_t at = row * length + scan_position(step + lane, length, reverse);
      if (lane < width) {
        for (int r = 0; r < height; ++r) {
          values[r][lane] = static_cast<Acc>(x[at + r * length]);
          grads[r][lane] = static_cast<Acc>(grad[at + r * length]);
        }
      }
      __syncwarp();
      if (lane < height) {
        for (int s = 0; s < width; ++s) {
          const Acc value = values[lane][s];
          const bool first = step == 0 && s == 0;
          if (first || takes_over<Acc>(value, best)) {
            if (!first) out[winner] = static_cast<T>(sum);
            winner = scan_position(step + s, length, reverse);
            best = value;
            sum = grads[lane][s];
          } else {
            sum += grads[lane][s];
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

Tensor directional_max(const Tensor& x, int64_t dim, bool reverse) {
  check_input(x, dim);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto layout = layout_of(x);
  const auto input = torch::stable::contiguous(x, layout);
  auto output = empty_like(input, layout);
  if (input.numel() == 0) return output;
  const Scan scan = scan_of(input, dim, layout);
  const auto stream = native::current_stream(x);
  native::dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Acc = typename native::Wide<T>::type;
    const auto* in = input.const_data_ptr<T>();
    auto* out = output.mutable_data_ptr<T>();
    if (scan.inner == 1) {
      const auto blocks = blocks_for(scan.outer, kWarps * kTile);
      scan_rows_kernel<T, Acc><<<blocks, dim3(kTile, kWarps), 0, stream>>>(
          in, out, scan.outer, scan.length, reverse);
    } else {
      const auto blocks = blocks_for(scan.outer * scan.inner, kThreads);
      scan_columns_kernel<T, Acc><<<blocks, kThreads, 0, stream>>>(
          in, out, scan.outer, scan.length, scan.inner, reverse);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

Tensor directional_max_backward(const Tensor& grad, const Tensor& x, int64_t dim, bool reverse) {
  check_input(x, dim);
  check_grad(grad, x);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const auto layout = layout_of(x);
  const auto input = torch::stable::contiguous(x, layout);
  const auto upstream = torch::stable::contiguous(grad, layout);
  auto output = empty_like(input, layout);
  torch::stable::zero_(output);
  if (input.numel() == 0) return output;
  const Scan scan = scan_of(input, dim, layout);
  const auto stream = native::current_stream(x);
  native::dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Acc = typename native::Wide<T>::type;
    const auto* g = upstream.const_data_ptr<T>();
    const auto* in = input.const_data_ptr<T>();
    auto* out = output.mutable_data_ptr<T>();
    if (scan.inner == 1) {
      const auto blocks = blocks_for(scan.outer, kWarps * kTile);
      scan_rows_backward_kernel<T, Acc><<<blocks, dim3(kTile, kWarps), 0, stream>>>(
          g, in, out, scan.outer, scan.length, reverse);
    } else {
      const auto blocks = blocks_for(scan.outer * scan.inner, kThreads);
      scan_columns_backward_kernel<T, Acc><<<blocks, kThreads, 0, stream>>>(
          g, in, out, scan.outer, scan.length, scan.inner, reverse);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(corner_pool, CUDA, m) {
  m.impl("directional_max", TORCH_BOX(&directional_max));
  m.impl("directional_max_backward", TORCH_BOX(&directional_max_backward));
}

}  // namespace corner_pool
