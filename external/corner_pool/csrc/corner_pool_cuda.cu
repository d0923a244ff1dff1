// The operators for CUDA tensors. Gradients are summed in scan order without atomics, so that they are deterministic
// and equal to those of the CPU kernels. All indices are 64-bit.
//
// The kernels are bound by memory. A thread loads many elements before it uses the first of them, so that enough loads
// are in flight to hide their latency, and each element is written once (docs/native.md).
#include <cuda_runtime.h>

#include <algorithm>

#include "corner_pool.h"

namespace corner_pool {
namespace {

constexpr int kThreads = 256;               // per block of the column kernels, one thread per column
constexpr int kAhead = 16;                  // elements of a column that are loaded at once
constexpr int kTile = 32;                   // a warp's tile: 32 rows by 32 steps
constexpr int kWarps = 2;                   // warps per block of the row kernels: padded double tiles fit into 48 KiB
constexpr int kPairTile = 8192;             // most elements of a block's tile in pool_pair
constexpr int64_t kPairBytes = 48 * 1024;   // most shared memory of a block in pool_pair
constexpr int64_t kMaxBlocks = 65535 * 16;  // larger tensors are covered by grid-stride loops

// Whether a later value in the scan replaces the maximum so far. An equal value does not. A NaN replaces a number, and
// nothing replaces a NaN.
template <typename Wide>
__device__ __forceinline__ bool takes_over(Wide value, Wide best) {
  return value > best || (value != value && best == best);
}

template <typename Wide>
__device__ __forceinline__ void take(Wide value, Wide& best) {
  if (takes_over(value, best)) best = value;
}

// Loads the elements x[0], x[stride], x[2 * stride] ... The first `count` of them exist; the others repeat the last, so
// that the code has no branches. All loads are issued before a value is used.
template <int N, typename T, typename Wide>
__device__ __forceinline__ void load(const T* x, int64_t stride, int64_t count, Wide (&values)[N]) {
  const int exist = static_cast<int>(min(count, static_cast<int64_t>(N)));
  T loaded[N];
#pragma unroll
  for (int k = 0; k < N; ++k) {
    loaded[k] = *x;
    if (k + 1 < exist) x += stride;
  }
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] = static_cast<Wide>(loaded[k]);
}

// Stores the first `count` values at y[0], y[stride] ...
template <int N, typename T, typename Wide>
__device__ __forceinline__ void store(const Wide (&values)[N], int64_t stride, int64_t count, T* y) {
  const int exist = static_cast<int>(min(count, static_cast<int64_t>(N)));
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (k < exist) *y = static_cast<T>(values[k]);
    y += stride;
  }
}

// As `store`, but adds the values to y.
template <int N, typename T, typename Wide>
__device__ __forceinline__ void add(Wide (&values)[N], int64_t stride, int64_t count, T* y) {
  Wide before[N];
  load(y, stride, count, before);
#pragma unroll
  for (int k = 0; k < N; ++k) values[k] = before[k] + values[k];
  store(values, stride, count, y);
}

__device__ __forceinline__ int64_t first_of_grid() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Interleaved lines, one thread per line: neighbouring threads access neighbouring addresses.
template <typename T, typename Wide, bool Add>
__global__ void __launch_bounds__(kThreads) pool_columns(const T* __restrict__ x, T* __restrict__ y, Lines lines,
                                                         Scan scan) {
  const int64_t count = lines.outer * lines.inner, threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t stride = scan == Scan::kReverse ? -lines.inner : lines.inner;
  for (int64_t line = first_of_grid(); line < count; line += threads) {
    const int64_t base = line / lines.inner * lines.length * lines.inner + line % lines.inner;
    Wide best = 0;
    // For a whole line, the first pass computes the maximum and the second writes it
    for (int pass = scan == Scan::kWhole ? 0 : 1; pass < 2; ++pass) {
      for (int64_t start = 0; start < lines.length; start += kAhead) {
        const int64_t at = base + position(start, lines.length, scan) * lines.inner, here = lines.length - start;
        Wide values[kAhead];
        if (scan != Scan::kWhole || pass == 0) {
          load(x + at, stride, here, values);
          if (start == 0) best = values[0];
        }
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
          if (scan != Scan::kWhole || pass == 0) take(values[k], best);
          values[k] = best;
        }
        if (pass == 1 && Add) add(values, stride, here, y + at);
        if (pass == 1 && !Add) store(values, stride, here, y + at);
      }
    }
  }
}

// The backward pass of a line. A run is the part of a scan during which the maximum is the same element, the winner,
// which receives the run's gradients.
template <typename Wide>
struct Run {
  Wide best, sum;  // the maximum, and the sum of the gradients so far
  int64_t winner;  // a step of the scan
};

// Goes on by N steps from `start`, of which `count` exist. g: their gradients, which are replaced by the sums of the
// runs that begin at each step, up to the last of these steps; 0 where no run begins. If a run that began earlier ends,
// write(winner, sum) is called. value(k): the element at step k. In a scan of a whole line, the winner is the last
// element that attains the maximum, and its sum is not yet known: g becomes 0.
template <int N, typename Wide, typename Value, typename Write>
__device__ __forceinline__ void go_on(const Value& value, int64_t start, int64_t count, bool whole, Wide (&g)[N],
                                      Run<Wide>& run, const Write& write) {
  const int exist = static_cast<int>(min(count, static_cast<int64_t>(N)));
  const Wide earlier = run.sum;
  unsigned int begins = 0;  // bit k: a run begins at step k
  int last = 0;             // where the last one begins
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const Wide x = value(k);
    const bool first = start == 0 && k == 0, equal = whole && k < exist && (x == run.best || x != x);
    const bool replaces = first || takes_over(x, run.best) || equal;
    if (first || (replaces && !whole)) {
      run.sum = g[k];
    } else if (k < exist) {
      run.sum = run.sum + g[k];
    }
    g[k] = run.sum;
    if (replaces) {
      run.best = x;
      begins |= 1u << k;
      last = k;
    }
  }
  Wide sum = run.sum;  // of the run that step k belongs to; in the end, of the run that began earlier
#pragma unroll
  for (int k = N - 1; k >= 0; --k) {
    const bool begin = !whole && (begins >> k & 1);
    const Wide own = begin ? sum : Wide(0);
    if (begin) sum = k > 0 ? g[k > 0 ? k - 1 : 0] : earlier;
    g[k] = own;
  }
  // A run that ended with the steps before these and began in them is complete there
  if (!whole && begins != 0 && ((begins & 1) == 0 || run.winner < start - N)) write(run.winner, sum);
  if (begins != 0) run.winner = start + last;
}

// Calls write(winner, sum) at the end of a line, unless the last `go_on`, from `start`, has included that sum.
template <typename Wide, typename Write>
__device__ __forceinline__ void finish(const Run<Wide>& run, int64_t start, bool whole, const Write& write) {
  if (whole || run.winner < start) write(run.winner, run.sum);
}

template <typename T, typename Wide>
__global__ void __launch_bounds__(kThreads, 2)
    backward_columns(const T* __restrict__ grad, const T* __restrict__ x, T* __restrict__ grad_x, Lines lines,
                     Scan scan) {
  const int64_t count = lines.outer * lines.inner, threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t stride = scan == Scan::kReverse ? -lines.inner : lines.inner;
  const bool whole = scan == Scan::kWhole;
  for (int64_t line = first_of_grid(); line < count; line += threads) {
    const int64_t base = line / lines.inner * lines.length * lines.inner + line % lines.inner +
                         position(0, lines.length, scan) * lines.inner;
    const auto write = [&](int64_t step, Wide sum) { grad_x[base + step * stride] = static_cast<T>(sum); };
    Run<Wide> run{};
    for (int64_t start = 0; start < lines.length; start += kAhead) {
      const int64_t at = base + start * stride, here = lines.length - start;
      Wide values[kAhead], g[kAhead];
      load(x + at, stride, here, values);
      load(grad + at, stride, here, g);
      go_on([&](int k) { return values[k]; }, start, here, whole, g, run, write);
      store(g, stride, here, grad_x + at);
    }
    finish(run, (lines.length - 1) / kAhead * kAhead, whole, write);
  }
}

// Contiguous lines: a warp processes 32 of them. It loads and stores tiles of 32 rows by 32 steps along the rows
// (coalesced), one step per lane, and scans a tile with one row per lane. Tiles are padded by one column to avoid bank
// conflicts. Rows and steps that a tile lacks repeat its last.
template <typename T, typename Wide, bool Add>
__global__ void __launch_bounds__(kTile* kWarps)
    pool_rows(const T* __restrict__ x, T* __restrict__ y, int64_t rows, int64_t length, Scan scan) {
  __shared__ Wide tiles[kWarps][kTile][kTile + 1];
  auto& tile = tiles[threadIdx.y];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarps * kTile;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y) * kTile; row < rows; row += stride) {
    const int64_t height = rows - row;
    Wide best = 0;
    // For a whole line, the first pass computes the maximum and the second writes it
    for (int pass = scan == Scan::kWhole ? 0 : 1; pass < 2; ++pass) {
      for (int64_t start = 0; start < length; start += kTile) {
        const int64_t step = start + lane, at = row * length + position(min(step, length - 1), length, scan);
        const bool reads = scan != Scan::kWhole || pass == 0;
        Wide column[kTile];
        if (reads) {
          load(x + at, length, height, column);
#pragma unroll
          for (int r = 0; r < kTile; ++r) tile[r][lane] = column[r];
        }
        __syncwarp();
#pragma unroll
        for (int s = 0; s < kTile; ++s) {
          if (reads) {
            const Wide value = tile[lane][s];
            if ((start == 0 && s == 0) || takes_over(value, best)) best = value;
          }
          tile[lane][s] = best;
        }
        __syncwarp();
        if (step < length && pass == 1) {
#pragma unroll
          for (int r = 0; r < kTile; ++r) column[r] = tile[r][lane];
          if (Add) add(column, length, height, y + at);
          if (!Add) store(column, length, height, y + at);
        }
        __syncwarp();
      }
    }
  }
}

template <typename T, typename Wide>
__global__ void __launch_bounds__(kTile* kWarps, 6)
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
    const int64_t height = rows - row;
    const auto write = [&](int64_t step, Wide sum) {
      if (lane < height) grad_x[(row + lane) * length + position(step, length, scan)] = static_cast<T>(sum);
    };
    Run<Wide> run{};
    for (int64_t start = 0; start < length; start += kTile) {
      const int64_t step = start + lane, at = row * length + position(min(step, length - 1), length, scan);
      Wide column[kTile];
      load(x + at, length, height, column);
#pragma unroll
      for (int r = 0; r < kTile; ++r) values[r][lane] = column[r];
      load(grad + at, length, height, column);
#pragma unroll
      for (int r = 0; r < kTile; ++r) grads[r][lane] = column[r];
      __syncwarp();
      Wide g[kTile];
#pragma unroll
      for (int s = 0; s < kTile; ++s) g[s] = grads[lane][s];
      go_on([&](int s) { return values[lane][s]; }, start, length - start, whole, g, run, write);
#pragma unroll
      for (int s = 0; s < kTile; ++s) grads[lane][s] = g[s];
      __syncwarp();
      if (step < length) {
#pragma unroll
        for (int r = 0; r < kTile; ++r) column[r] = grads[r][lane];
        store(column, length, height, grad_x + at);
      }
      __syncwarp();  // also orders this before sums that are written later, by other lanes
    }
    finish(run, (length - 1) / kTile * kTile, whole, write);
  }
}

// Maps as dense planes (count, height, width, channels): B * C planes with one channel if they are contiguous, B planes
// with C channels in channels_last.
struct Planes {
  int64_t count, height, width, channels;
};

// How pool_pair divides a plane: `rows` rows and `group` channels at a time, with `threads` threads and `bytes` of
// shared memory per block. rows is 0 if the plane is too wide.
struct PairPlan {
  int rows, group, threads, bytes;
};

CORNER_POOL_HOST_DEVICE inline int pair_pitch(int threads, int group) { return (threads + 31) / 32 * 32 + group; }

// y = a scanned over the height + b scanned over the width, written once. A block processes some channels of a plane,
// Rows rows at a time in the order of the scan over the height. A thread has two tasks. It is responsible for a column,
// whose maximum it keeps. And it is responsible for a segment of Rows elements of a row of b: the maximum of each
// segment is shared, so that each segment can be scanned from the maximum of those before it.
// The pitch of the tile avoids bank conflicts in both.
template <typename T, typename Wide, int Rows>
__global__ void __launch_bounds__(kPairTile / Rows)
    pool_pair(const T* __restrict__ a, Scan a_scan, const T* __restrict__ b, Scan b_scan, T* __restrict__ y,
              Planes planes, int group) {
  extern __shared__ double shared_memory[];
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int pitch = pair_pitch(threads, group), lines = Rows * group, width = static_cast<int>(planes.width);
  const int column = thread / group, segment = thread / lines, line = thread % lines, channel = thread % group;
  Wide* const tile = reinterpret_cast<Wide*>(shared_memory);
  Wide* const maxima = tile + Rows * pitch;  // of each thread's segment
  const int steps = width - segment * Rows;  // of the segment and those after it
  const int b_stride = b_scan == Scan::kReverse ? -group : group;
  Wide* const elements =
      tile + line / group * pitch + static_cast<int>(position(segment * Rows, width, b_scan)) * group + channel;
  const int64_t groups = (planes.channels + group - 1) / group, height = planes.height, row = width * planes.channels;
  const int64_t a_stride = a_scan == Scan::kReverse ? -row : row;
  const bool a_whole = a_scan == Scan::kWhole, b_whole = b_scan == Scan::kWhole;
  for (int64_t item = blockIdx.x; item < planes.count * groups; item += gridDim.x) {
    const int64_t c = item % groups * group + channel;
    const bool inside = column < width && c < planes.channels;
    // The start of the scan over this thread's column, or over the last one
    const int64_t top = item / groups * height * row + position(0, height, a_scan) * row +
                        min(column, width - 1) * planes.channels + min(c, planes.channels - 1);
    Wide best = 0, values[Rows], others[Rows];
    for (int64_t start = 0; a_whole && start < height; start += Rows) {
      load(a + top + start * row, row, height - start, values);
      if (start == 0) best = values[0];
#pragma unroll
      for (int r = 0; r < Rows; ++r) take(values[r], best);
    }
    for (int64_t start = 0; start < height; start += Rows) {
      const int64_t at = top + start * a_stride, here = height - start;
      load(b + at, a_stride, here, others);
      if (!a_whole) load(a + at, a_stride, here, values);
      if (!a_whole && start == 0) best = values[0];
#pragma unroll
      for (int r = 0; r < Rows; ++r) tile[r * pitch + thread] = others[r];
      __syncthreads();
      load(elements, b_stride, steps, others);
      Wide highest = others[0];
#pragma unroll
      for (int s = 1; s < Rows; ++s) take(others[s], highest);
      maxima[thread] = highest;
      __syncthreads();
      highest = segment > 0 || b_whole ? maxima[line] : others[0];
      for (int i = line + lines; i < (b_whole ? threads : thread); i += lines) take(maxima[i], highest);
#pragma unroll
      for (int s = 0; s < Rows; ++s) {
        if (!b_whole) take(others[s], highest);
        others[s] = highest;
      }
      store(others, b_stride, steps, elements);
      __syncthreads();
#pragma unroll
      for (int r = 0; r < Rows; ++r) {
        if (!a_whole) take(values[r], best);
        values[r] = best + tile[r * pitch + thread];
      }
      if (inside) store(values, a_stride, here, y + at);
      __syncthreads();
    }
  }
}

unsigned int blocks_for(int64_t work, int64_t per_block) {
  return static_cast<unsigned int>(std::min(kMaxBlocks, (work + per_block - 1) / per_block));
}

Planes planes_of(const Tensor& x, MemoryFormat layout) {
  const int64_t b = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  return layout == MemoryFormat::ChannelsLast ? Planes{b, h, w, c} : Planes{b * c, h, w, 1};
}

// Channels are taken 16 bytes at a time, so that few parts of a 32-byte sector are loaded that another block needs, or
// fewer where the plane is too wide.
template <typename T, typename Wide>
PairPlan plan_pair(const Planes& planes) {
  constexpr int64_t size = sizeof(T);
  for (int64_t group = std::min(planes.channels, 16 / size); group > 0; group /= 2) {
    for (const int rows : {16, 8}) {
      const int64_t threads = (planes.width + rows - 1) / rows * rows * group;
      if (threads > kPairTile / rows) continue;
      const int per_block = static_cast<int>(threads), channels = static_cast<int>(group);
      const int bytes = (rows * pair_pitch(per_block, channels) + per_block) * static_cast<int>(sizeof(Wide));
      if (bytes <= kPairBytes) return {rows, channels, per_block, bytes};
    }
  }
  return {0, 0, 0, 0};
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

// y = a scanned over the height + b scanned over the width, in one kernel. Returns false if the maps are too wide.
bool run_pair(const Tensor& a, Scan a_scan, const Tensor& b, Scan b_scan, MemoryFormat layout, Tensor& y) {
  const Planes planes = planes_of(a, layout);
  const cudaStream_t stream = native::current_stream(a);
  bool fits = false;
  native::dispatch_floating(a.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Wide = typename native::Wide<T>::type;
    const PairPlan plan = plan_pair<T, Wide>(planes);
    fits = plan.rows > 0;
    if (!fits) return;
    const auto first = static_cast<const T*>(a.const_data_ptr()), second = static_cast<const T*>(b.const_data_ptr());
    const auto out = static_cast<T*>(y.mutable_data_ptr());
    const auto kernel = plan.rows == 16 ? pool_pair<T, Wide, 16> : pool_pair<T, Wide, 8>;
    kernel<<<blocks_for(planes.count * ((planes.channels + plan.group - 1) / plan.group), 1), plan.threads, plan.bytes,
             stream>>>(first, a_scan, second, b_scan, out, planes, plan.group);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return fits;
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
  if (!run_pair(first, static_cast<Scan>(a_scan), second, static_cast<Scan>(b_scan), layout, output)) {
    run_pool<false>(first, 2, static_cast<Scan>(a_scan), layout, output);
    run_pool<true>(second, 3, static_cast<Scan>(b_scan), layout, output);
  }
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
