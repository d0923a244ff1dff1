// The CPU kernels. There is no include guard: scan_cpu.cpp includes this file once per instruction set. It defines
// VECTOR_BYTES (see vectors.h) and SCAN_SHUFFLE16: whether 16-bit elements can be shuffled across a whole vector.
#include "../../vectors.h"

// The number of lanes in scans along contiguous elements, which shuffle vectors.
#ifdef VECTOR_BYTES
template <typename T>
constexpr int row_lanes = sizeof(T) > 2 || SCAN_SHUFFLE16 ? lanes<T> : 16 / static_cast<int>(sizeof(T));
#else
template <typename T>
constexpr int row_lanes = 1;
#endif

// The signed integer type of a given size: the element type of vector comparisons and of shuffle indices.
template <int Bytes>
struct IntegerOf;
template <>
struct IntegerOf<2> {
  using type = int16_t;
};
template <>
struct IntegerOf<4> {
  using type = int32_t;
};
template <>
struct IntegerOf<8> {
  using type = int64_t;
};
template <typename T>
using Integer = typename IntegerOf<sizeof(T)>::type;

// Stores the result of a comparison of L lanes in at most L bytes.
template <int L, typename I>
inline void store_mask(int8_t* to, I mask) {
#if VECTOR_BYTES == 64
  if constexpr (sizeof mask == 64) {
    const auto bits = L == 16 ? static_cast<uint16_t>(_mm512_movepi32_mask(bit_cast<__m512i>(mask)))
                              : static_cast<uint16_t>(_mm512_movepi64_mask(bit_cast<__m512i>(mask)));
    std::memcpy(to, &bits, sizeof bits);
    return;
  }
#endif
  store<L>(to, convert<int8_t, L>(mask));
}

template <typename I, int L>
inline Vec<I, L> load_mask(const int8_t* from) {
#if VECTOR_BYTES == 64
  if constexpr (sizeof(Vec<I, L>) == 64) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bit_cast<Vec<I, L>>(L == 16 ? _mm512_movm_epi32(bits) : _mm512_movm_epi64(static_cast<uint8_t>(bits)));
  }
#endif
  return convert<I, L>(load<int8_t, L>(from));
}

// The format of values that are already in their accumulation type.
template <typename T>
struct Unconverted {
  using Bits = T;
  using Wide = T;
  template <int L>
  static inline Vec<T, L> value(Vec<T, L> value) {
    return value;
  }
  template <int L>
  static inline Vec<T, L> bits(Vec<T, L> value) {
    return value;
  }
};

// Maxima are computed on keys: integers in the same order as the floating-point values, with -0 before +0. Every NaN
// has the largest key, so that a maximum that includes a NaN is NaN. from_key inverts to_key, except that all NaNs
// become the same one.
template <typename Bits>
constexpr Bits largest_key = static_cast<Bits>(~(uint64_t(1) << (sizeof(Bits) * 8 - 1)));
template <typename Bits>
constexpr Bits smallest_key = static_cast<Bits>(~largest_key<Bits>);

template <int L, typename Bits>
inline Vec<Bits, L> from_key(Vec<Bits, L> key) {
  return key ^ ((key >> (sizeof(Bits) * 8 - 1)) & largest_key<Bits>);
}

template <typename F, int L, typename Bits = typename F::Bits>
inline Vec<Bits, L> to_key(Vec<Bits, L> bits) {
  const Vec<Bits, L> magnitude = bits & largest_key<Bits>;
  const Vec<Bits, L> key = from_key<L, Bits>(bits);
  return magnitude > F::infinity ? splat<Bits, L>(largest_key<Bits>) : key;
}

// y = the values of keys, or (Add) the sum of the values of two keys, in the arithmetic of the format.
template <typename F, bool Add, int L, typename Bits = typename F::Bits>
inline void write_values(Vec<Bits, L> key, const Bits* other, Bits* y) {
  Vec<Bits, L> bits = from_key<L, Bits>(key);
  if constexpr (Add) {
    const Vec<Bits, L> more = from_key<L, Bits>(load<Bits, L>(other));
    bits = F::template bits<L>(F::template value<L>(more) + F::template value<L>(bits));
  }
  store<L>(y, bits);
}

// The number of lanes for write_values. Sums are computed in the accumulation type, of which fewer values fit.
template <typename F, bool Add>
constexpr int write_lanes = Add ? lanes<typename F::Wide> : lanes<typename F::Bits>;

// state = max(state, x), for n contiguous elements. x holds values, state holds keys.
template <typename F, int L, typename Bits = typename F::Bits>
inline Vec<Bits, L> update_max(const Bits* x, Bits* state) {
  const Vec<Bits, L> key = to_key<F, L>(load<Bits, L>(x)), before = load<Bits, L>(state);
  const Vec<Bits, L> best = key > before ? key : before;
  store<L>(state, best);
  return best;
}

template <typename F, typename Bits = typename F::Bits>
inline void update_max(const Bits* x, Bits* state, int64_t n) {
  constexpr int L = lanes<Bits>;
  int64_t k = 0;
  for (; k + L <= n; k += L) update_max<F, L>(x + k, state + k);
  for (; k < n; ++k) update_max<F, 1>(x + k, state + k);
}

// y = state, or (Add) state + other, for n contiguous elements. state and other hold keys.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void write_state(const Bits* state, const Bits* other, Bits* y, int64_t n) {
  constexpr int L = write_lanes<F, Add>;
  int64_t k = 0;
  for (; k + L <= n; k += L) write_values<F, Add, L>(load<Bits, L>(state + k), other + k, y + k);
  for (; k < n; ++k) write_values<F, Add, 1>(state[k], other + k, y + k);
}

// One step of a scan: update_max, then write_state.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void scan_step(const Bits* x, Bits* state, const Bits* other, Bits* y, int64_t n) {
  constexpr int L = write_lanes<F, Add>;
  int64_t k = 0;
  for (; k + L <= n; k += L) write_values<F, Add, L>(update_max<F, L>(x + k, state + k), other + k, y + k);
  for (; k < n; ++k) write_values<F, Add, 1>(update_max<F, 1>(x + k, state + k), other + k, y + k);
}

template <typename Bits>
inline void clear(Bits* state, int64_t n) {
  for (int64_t k = 0; k < n; ++k) state[k] = smallest_key<Bits>;
}

// Result lane i is lane At::at(i) of the concatenation of a and b.
template <typename At, typename T, int L, int... I>
inline Vec<T, L> shuffle(Vec<T, L> a, Vec<T, L> b, std::integer_sequence<int, I...>) {
  if constexpr (L == 1) {
    return At::at(0) == 0 ? a : b;
  } else {
#ifdef __clang__
    return __builtin_shufflevector(a, b, At::at(I)...);
#else
    return __builtin_shuffle(a, b, Vec<Integer<T>, L>{static_cast<Integer<T>>(At::at(I))...});
#endif
  }
}

template <typename At, typename T, int L>
inline Vec<T, L> shuffle(Vec<T, L> a, Vec<T, L> b) {
  return shuffle<At, T, L>(a, b, std::make_integer_sequence<int, L>());
}

// Shuffle: the lane `By` steps earlier in the scan, or the same lane if there is none.
template <int L, int By, bool Reverse>
struct EarlierLane {
  static constexpr int at(int i) { return Reverse ? (i + By < L ? i + By : i) : (i - By >= 0 ? i - By : i); }
};
// Shuffle: one lane everywhere.
template <int Lane>
struct Broadcast {
  static constexpr int at(int) { return Lane; }
};

// The running maximum within a vector (prefix scan), in log2(L) steps.
template <typename Bits, int L, bool Reverse, int By = 1>
inline Vec<Bits, L> running_max(Vec<Bits, L> v) {
  if constexpr (By >= L) {
    return v;
  } else {
    const Vec<Bits, L> before = shuffle<EarlierLane<L, By, Reverse>, Bits, L>(v, v);
    return running_max<Bits, L, Reverse, 2 * By>(before > v ? before : v);
  }
}

// Scan along a line of n contiguous elements.
template <typename F, bool Add, bool Reverse, typename Bits = typename F::Bits>
inline void scan_row(const Bits* x, const Bits* other, Bits* y, int64_t n) {
  constexpr int L = row_lanes<Bits>, Half = L < write_lanes<F, Add> ? L : write_lanes<F, Add>;
  Vec<Bits, L> best = splat<Bits, L>(smallest_key<Bits>);
  int64_t done = 0;
  for (; done + L <= n; done += L) {
    const int64_t at = Reverse ? n - done - L : done;
    const Vec<Bits, L> here = running_max<Bits, L, Reverse>(to_key<F, L>(load<Bits, L>(x + at)));
    const Vec<Bits, L> keys = here > best ? here : best;
    const Vec<Bits, L> last = shuffle<Broadcast<Reverse ? 0 : L - 1>, Bits, L>(here, here);
    best = last > best ? last : best;
    if constexpr (L == Half) {
      write_values<F, Add, L>(keys, other + at, y + at);
    } else {
      Bits stored[L];
      store<L>(stored, keys);
      for (int k = 0; k < L; k += Half) {
        write_values<F, Add, Half>(load<Bits, Half>(stored + k), other + at + k, y + at + k);
      }
    }
  }
  Bits first[L];
  store<L>(first, best);
  for (Bits state = first[0]; done < n; ++done) {
    const int64_t at = Reverse ? n - done - 1 : done;
    write_values<F, Add, 1>(update_max<F, 1>(x + at, &state), other + at, y + at);
  }
}

// Writes the maximum of a line of n contiguous elements to all its elements.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void max_of_row(const Bits* x, const Bits* other, Bits* y, int64_t n) {
  constexpr int L = lanes<Bits>, P = write_lanes<F, Add>;
  Bits state[L];
  clear(state, L);
  int64_t k = 0;
  for (; k + L <= n; k += L) update_max<F, L>(x + k, state);
  for (; k < n; ++k) update_max<F, 1>(x + k, state);
  Bits best = state[0];
  for (int i = 1; i < L; ++i) best = state[i] > best ? state[i] : best;
  for (k = 0; k + P <= n; k += P) write_values<F, Add, P>(splat<Bits, P>(best), other + k, y + k);
  for (; k < n; ++k) write_values<F, Add, 1>(best, other + k, y + k);
}

// Prefetches n elements. The hardware prefetcher does not recognise rows that are visited backwards or far apart.
template <bool Write, typename T>
inline void prefetch(const T* data, int64_t n) {
#ifdef __GNUC__
  for (int64_t k = 0; k < n; k += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(data + k, Write, 3);
#endif
}

constexpr int64_t kPixelsAhead = 8;                // prefetch distance in reverse scans, in pixels
constexpr int64_t kHardwarePrefetchBytes = 16384;  // rows of this size or larger are left to the hardware prefetcher

// Scans one row of a plane over its width. With Add, the values of `other` are added: the keys of the scan over the
// height, for all pixels of the row without gaps. If `above` is not null, it is this row of the input of the scan over
// the height, and `other` is first updated with it. This is done here so that `other` is in registers or L1 when it is
// added. state: the keys of plane.channels elements.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void pool_row(const Bits* x, Scan scan, const Bits* above, Bits* other, Bits* y, const Plane& plane,
                     Bits* state) {
  const int64_t n = plane.channels, pixel = plane.pixel, width = plane.width;
  if (pixel == 1) {
    if (above != nullptr) update_max<F>(above, other, width);
    if (scan == Scan::kWhole) return max_of_row<F, Add>(x, other, y, width);
    return scan == Scan::kReverse ? scan_row<F, Add, true>(x, other, y, width)
                                  : scan_row<F, Add, false>(x, other, y, width);
  }
  clear(state, n);
  for (int64_t w = 0; scan == Scan::kWhole && w < width; ++w) update_max<F>(x + w * pixel, state, n);
  for (int64_t i = 0; i < width; ++i) {
    const int64_t w = position(i, width, scan);
    if (scan == Scan::kReverse && w >= kPixelsAhead) {
      const int64_t at = (w - kPixelsAhead) * pixel;
      prefetch<false>(x + at, n);
      if (above != nullptr) prefetch<false>(above + at, n);
      prefetch<true>(y + at, n);
    }
    if (above != nullptr) update_max<F>(above + w * pixel, other + w * n, n);
    if (scan == Scan::kWhole) {
      write_state<F, Add>(state, other + w * n, y + w * pixel, n);
    } else {
      scan_step<F, Add>(x + w * pixel, state, other + w * n, y + w * pixel, n);
    }
  }
}

// Implements Kernels::pool.
template <typename F, typename Bits = typename F::Bits>
void pool_plane(const void* a_data, Scan a_scan, const void* b_data, Scan b_scan, void* y_data, const Plane& plane,
                void* scratch) {
  const auto a = static_cast<const Bits*>(a_data), b = static_cast<const Bits*>(b_data);
  const auto y = static_cast<Bits*>(y_data), state = static_cast<Bits*>(scratch);
  const bool dense = plane.pixel == plane.channels;
  const int64_t pieces = dense ? 1 : plane.width, piece = dense ? plane.width * plane.channels : plane.channels;
  const int64_t n = pieces * piece, bytes = n * static_cast<int64_t>(sizeof(Bits)), ahead = 1 + 4096 / bytes;
  const bool whole = a_scan == Scan::kWhole;
  if (a != nullptr) clear(state, n);
  if (a != nullptr && whole) {
    for (int64_t h = 0; h < plane.height; ++h) {
      for (int64_t i = 0; i < pieces; ++i) update_max<F>(a + h * plane.row + i * plane.pixel, state + i * piece, piece);
    }
  }
  for (int64_t step_h = 0; step_h < plane.height; ++step_h) {
    const int64_t row = position(step_h, plane.height, a_scan) * plane.row;
    int64_t soon = step_h + ahead, base = 0;
    const bool next = soon >= plane.height;
    if (next) {
      soon -= plane.height;
      base = plane.next;
    }
    if (bytes < kHardwarePrefetchBytes && soon < plane.height && (!next || base != 0)) {
      base += position(soon, plane.height, a_scan) * plane.row;
      for (int64_t i = 0; i < pieces; ++i) {
        const int64_t at = base + i * plane.pixel;
        if (a != nullptr && (!whole || next)) prefetch<false>(a + at, piece);
        if (b != nullptr) prefetch<false>(b + at, piece);
        prefetch<true>(y + at, piece);
      }
    }
    if (a != nullptr && b != nullptr) {
      pool_row<F, true, Bits>(b + row, b_scan, whole ? nullptr : a + row, state, y + row, plane, state + n);
    } else if (b != nullptr) {
      pool_row<F, false, Bits>(b + row, b_scan, nullptr, state, y + row, plane, state);
    } else if (whole) {
      for (int64_t i = 0; i < pieces; ++i) {
        write_state<F, false>(state + i * piece, state, y + row + i * plane.pixel, piece);
      }
    } else {
      for (int64_t i = 0; i < pieces; ++i) {
        const int64_t at = row + i * plane.pixel;
        scan_step<F, false>(a + at, state + i * piece, state, y + at, piece);
      }
    }
  }
}

// Gradients. A line is divided into runs. A run begins with an element that replaces the maximum so far, and ends
// before the next such element. The gradient of a run's first element is the sum of the upstream gradients of the run,
// in scan order; the gradient of all other elements is 0. The first pass goes in scan order. It stores the running sum
// of each element's run, and a mask of the elements that begin a run. The second pass goes backwards. It takes the sum
// from the last element of each run to the first. A whole-line scan has a single sum, which goes to the last element
// that attains the maximum.

// First pass, one step of L lines. best, sum: the state of the lines. sums, begins: the outputs of this step.
template <typename F, bool First, bool Whole, int L, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void accumulate(const Bits* grad, const Bits* x, Wide* best, Wide* sum, Wide* sums, int8_t* begins) {
  using V = Vec<Wide, L>;
  using I = Vec<Integer<Wide>, L>;
  const V value = F::template value<L>(load<Bits, L>(x)), g = F::template value<L>(load<Bits, L>(grad));
  if constexpr (First) {
    store<L>(best, value);
    store<L>(sum, g);
    if (!Whole) store<L>(sums, g);
    store_mask<L>(begins, splat<Integer<Wide>, L>(-1));
  } else {
    const V before = load<Wide, L>(best), total = load<Wide, L>(sum);
    // A NaN replaces any number, and nothing replaces a NaN. In a whole-line scan an equal value and a further NaN
    // replace the maximum as well, because the last one gets the gradient.
    I replaces;
    if constexpr (Whole) {
      replaces = (value >= before) | (value != value);
    } else {
      replaces = (value > before) | ((value != value) & (before == before));
    }
    V now = total + g;
    if constexpr (!Whole) now = replaces ? g : now;
    store<L>(best, replaces ? value : before);
    store<L>(sum, now);
    if (!Whole) store<L>(sums, now);
    store_mask<L>(begins, replaces);
  }
}

// Second pass, one step of L lines. ends: a mask per line, whether the following element begins a run; in a whole-line
// scan, whether the sum has not been assigned yet.
template <typename F, bool Whole, int L, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void distribute(const Wide* sums, const int8_t* begins, int8_t* ends, Wide* sum, Bits* grad_x) {
  using V = Vec<Wide, L>;
  using I = Vec<Integer<Wide>, L>;
  const V none = splat<Wide, L>(0);
  const I begin = load_mask<Integer<Wide>, L>(begins), end = load_mask<Integer<Wide>, L>(ends);
  if constexpr (Whole) {
    store<L>(grad_x, F::template bits<L>((begin & end) != 0 ? load<Wide, L>(sum) : none));
    store_mask<L>(ends, static_cast<I>(begin != 0 ? splat<Integer<Wide>, L>(0) : end));
  } else {
    const V total = end != 0 ? load<Wide, L>(sums) : load<Wide, L>(sum);
    store<L>(sum, total);
    store<L>(grad_x, F::template bits<L>(begin != 0 ? total : none));
    store_mask<L>(ends, begin);
  }
}

// The two passes for n interleaved lines.
template <typename F, bool First, bool Whole, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void accumulate(const Bits* grad, const Bits* x, Wide* best, Wide* sum, Wide* sums, int8_t* begins, int64_t n) {
  constexpr int L = lanes<Wide>;
  int64_t k = 0;
  for (; k + L <= n; k += L) {
    accumulate<F, First, Whole, L>(grad + k, x + k, best + k, sum + k, sums + k, begins + k);
  }
  for (; k < n; ++k) accumulate<F, First, Whole, 1>(grad + k, x + k, best + k, sum + k, sums + k, begins + k);
}

template <typename F, bool Whole, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void distribute(const Wide* sums, const int8_t* begins, int8_t* ends, Wide* sum, Bits* grad_x, int64_t n) {
  constexpr int L = lanes<Wide>;
  int64_t k = 0;
  for (; k + L <= n; k += L) distribute<F, Whole, L>(sums + k, begins + k, ends + k, sum + k, grad_x + k);
  for (; k < n; ++k) distribute<F, Whole, 1>(sums + k, begins + k, ends + k, sum + k, grad_x + k);
}

// The scratch memory for n lines that are processed at the same time.
template <typename Wide>
struct BackwardScratch {
  Wide *best, *sum, *sums;  // sizes n, n, length * n
  int8_t *ends, *begins;    // sizes n, length * n
  BackwardScratch(void* scratch, int64_t length, int64_t n)
      : best(static_cast<Wide*>(scratch)),
        sum(best + n),
        sums(sum + n),
        ends(reinterpret_cast<int8_t*>(sums + length * n)),
        begins(ends + n) {}
  static int64_t bytes(int64_t length, int64_t n) { return n * ((length + 2) * int64_t(sizeof(Wide)) + length + 1); }
};

// Gradients of n interleaved lines, whose elements are `stride` elements apart.
template <typename F, bool Whole, typename Bits = typename F::Bits>
inline void backward_columns(const Bits* grad, const Bits* x, Bits* grad_x, int64_t length, int64_t stride, Scan scan,
                             int64_t n, void* scratch) {
  const BackwardScratch<typename F::Wide> lines(scratch, length, n);
  const int64_t ahead = 1 + 2048 / (n * static_cast<int64_t>(sizeof(Bits)));
  const int64_t next = n == stride ? length * stride : n;  // likely offset of the lines that follow, for prefetching
  const auto at = [&](int64_t i) { return position(i, length, scan) * stride; };
  for (int64_t i = 0; i < length; ++i) {
    const int64_t kept = Whole ? 0 : i * n;
    if (i + ahead < length) {
      prefetch<false>(x + at(i + ahead), n);
      prefetch<false>(grad + at(i + ahead), n);
    } else {
      prefetch<true>(grad_x + at(i), n);
    }
    if (i == 0) {
      accumulate<F, true, Whole>(grad + at(i), x + at(i), lines.best, lines.sum, lines.sums, lines.begins, n);
    } else {
      accumulate<F, false, Whole>(grad + at(i), x + at(i), lines.best, lines.sum, lines.sums + kept,
                                  lines.begins + i * n, n);
    }
  }
  for (int64_t k = 0; k < n; ++k) lines.ends[k] = -1;
  for (int64_t i = length; i-- > 0;) {
    const int64_t kept = Whole ? 0 : i * n;
    if (i >= ahead) {
      prefetch<true>(grad_x + at(i - ahead), n);
    } else {
      prefetch<false>(x + next + at(i), n);
      prefetch<false>(grad + next + at(i), n);
    }
    distribute<F, Whole>(lines.sums + kept, lines.begins + i * n, lines.ends, lines.sum, grad_x + at(i), n);
  }
}

// Shuffles of two matrix rows a and b that are S rows apart: what they become when the off-diagonal S x S blocks of a
// transposition are exchanged.
template <int L, int S>
struct Upper {
  static constexpr int at(int i) { return i & S ? L + i - S : i; }
};
template <int L, int S>
struct Lower {
  static constexpr int at(int i) { return i & S ? L + i : i + S; }
};

template <typename T, int L, int S = 1>
inline void transpose(Vec<T, L>* rows) {
  if constexpr (S < L) {
    for (int r = 0; r < L; ++r) {
      if (r & S) continue;
      const Vec<T, L> a = rows[r], b = rows[r + S];
      rows[r] = shuffle<Upper<L, S>, T, L>(a, b);
      rows[r + S] = shuffle<Lower<L, S>, T, L>(a, b);
    }
    transpose<T, L, 2 * S>(rows);
  }
}

// Rows are transposed in tiles of L x L. Several tiles are processed at the same time, so that their scans, each a
// chain of dependent instructions, overlap.
constexpr int kTilesSideBySide = 4;
template <typename Wide>
constexpr int tile_rows = kTilesSideBySide * lanes<Wide>;

// tile[k][r] = element k of row r, for k < width.
template <typename F, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void read_tile(const Bits* x, int64_t length, int64_t width, Wide (*tile)[tile_rows<Wide>]) {
  constexpr int L = lanes<Wide>, R = tile_rows<Wide>;
  if (width < L) {
    for (int64_t k = 0; k < width; ++k) {
      for (int r = 0; r < R; ++r) tile[k][r] = F::template value<1>(x[r * length + k]);
    }
    return;
  }
  for (int t = 0; t < R; t += L) {
    Vec<Wide, L> rows[L];
    for (int r = 0; r < L; ++r) rows[r] = F::template value<L>(load<Bits, L>(x + (t + r) * length));
    transpose<Wide, L>(rows);
    for (int k = 0; k < L; ++k) store<L>(tile[k] + t, rows[k]);
  }
}

// The inverse of read_tile.
template <typename F, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void write_tile(const Wide (*tile)[tile_rows<Wide>], int64_t length, int64_t width, Bits* x) {
  constexpr int L = lanes<Wide>, R = tile_rows<Wide>;
  if (width < L) {
    for (int64_t k = 0; k < width; ++k) {
      for (int r = 0; r < R; ++r) x[r * length + k] = F::template bits<1>(tile[k][r]);
    }
    return;
  }
  for (int t = 0; t < R; t += L) {
    Vec<Wide, L> rows[L];
    for (int k = 0; k < L; ++k) rows[k] = load<Wide, L>(tile[k] + t);
    transpose<Wide, L>(rows);
    for (int r = 0; r < L; ++r) store<L>(x + (t + r) * length, F::template bits<L>(rows[r]));
  }
}

// Gradients of tile_rows contiguous lines, which are transposed tile by tile into interleaved lines.
template <typename F, bool Whole, typename Bits = typename F::Bits>
inline void backward_rows(const Bits* grad, const Bits* x, Bits* grad_x, int64_t length, Scan scan, void* scratch) {
  using Wide = typename F::Wide;
  constexpr int L = lanes<Wide>, R = tile_rows<Wide>;
  const BackwardScratch<Wide> lines(scratch, length, R);
  alignas(64) Wide values[L][R], grads[L][R];
  for (int64_t done = 0; done < length; done += L) {
    const int64_t width = length - done < L ? length - done : L;
    const int64_t at = scan == Scan::kReverse ? length - done - width : done;
    prefetch<false>(x + (length + done) * R, width * R);
    prefetch<false>(grad + (length + done) * R, width * R);
    prefetch<true>(grad_x + done * R, width * R);
    read_tile<F>(x + at, length, width, values);
    read_tile<F>(grad + at, length, width, grads);
    for (int64_t i = 0; i < width; ++i) {
      const int64_t k = position(i, width, scan), kept = Whole ? 0 : (done + i) * R;
      int8_t* const begins = lines.begins + (done + i) * R;
      if (done + i == 0) {
        accumulate<Unconverted<Wide>, true, Whole>(grads[k], values[k], lines.best, lines.sum, lines.sums, begins, R);
      } else {
        accumulate<Unconverted<Wide>, false, Whole>(grads[k], values[k], lines.best, lines.sum, lines.sums + kept,
                                                    begins, R);
      }
    }
  }
  for (int k = 0; k < R; ++k) lines.ends[k] = -1;
  for (int64_t done = (length - 1) / L * L; done >= 0; done -= L) {
    const int64_t width = length - done < L ? length - done : L;
    for (int64_t i = width; i-- > 0;) {
      const int64_t kept = Whole ? 0 : (done + i) * R;
      distribute<Unconverted<Wide>, Whole>(lines.sums + kept, lines.begins + (done + i) * R, lines.ends, lines.sum,
                                           values[position(i, width, scan)], R);
    }
    write_tile<F>(values, length, width, grad_x + (scan == Scan::kReverse ? length - done - width : done));
  }
}

// The gradient of a single line, without scratch memory.
template <typename F, bool Whole, typename Bits = typename F::Bits>
inline void backward_line(const Bits* grad, const Bits* x, Bits* grad_x, int64_t length, int64_t stride, Scan scan) {
  using Wide = typename F::Wide;
  Wide best = 0, sum = 0;
  int64_t winner = 0;
  for (int64_t i = 0; i < length; ++i) {
    const int64_t at = position(i, length, scan) * stride;
    const Wide value = F::template value<1>(x[at]), g = F::template value<1>(grad[at]);
    const bool nan = value != value;
    const bool replaces = i == 0 || (Whole ? value >= best || nan : value > best || (nan && best == best));
    if (replaces && i > 0) grad_x[winner] = F::template bits<1>(Whole ? Wide(0) : sum);
    sum = i == 0 || (replaces && !Whole) ? g : sum + g;
    grad_x[at] = 0;
    if (replaces) {
      winner = at;
      best = value;
    }
  }
  if (length > 0) grad_x[winner] = F::template bits<1>(sum);
}

// Implements Kernels::backward.
template <typename F, bool Whole, typename Bits = typename F::Bits>
void backward_lines(const void* grad_data, const void* x_data, void* grad_x_data, int64_t lines, int64_t length,
                    int64_t stride, Scan scan, void* scratch, int64_t scratch_size) {
  using Wide = typename F::Wide;
  const auto grad = static_cast<const Bits*>(grad_data), x = static_cast<const Bits*>(x_data);
  const auto grad_x = static_cast<Bits*>(grad_x_data);
  int64_t k = 0;
  if (stride > 1) {
    int64_t lines_at_once = scratch_size / BackwardScratch<Wide>::bytes(length, 1);
    if (lines_at_once >= 64) lines_at_once = lines_at_once / 64 * 64;
    for (; k < lines && (lines_at_once >= 8 || lines_at_once >= lines); k += lines_at_once) {
      const int64_t n = lines - k < lines_at_once ? lines - k : lines_at_once;
      backward_columns<F, Whole>(grad + k, x + k, grad_x + k, length, stride, scan, n, scratch);
    }
    for (; k < lines; ++k) backward_line<F, Whole>(grad + k, x + k, grad_x + k, length, stride, scan);
    return;
  }
  constexpr int R = tile_rows<Wide>;
  for (; k + R <= lines && BackwardScratch<Wide>::bytes(length, R) <= scratch_size; k += R) {
    const int64_t at = k * length;
    backward_rows<F, Whole>(grad + at, x + at, grad_x + at, length, scan, scratch);
  }
  for (; k < lines; ++k) {
    const int64_t at = k * length;
    backward_line<F, Whole>(grad + at, x + at, grad_x + at, length, 1, scan);
  }
}

template <typename F>
void backward(const void* grad, const void* x, void* grad_x, int64_t lines, int64_t length, int64_t stride, Scan scan,
              void* scratch, int64_t scratch_size) {
  const auto run = scan == Scan::kWhole ? backward_lines<F, true> : backward_lines<F, false>;
  run(grad, x, grad_x, lines, length, stride, scan, scratch, scratch_size);
}

inline Kernels kernels(Format format) {
  switch (format) {
    case Format::kFloat: return {pool_plane<F32>, backward<F32>};
    case Format::kDouble: return {pool_plane<F64>, backward<F64>};
    case Format::kHalf: return {pool_plane<F16>, backward<F16>};
    default: return {pool_plane<BF16>, backward<BF16>};
  }
}
