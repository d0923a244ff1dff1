// The operators for CPU tensors. ../__init__.py registers schemas, gradients and fake kernels.
#include "focal_loss.h"

#include <tuple>
#include <vector>

#include "cpu.h"

namespace focal_loss {
namespace {

// Elements per work item, about 10 us of work. It does not depend on the number of threads, so that results do not
// depend on it either.
constexpr int64_t kChunk = 16384;

int64_t chunks_of(int64_t n) { return (n + kChunk - 1) / kChunk; }

// Calls f(chunk index, first element, number of elements) for each chunk of n elements, on all threads.
template <typename F>
void for_chunks(int64_t n, const F& f) {
  torch::stable::parallel_for(0, chunks_of(n), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i, i * kChunk, std::min(kChunk, n - i * kChunk));
  });
}

std::tuple<Tensor, Tensor> loss(const Tensor& logits, const Tensor& target, double alpha, double beta, double eps) {
  check(logits, target);
  const Terms terms = terms_of(alpha, beta, eps);
  const auto layout = layout_of(logits);
  const Tensor x = torch::stable::contiguous(logits, layout), t = torch::stable::contiguous(target, layout);
  const int64_t n = x.numel();
  Tensor result = empty_scalar(logits, wide_of(logits)), positives = empty_scalar(logits, ScalarType::Long);
  native::dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto in = static_cast<const T*>(x.const_data_ptr());
    const auto targets = static_cast<const Wide<T>*>(t.const_data_ptr());
    std::vector<Sum> sums(chunks_of(n));
    for_chunks(n, [&](int64_t i, int64_t at, int64_t count) {
      sums[i] = forward(in + at, targets + at, count, terms);
    });
    Sum total;
    for (const Sum& sum : sums) {
      total.loss += sum.loss;
      total.positives += sum.positives;
    }
    *static_cast<Wide<T>*>(result.mutable_data_ptr()) =
        static_cast<Wide<T>>(total.loss / static_cast<double>(std::max<int64_t>(1, total.positives)));
    *static_cast<int64_t*>(positives.mutable_data_ptr()) = total.positives;
  });
  return {result, positives};
}

Tensor loss_backward(const Tensor& grad, const Tensor& positives, const Tensor& logits, const Tensor& target,
                     double alpha, double beta, double eps) {
  check(logits, target);
  check_scalars(grad, positives, logits);
  const Terms terms = terms_of(alpha, beta, eps);
  const auto layout = layout_of(logits);
  const Tensor x = torch::stable::contiguous(logits, layout), t = torch::stable::contiguous(target, layout);
  Tensor output = native::empty_like(x, layout);
  const int64_t n = x.numel();
  native::dispatch_floating(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const auto in = static_cast<const T*>(x.const_data_ptr());
    const auto targets = static_cast<const Wide<T>*>(t.const_data_ptr());
    const auto out = static_cast<T*>(output.mutable_data_ptr());
    const int64_t count = *static_cast<const int64_t*>(positives.const_data_ptr());
    const auto scale = *static_cast<const Wide<T>*>(grad.const_data_ptr()) /
                       static_cast<Wide<T>>(std::max<int64_t>(1, count));
    for_chunks(n, [&](int64_t, int64_t at, int64_t count) {
      backward(in + at, targets + at, out + at, count, terms, scale);
    });
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focal_loss, CPU, m) {
  m.impl("loss", TORCH_BOX(&loss));
  m.impl("loss_backward", TORCH_BOX(&loss_backward));
}

}  // namespace focal_loss
