// Schema of the directional maximum and its CPU kernels. Autograd and fake kernels are registered in ../__init__.py.
#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "corner_pool.h"
#include "directional_max.h"

namespace corner_pool {
namespace {

// Elements below which one thread does it all: about 10 us of work.
constexpr int64_t kElementsPerThread = 16384;

int64_t grain_size(const at::Tensor& x, int64_t items) {
  return std::max<int64_t>(1, kElementsPerThread * items / std::max<int64_t>(1, x.numel()));
}

at::Tensor directional_max(const at::Tensor& x, int64_t dim, bool reverse) {
  check_input(x, dim);
  const auto layout = layout_of(x);
  const auto input = x.contiguous(layout);
  auto output = at::empty_like(input, layout);
  if (input.numel() == 0) return output;
  const Scan scan = scan_of(input, dim, layout);
  const int64_t items = work_items(scan.outer, scan.inner);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "directional_max", [&] {
    const auto* in = input.const_data_ptr<scalar_t>();
    auto* out = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, items, grain_size(input, items), [&](int64_t begin, int64_t end) {
      directional_max_cpu<scalar_t, at::opmath_type<scalar_t>>(
          in, out, scan.outer, scan.length, scan.inner, reverse, begin, end);
    });
  });
  return output;
}

at::Tensor directional_max_backward(const at::Tensor& grad, const at::Tensor& x, int64_t dim, bool reverse) {
  check_input(x, dim);
  check_grad(grad, x);
  const auto layout = layout_of(x);
  const auto input = x.contiguous(layout);
  const auto upstream = grad.contiguous(layout);
  auto output = at::empty_like(input, layout);
  if (input.numel() == 0) return output;
  const Scan scan = scan_of(input, dim, layout);
  const int64_t items = work_items(scan.outer, scan.inner);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "directional_max_backward", [&] {
    const auto* g = upstream.const_data_ptr<scalar_t>();
    const auto* in = input.const_data_ptr<scalar_t>();
    auto* out = output.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, items, grain_size(input, items), [&](int64_t begin, int64_t end) {
      directional_max_backward_cpu<scalar_t, at::opmath_type<scalar_t>>(
          g, in, out, scan.outer, scan.length, scan.inner, reverse, begin, end);
    });
  });
  return output;
}

}  // namespace

TORCH_LIBRARY(corner_pool, m) {
  m.def("directional_max(Tensor x, int dim, bool reverse) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("directional_max_backward(Tensor grad, Tensor x, int dim, bool reverse) -> Tensor",
        {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(corner_pool, CPU, m) {
  m.impl("directional_max", directional_max);
  m.impl("directional_max_backward", directional_max_backward);
}

}  // namespace corner_pool
