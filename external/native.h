// Shared by the compiled operators: PyTorch's stable ABI (setup.py sets its version), dtype dispatch, memory formats.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace native {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The accumulation type: sums of values of type T are computed in Wide<T>::type.
template <typename T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};

// Calls f(T()), where T is the C++ type of a floating-point dtype.
template <typename F>
void dispatch_floating(ScalarType type, const F& f) {
  switch (type) {
    case ScalarType::Float: return f(float());
    case ScalarType::Double: return f(double());
    case ScalarType::Half: return f(Half());
    case ScalarType::BFloat16: return f(BFloat16());
    default: STD_TORCH_CHECK(false, "expected float32, float64, float16 or bfloat16, got ", toString(type));
  }
}

// The memory format in which a kernel reads a tensor and writes its result: channels_last if the tensor is dense in
// channels_last, else contiguous.
inline MemoryFormat layout_of(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return MemoryFormat::Contiguous;
  int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (x.size(dim) == 1) continue;
    if (x.stride(dim) != expected) return MemoryFormat::Contiguous;
    expected *= x.size(dim);
  }
  return MemoryFormat::ChannelsLast;
}

// An uninitialised tensor with the shape, dtype and device of x, dense in the given memory format.
inline Tensor empty_like(const Tensor& x, MemoryFormat layout) {
  Tensor y = torch::stable::empty(x.sizes(), x.scalar_type(), std::nullopt, x.device(), std::nullopt, layout);
#ifdef __linux__
  // The C library requests each large block from the system anew. The page faults on first access can take several
  // times as long as filling the memory. Huge pages reduce their number. madvise is only a hint: without huge pages
  // nothing changes.
  constexpr uintptr_t page = 4096, huge = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(y.mutable_data_ptr()) + page - 1) / page * page;
  const int64_t bytes = y.numel() * static_cast<int64_t>(y.element_size());
  if (y.is_cpu() && bytes >= static_cast<int64_t>(2 * huge)) {
    madvise(reinterpret_cast<void*>(begin), bytes / page * page - page, MADV_HUGEPAGE);
  }
#endif
  return y;
}

#ifdef USE_CUDA
inline cudaStream_t current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}
#endif

}  // namespace native
