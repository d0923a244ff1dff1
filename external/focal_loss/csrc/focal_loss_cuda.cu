// The operators for CUDA tensors. There is no host synchronisation. Results are deterministic: the order of summation
// depends only on the number of elements and their alignment. All indices are 64-bit.
#include <cuda_runtime.h>

#include <tuple>

#include "focal_loss.h"

namespace focal_loss {
namespace {

constexpr int kThreads = 256;
constexpr int kPackSize = 4;                // elements per load and store, if the tensors are aligned
constexpr int64_t kMaxPartialSums = 1024;   // one partial sum per block
constexpr int64_t kMaxBlocks = 65535 * 16;  // larger tensors are covered by grid-stride loops

template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];
};

__device__ __forceinline__ int64_t first_of_grid() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t stride_of_grid() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

struct Sum {
  double loss, positives;  // a double holds the number of positives exactly
};

// The sum over the threads of a block. The result is valid in thread 0.
__device__ Sum sum_of_block(Sum sum) {
  __shared__ Sum sums[kThreads];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      sums[threadIdx.x].loss += sums[threadIdx.x + half].loss;
      sums[threadIdx.x].positives += sums[threadIdx.x + half].positives;
    }
    __syncthreads();
  }
  return sums[0];
}

// Computes one partial sum per block. N: elements per load.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) partial_sums(const T* __restrict__ logits,
                                                         const Wide<T>* __restrict__ target, int64_t n, Terms terms,
                                                         Sum* __restrict__ sums) {
  Sum sum{0, 0};
  for (int64_t pack = first_of_grid(); pack < n / N; pack += stride_of_grid()) {
    const auto x = reinterpret_cast<const Pack<T, N>*>(logits)[pack];
    const auto t = reinterpret_cast<const Pack<Wide<T>, N>*>(target)[pack];
    Wide<T> loss = 0;
    int positives = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const auto now = element(static_cast<Wide<T>>(x.values[k]), t.values[k], terms);
      loss += loss_of(now);
      positives += now.positive;
    }
    sum.loss += static_cast<double>(loss);
    sum.positives += positives;
  }
  const int64_t last = n - n % N + first_of_grid();
  if (last < n) {
    const auto now = element(static_cast<Wide<T>>(logits[last]), target[last], terms);
    sum.loss += static_cast<double>(loss_of(now));
    sum.positives += now.positive;
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Adds up the partial sums, in a single block, and divides by the number of positives.
template <typename W>
__global__ void __launch_bounds__(kThreads)
    total_sum(const Sum* __restrict__ sums, int64_t count, W* __restrict__ loss, int64_t* __restrict__ positives) {
  Sum sum{0, 0};
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    sum.loss += sums[i].loss;
    sum.positives += sums[i].positives;
  }
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) {
    *loss = static_cast<W>(sum.loss / (sum.positives > 1 ? sum.positives : 1));
    *positives = static_cast<int64_t>(sum.positives);
  }
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    gradient(const Wide<T>* __restrict__ grad, const int64_t* __restrict__ positives, const T* __restrict__ logits,
             const Wide<T>* __restrict__ target, T* __restrict__ output, int64_t n, Terms terms) {
  const Wide<T> scale = *grad / static_cast<Wide<T>>(*positives > 1 ? *positives : 1);
  const auto one = [&](T x, Wide<T> t) {
    const auto now = element(static_cast<Wide<T>>(x), t, terms);
    return static_cast<T>(now.clamped ? Wide<T>(0) : scale * slope_of(now, terms));
  };
  for (int64_t pack = first_of_grid(); pack < n / N; pack += stride_of_grid()) {
    const auto x = reinterpret_cast<const Pack<T, N>*>(logits)[pack];
    const auto t = reinterpret_cast<const Pack<Wide<T>, N>*>(target)[pack];
    Pack<T, N> result;
#pragma unroll
    for (int k = 0; k < N; ++k) result.values[k] = one(x.values[k], t.values[k]);
    reinterpret_cast<Pack<T, N>*>(output)[pack] = result;
  }
  const int64_t last = n - n % N + first_of_grid();
  if (last < n) output[last] = one(logits[last], target[last]);
}

unsigned int blocks_for(int64_t n, int64_t most) {
  constexpr int64_t per_block = kThreads * kPackSize;
  return static_cast<unsigned int>(std::max<int64_t>(1, std::min(most, (n + per_block - 1) / per_block)));
}

bool aligned(const void* data, size_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

std::tuple<Tensor, Tensor> loss(const Tensor& logits, const Tensor& target, double alpha, double beta, double eps) {
  check(logits, target);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Terms terms = terms_of(alpha, beta, eps);
  const auto layout = layout_of(logits);
  const Tensor x = torch::stable::contiguous(logits, layout), t = torch::stable::contiguous(target, layout);
  Tensor result = empty_scalar(logits, wide_of(logits)), positives = empty_scalar(logits, ScalarType::Long);
  const int64_t n = x.numel();
  const unsigned int blocks = blocks_for(n, kMaxPartialSums);
  const int64_t doubles = 2 * static_cast<int64_t>(blocks);
  Tensor buffer = torch::stable::new_empty(logits, {doubles}, ScalarType::Double);
  const auto sums = static_cast<Sum*>(buffer.mutable_data_ptr());
  const cudaStream_t stream = native::current_stream(logits);
  native::dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto in = static_cast<const T*>(x.const_data_ptr());
    const auto targets = static_cast<const Wide<T>*>(t.const_data_ptr());
    if (aligned(in, kPackSize * sizeof(T)) && aligned(targets, kPackSize * sizeof(Wide<T>))) {
      partial_sums<T, kPackSize><<<blocks, kThreads, 0, stream>>>(in, targets, n, terms, sums);
    } else {
      partial_sums<T, 1><<<blocks, kThreads, 0, stream>>>(in, targets, n, terms, sums);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    total_sum<<<1, kThreads, 0, stream>>>(sums, blocks, static_cast<Wide<T>*>(result.mutable_data_ptr()),
                                          static_cast<int64_t*>(positives.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {result, positives};
}

Tensor loss_backward(const Tensor& grad, const Tensor& positives, const Tensor& logits, const Tensor& target,
                     double alpha, double beta, double eps) {
  check(logits, target);
  check_scalars(grad, positives, logits);
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const Terms terms = terms_of(alpha, beta, eps);
  const auto layout = layout_of(logits);
  const Tensor x = torch::stable::contiguous(logits, layout), t = torch::stable::contiguous(target, layout);
  Tensor output = native::empty_like(x, layout);
  const int64_t n = x.numel();
  if (n == 0) return output;
  const unsigned int blocks = blocks_for(n, kMaxBlocks);
  const cudaStream_t stream = native::current_stream(logits);
  native::dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto in = static_cast<const T*>(x.const_data_ptr());
    const auto targets = static_cast<const Wide<T>*>(t.const_data_ptr());
    const auto out = static_cast<T*>(output.mutable_data_ptr());
    const auto upstream = static_cast<const Wide<T>*>(grad.const_data_ptr());
    const auto count = static_cast<const int64_t*>(positives.const_data_ptr());
    const bool all_aligned = aligned(in, kPackSize * sizeof(T)) && aligned(targets, kPackSize * sizeof(Wide<T>)) &&
                             aligned(out, kPackSize * sizeof(T));
    const auto kernel = all_aligned ? gradient<T, kPackSize> : gradient<T, 1>;
    kernel<<<blocks, kThreads, 0, stream>>>(upstream, count, in, targets, out, n, terms);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focal_loss, CUDA, m) {
  m.impl("loss", TORCH_BOX(&loss));
  m.impl("loss_backward", TORCH_BOX(&loss_backward));
}

}  // namespace focal_loss
