// CPU kernels of the directional maximum. Schema, gradients and fake kernels are registered in ../__init__.py.
#include "corner_pool.h"
#include "directional_max.h"

namespace corner_pool {
namespace {

// Elements below which one thread does it all: about 10 us of work.
constexpr int64_t kElementsPerThread = 16384;

int64_t grain_size(const Tensor& x, int64_t items) {
  return std::max<int64_t>(1, kElementsPerThread * items / std::max<int64_t>(1, x.numel()));
}

Tensor directional_max(const Tensor& x, int64_t dim, bool reverse) {
  check_input(x, dim);
  const auto layout = layout_of(x);
  const auto input = torch::stable::contiguous(x, layout);
  auto output = empty_like(input, layout);
  if (input.numel() == 0) return output;
  const Scan scan = scan_of(input, dim, layout);
  const int64_t items = work_items(scan.outer, scan.inner);
  native::dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Acc = typename native::Wide<T>::type;
    const auto* in = input.const_data_ptr<T>();
    auto* out = output.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, items, grain_size(input, items), [&](int64_t begin, int64_t end) {
      directional_max_cpu<T, Acc>(
          in, out, scan.outer, scan.length, scan.inner, reverse, begin, end);
    });
  });
  return output;
}

Tensor directional_max_backward(const Tensor& grad, const Tensor& x, int64_t dim, bool reverse) {
  check_input(x, dim);
  check_grad(grad, x);
  const auto layout = layout_of(x);
  const auto input = torch::stable::contiguous(x, layout);
  const auto upstream = torch::stable::contiguous(grad, layout);
  auto output = empty_like(input, layout);
  if (input.numel() == 0) return output;
  const Scan scan = scan_of(input, dim, layout);
  const int64_t items = work_items(scan.outer, scan.inner);
  native::dispatch_floating(input.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using Acc = typename native::Wide<T>::type;
    const auto* g = upstream.const_data_ptr<T>();
    const auto* in = input.const_data_ptr<T>();
    auto* out = output.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, items, grain_size(input, items), [&](int64_t begin, int64_t end) {
      directional_max_backward_cpu<T, Acc>(
          g, in, out, scan.outer, scan.length, scan.inner, reverse, begin, end);
    });
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(corner_pool, CPU, m) {
  m.impl("directional_max", TORCH_BOX(&directional_max));
  m.impl("directional_max_backward", TORCH_BOX(&directional_max_backward));
}

}  // namespace corner_pool
