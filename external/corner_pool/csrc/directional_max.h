// The directional maximum on plain pointers: no ATen, so that it can be reused.
//
// A scan over one axis of a dense tensor sees it as (outer, length, inner), whatever the tensor's layout. In a
// contiguous (B, C, H, W) tensor a scan over H has outer = B*C, inner = W, and one over W has outer = B*C*H, inner =
// 1; in channels_last (stored as B, H, W, C) they have outer = B, inner = W*C and outer = B*H, inner = C. So the same
// code serves both layouts and all directions.
//
// T is a floating type; Acc is the type sums are kept in (float for the 16-bit types, else T).
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__CUDACC__)
#define CORNER_POOL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CORNER_POOL_HOST_DEVICE inline
#endif

namespace corner_pool {

// Whether x, met later in the scan, takes over from the best so far. An equal value does not; a NaN does, and is never
// taken over from. (Bitwise and/or: no branches, so that loops over it vectorise.)
template <typename Acc>
CORNER_POOL_HOST_DEVICE bool takes_over(Acc x, Acc best) {
  return (x > best) | ((x != x) & (best == best));
}

// Where the scan is after `step` steps along its axis.
CORNER_POOL_HOST_DEVICE int64_t scan_position(int64_t step, int64_t length, bool reverse) {
  return reverse ? length - 1 - step : step;
}

// Columns of one outer index scanned together: wide enough to vectorise, few enough for their state to stay in L1.
constexpr int64_t kColumns = 256;
// Rows scanned together when inner == 1: hides the latency of each row's chain of comparisons.
constexpr int64_t kRows = 8;

// Work items the CPU functions below are split into; they are independent of one another.
inline int64_t work_items(int64_t outer, int64_t inner) {
  return inner == 1 ? (outer + kRows - 1) / kRows : outer * ((inner + kColumns - 1) / kColumns);
}

// inner == 1: `Rows` rows at a time, each contiguous along the scan.
template <int64_t Rows, typename T, typename Acc>
void scan_rows(const T* x, T* y, int64_t length, bool reverse) {
  if (length == 0) return;
  T best[Rows];
  for (int64_t r = 0; r < Rows; ++r) best[r] = x[r * length + scan_position(0, length, reverse)];
  for (int64_t step = 0; step < length; ++step) {
    const int64_t i = scan_position(step, length, reverse);
    for (int64_t r = 0; r < Rows; ++r) {
      const T value = x[r * length + i];
      best[r] = takes_over<Acc>(static_cast<Acc>(value), static_cast<Acc>(best[r])) ? value : best[r];
      y[r * length + i] = best[r];
    }
  }
}

template <int64_t Rows, typename T, typename Acc>
void scan_rows_backward(const T* grad, const T* x, T* grad_x, int64_t length, bool reverse) {
  if (length == 0) return;
  Acc best[Rows], sum[Rows];
  int64_t winner[Rows];
  for (int64_t r = 0; r < Rows; ++r) {
    winner[r] = scan_position(0, length, reverse);
    best[r] = static_cast<Acc>(x[r * length + winner[r]]);
    sum[r] = Acc(0);
  }
  for (int64_t step = 0; step < length; ++step) {
    const int64_t i = scan_position(step, length, reverse);
    for (int64_t r = 0; r < Rows; ++r) {
      const Acc value = static_cast<Acc>(x[r * length + i]);
      const Acc g = static_cast<Acc>(grad[r * length + i]);
      const bool take = takes_over<Acc>(value, best[r]);
      best[r] = take ? value : best[r];
      winner[r] = take ? i : winner[r];
      sum[r] = take ? g : sum[r] + g;
      grad_x[r * length + i] = static_cast<T>(Acc(0));
      grad_x[r * length + winner[r]] = static_cast<T>(sum[r]);
    }
  }
}

// y = running maximum of x along the scan, for the work items [begin, end).
template <typename T, typename Acc>
void directional_max_cpu(
    const T* x, T* y, int64_t outer, int64_t length, int64_t inner, bool reverse, int64_t begin, int64_t end) {
  if (inner == 1) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item * kRows;
      if (row + kRows <= outer) {
        scan_rows<kRows, T, Acc>(x + row * length, y + row * length, length, reverse);
      } else {
        for (int64_t r = row; r < outer; ++r) scan_rows<1, T, Acc>(x + r * length, y + r * length, length, reverse);
      }
    }
    return;
  }
  const int64_t chunks = (inner + kColumns - 1) / kColumns;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t start = item % chunks * kColumns;
    const int64_t columns = std::min(kColumns, inner - start);
    const int64_t base = item / chunks * length * inner + start;
    const T* previous = nullptr;
    for (int64_t step = 0; step < length; ++step) {
      const int64_t at = base + scan_position(step, length, reverse) * inner;
      const T* in = x + at;
      T* out = y + at;
      if (step == 0) {
        std::copy(in, in + columns, out);
      } else {
        for (int64_t k = 0; k < columns; ++k) {
          const T value = in[k], best = previous[k];
          out[k] = takes_over<Acc>(static_cast<Acc>(value), static_cast<Acc>(best)) ? value : best;
        }
      }
      previous = out;
    }
  }
}

// grad_x[i] = sum of grad over the positions whose maximum is x[i], added up in scan order, for the work items
// [begin, end). Every element of grad_x is written.
template <typename T, typename Acc>
void directional_max_backward_cpu(const T* grad, const T* x, T* grad_x, int64_t outer, int64_t length, int64_t inner,
                                  bool reverse, int64_t begin, int64_t end) {
  if (inner == 1) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item * kRows;
      const int64_t rows = std::min(kRows, outer - row);
      if (rows == kRows) {
        scan_rows_backward<kRows, T, Acc>(
            grad + row * length, x + row * length, grad_x + row * length, length, reverse);
      } else {
        for (int64_t r = row; r < outer; ++r) {
          scan_rows_backward<1, T, Acc>(grad + r * length, x + r * length, grad_x + r * length, length, reverse);
        }
      }
    }
    return;
  }
  const int64_t chunks = (inner + kColumns - 1) / kColumns;
  Acc best[kColumns], sum[kColumns];
  int64_t winner[kColumns];  // offset of the winner's row from base
  for (int64_t item = begin; item < end; ++item) {
    const int64_t start = item % chunks * kColumns;
    const int64_t columns = std::min(kColumns, inner - start);
    const int64_t base = item / chunks * length * inner + start;
    if (length == 0) return;
    const int64_t first = scan_position(0, length, reverse) * inner;
    for (int64_t k = 0; k < columns; ++k) {
      best[k] = static_cast<Acc>(x[base + first + k]);
      winner[k] = first;
      sum[k] = Acc(0);
    }
    for (int64_t step = 0; step < length; ++step) {
      const int64_t row = scan_position(step, length, reverse) * inner;
      const T* in = x + base + row;
      const T* g = grad + base + row;
      T* out = grad_x + base;
      for (int64_t k = 0; k < columns; ++k) {
        const Acc value = static_cast<Acc>(in[k]);
        const bool take = takes_over<Acc>(value, best[k]);
        best[k] = take ? value : best[k];
        winner[k] = take ? row : winner[k];
        sum[k] = take ? static_cast<Acc>(g[k]) : sum[k] + static_cast<Acc>(g[k]);
      }
      std::fill(out + row, out + row + columns, static_cast<T>(Acc(0)));
      for (int64_t k = 0; k < columns; ++k) out[winner[k] + k] = static_cast<T>(sum[k]);
    }
  }
}

}  // namespace corner_pool
