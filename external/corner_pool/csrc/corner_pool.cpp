// The operators for CPU tensors. ../__init__.py registers schemas, gradients and fake kernels.
#include <algorithm>
#include <memory>

#include "corner_pool.h"

namespace corner_pool {
namespace {

constexpr int64_t kElementsPerThread = 16384;  // smallest share of a thread, about 10 us of work
constexpr int64_t kMaxColumns = 16384;         // most columns per work item, so that the scan state fits into L2
constexpr int64_t kMinColumns = 2048;          // fewest, if the tensor has as many, so that an item reads whole pages
constexpr int64_t kScratchBytes = 192 * 1024;  // scratch of the backward kernel, fits into L2

// Calls f(item, scratch) for each item, on all threads. elements: of the whole tensor.
template <typename F>
void for_items(int64_t items, int64_t elements, int64_t scratch_bytes, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread * items / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<double[]> scratch(new double[scratch_bytes / sizeof(double) + 1]);
    for (int64_t item = begin; item < end; ++item) f(item, scratch.get());
  });
}

int64_t ceil_div(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

Tensor pool(const Tensor& x, int64_t dim, int64_t scan_code) {
  check(x, dim, scan_code);
  const Scan scan = static_cast<Scan>(scan_code);
  const auto kernel = kernels_for(format_of(x)).pool;
  const auto layout = layout_of(x);
  const Tensor input = torch::stable::contiguous(x, layout);
  Tensor output = native::empty_like(input, layout);
  if (input.numel() == 0) return output;
  const auto [outer, length, inner] = lines_of(input, dim, layout);
  const int64_t size = input.element_size();
  const auto in = static_cast<const char*>(input.const_data_ptr());
  const auto out = static_cast<char*>(output.mutable_data_ptr());
  // A scan over contiguous lines (inner == 1) treats a block of lines as a plane that is scanned over its width. Other
  // scans treat a block of columns as a plane with one pixel per row, which is scanned over its height.
  const int64_t rows = std::max<int64_t>(1, kElementsPerThread / length);
  const int64_t parts = ceil_div(torch::stable::get_num_threads(), outer);
  const int64_t width = std::clamp(ceil_div(inner, parts), kMinColumns, kMaxColumns);
  const int64_t chunks = inner == 1 ? 1 : ceil_div(inner, width);
  const int64_t items = inner == 1 ? ceil_div(outer, rows) : outer * chunks;
  const auto start = [&, length = length, inner = inner](int64_t item) {
    return inner == 1 ? item * rows * length : item / chunks * length * inner + item % chunks * width;
  };
  const auto run = [&, outer = outer, length = length, inner = inner](int64_t item, void* scratch) {
    const int64_t at = start(item), next = item + 1 < items ? start(item + 1) - at : 0;
    if (inner == 1) {
      const Plane plane{std::min(rows, outer - item * rows), length, length, 1, 1, next};
      kernel(nullptr, Scan::kForward, in + at * size, scan, out + at * size, plane, scratch);
    } else {
      const int64_t columns = std::min(width, inner - item % chunks * width);
      const Plane plane{length, inner, 1, columns, columns, next};
      kernel(in + at * size, scan, nullptr, Scan::kForward, out + at * size, plane, scratch);
    }
  };
  for_items(items, input.numel(), 2 * width * size, run);
  return output;
}

Tensor pool_sum(const Tensor& a, int64_t a_scan, const Tensor& b, int64_t b_scan) {
  check(a, 2, a_scan);
  check(b, 3, b_scan);
  check_same(a, b, "two maps");
  const auto kernel = kernels_for(format_of(a)).pool;
  const auto layout = layout_of(a);
  const Tensor first = torch::stable::contiguous(a, layout), second = torch::stable::contiguous(b, layout);
  Tensor output = native::empty_like(first, layout);
  if (first.numel() == 0) return output;
  const int64_t batch = a.size(0), channels = a.size(1), height = a.size(2), width = a.size(3);
  const bool channels_last = layout == MemoryFormat::ChannelsLast;
  // In channels_last, channels are divided among the threads as well if there are fewer images than threads. An item
  // gets at least one cache line of channels. Whole pixels are read and written faster than parts of pixels.
  const int64_t parts = ceil_div(torch::stable::get_num_threads(), batch);
  const int64_t chunk = channels_last ? std::max<int64_t>(32, ceil_div(channels, parts)) : 1;
  const int64_t chunks = ceil_div(channels, chunk), size = first.element_size();
  const auto in_a = static_cast<const char*>(first.const_data_ptr());
  const auto in_b = static_cast<const char*>(second.const_data_ptr());
  const auto out = static_cast<char*>(output.mutable_data_ptr());
  const auto start = [&](int64_t item) {
    if (!channels_last) return item * height * width;
    return item / chunks * channels * height * width + item % chunks * chunk;
  };
  const int64_t items = batch * chunks;
  for_items(items, first.numel(), (width + 1) * chunk * size, [&](int64_t item, void* scratch) {
    const int64_t at = start(item), next = item + 1 < items ? start(item + 1) - at : 0;
    const int64_t item_channels = std::min(chunk, channels - item % chunks * chunk);
    const Plane plane = channels_last ? Plane{height, width * channels, width, channels, item_channels, next}
                                      : Plane{height, width, width, 1, 1, next};
    kernel(in_a + at * size, static_cast<Scan>(a_scan), in_b + at * size, static_cast<Scan>(b_scan), out + at * size,
           plane, scratch);
  });
  return output;
}

Tensor pool_backward(const Tensor& grad, const Tensor& x, int64_t dim, int64_t scan_code) {
  check(x, dim, scan_code);
  check_same(grad, x, "gradient and input");
  const Scan scan = static_cast<Scan>(scan_code);
  const auto kernel = kernels_for(format_of(x)).backward;
  const auto layout = layout_of(x);
  const Tensor input = torch::stable::contiguous(x, layout), upstream = torch::stable::contiguous(grad, layout);
  Tensor output = native::empty_like(input, layout);
  if (input.numel() == 0) return output;
  const auto [outer, length, inner] = lines_of(input, dim, layout);
  const int64_t size = input.element_size();
  const auto in = static_cast<const char*>(input.const_data_ptr());
  const auto g = static_cast<const char*>(upstream.const_data_ptr());
  const auto out = static_cast<char*>(output.mutable_data_ptr());
  // A work item has as many columns as fit into the scratch.
  const int64_t bytes = (length + 2) * std::max<int64_t>(4, size) + length + 1;  // scratch per line
  const int64_t columns_per_item = std::clamp<int64_t>(kScratchBytes / bytes / 64 * 64, 64, kMaxColumns);
  const int64_t lines_per_item = inner == 1 ? 64 : columns_per_item;
  const int64_t side = inner == 1 ? outer : inner, groups = inner == 1 ? 1 : outer;
  const int64_t chunks = ceil_div(side, lines_per_item);
  const auto run = [&, length = length, inner = inner](int64_t item, void* scratch) {
    const int64_t line = item % chunks * lines_per_item, lines = std::min(lines_per_item, side - line);
    const int64_t start = (inner == 1 ? line * length : item / chunks * length * inner + line) * size;
    kernel(g + start, in + start, out + start, lines, length, inner, scan, scratch, kScratchBytes);
  };
  for_items(groups * chunks, input.numel(), kScratchBytes, run);
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(corner_pool, CPU, m) {
  m.impl("pool", TORCH_BOX(&pool));
  m.impl("pool_sum", TORCH_BOX(&pool_sum));
  m.impl("pool_backward", TORCH_BOX(&pool_backward));
}

}  // namespace corner_pool
