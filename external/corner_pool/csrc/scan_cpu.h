// CPU kernels on plain pointers: no torch, so that they can be built and checked alone. No include guard: included once
// per instruction set, in a namespace of its own, with
//   SCAN_VECTOR_BYTES  bytes of its vectors
//   SCAN_SHUFFLE16     whether it can shuffle 16-bit elements across a whole vector.
// Nothing here may instantiate templates of the standard library: the linker keeps one instance for all instruction
// sets.

// Floating formats as the bits they are stored in. Wide is the type sums are kept in.
struct F32 {
  using Bits = int32_t;
  using Wide = float;
  static constexpr Bits infinity = 0x7f800000;
  static inline float value(Bits bits) { return as<float>(bits); }
  static inline Bits bits(float value) { return as<Bits>(value); }
};

struct F64 {
  using Bits = int64_t;
  using Wide = double;
  static constexpr Bits infinity = 0x7ff0000000000000;
  static inline double value(Bits bits) { return as<double>(bits); }
  static inline Bits bits(double value) { return as<Bits>(value); }
};

struct BF16 {
  using Bits = int16_t;
  using Wide = float;
  static constexpr Bits infinity = 0x7f80;
  static inline float value(Bits bits) { return as<float>(static_cast<uint32_t>(static_cast<uint16_t>(bits)) << 16); }
  static inline Bits bits(float value) {  // to nearest, ties to even
    const uint32_t u = as<uint32_t>(value);
    const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return static_cast<Bits>((u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
};

struct F16 {
  using Bits = int16_t;
  using Wide = float;
  static constexpr Bits infinity = 0x7c00;
  // No branches and no look-up, so that loops over it vectorise
  static inline float value(Bits bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const int32_t magnitude = bits & 0x7fff;
    const uint32_t bias = magnitude >= 0x7c00 ? 224u << 23 : 112u << 23;  // infinities and NaNs stay what they are
    const uint32_t normal = (static_cast<uint32_t>(magnitude) << 13) + bias;
    const uint32_t subnormal = as<uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
    return as<float>(sign | (magnitude < 0x400 ? subnormal : normal));
  }
  static inline Bits bits(float value) {  // to nearest, ties to even
    const uint32_t u = as<uint32_t>(value);
    const int32_t magnitude = static_cast<int32_t>(u & 0x7fffffff);
    const uint32_t normal = (static_cast<uint32_t>(magnitude) - (112u << 23) + 0xfff + ((u >> 13) & 1)) >> 13;
    // 0.5's last place is a subnormal's
    const uint32_t subnormal = as<uint32_t>(as<float>(magnitude) + 0.5f) - as<uint32_t>(0.5f);
    uint32_t result = magnitude < 0x38800000 ? subnormal : normal;
    result = magnitude >= 0x47800000 ? 0x7c00 : result;
    result = magnitude > 0x7f800000 ? 0x7e00 : result;
    return static_cast<Bits>(((u >> 16) & 0x8000) | result);
  }
};

// Integers in the order of the floating values (-0 before 0), every NaN the largest: a maximum over keys is one that
// NaNs take over for good. from_key is its inverse but for the NaNs, which become one.
template <typename F, typename Bits = typename F::Bits>
inline Bits to_key(Bits bits) {
  constexpr Bits largest = static_cast<Bits>(~(uint64_t(1) << (sizeof(Bits) * 8 - 1)));
  const Bits magnitude = bits & largest;
  const Bits key = bits < 0 ? static_cast<Bits>(~magnitude) : magnitude;
  return magnitude > F::infinity ? largest : key;
}

template <typename F, typename Bits = typename F::Bits>
inline Bits from_key(Bits key) {
  constexpr Bits largest = static_cast<Bits>(~(uint64_t(1) << (sizeof(Bits) * 8 - 1)));
  return key < 0 ? static_cast<Bits>(~(key & largest)) : key;
}

template <typename Bits>
constexpr Bits smallest_key() {
  return static_cast<Bits>(uint64_t(1) << (sizeof(Bits) * 8 - 1));
}

// y = or += the value of a key, in the format's arithmetic.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void put(Bits key, Bits* y) {
  const Bits bits = from_key<F>(key);
  *y = Add ? F::bits(F::value(*y) + F::value(bits)) : bits;
}

// state = max(state, x), for n neighbours.
template <typename F, typename Bits = typename F::Bits>
inline void absorb(const Bits* __restrict__ x, Bits* __restrict__ state, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const Bits key = to_key<F>(x[k]);
    state[k] = key > state[k] ? key : state[k];
  }
}

template <typename F, bool Add, typename Bits = typename F::Bits>
inline void emit(const Bits* __restrict__ state, Bits* __restrict__ y, int64_t n) {
  for (int64_t k = 0; k < n; ++k) put<F, Add>(state[k], y + k);
}

// Both at once: a step of a scan, for n lines side by side.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void step(const Bits* __restrict__ x, Bits* __restrict__ state, Bits* __restrict__ y, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const Bits key = to_key<F>(x[k]);
    const Bits best = key > state[k] ? key : state[k];
    state[k] = best;
    put<F, Add>(best, y + k);
  }
}

template <typename Bits>
inline void clear(Bits* state, int64_t n) {
  for (int64_t k = 0; k < n; ++k) state[k] = smallest_key<Bits>();
}

#ifdef SCAN_VECTOR_BYTES
template <typename T>
constexpr int vector_bytes = sizeof(T) > 2 || SCAN_SHUFFLE16 ? SCAN_VECTOR_BYTES : 16;
template <typename T>
constexpr int lanes = vector_bytes<T> / static_cast<int>(sizeof(T));
template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(vector_bytes<T>)));
};
template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename T>
inline void store(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// The lanes At::at(0), At::at(1), ... of a followed by b. T is the lanes' type, Index an integer as wide.
template <typename T, typename Index, typename At, int... I>
inline Vector<T> shuffle(Vector<T> a, Vector<T> b, std::integer_sequence<int, I...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, At::at(I)...);
#else
  return __builtin_shuffle(a, b, Vector<Index>{static_cast<Index>(At::at(I))...});
#endif
}

template <typename T, typename Index, typename At>
inline Vector<T> shuffle(Vector<T> a, Vector<T> b) {
  return shuffle<T, Index, At>(a, b, std::make_integer_sequence<int, lanes<T>>());
}

// The lane `By` steps back in the scan, or itself.
template <int N, int By, bool Reverse>
struct Before {
  static constexpr int at(int i) { return Reverse ? (i + By < N ? i + By : i) : (i - By >= 0 ? i - By : i); }
};
template <int Lane>
struct Broadcast {
  static constexpr int at(int) { return Lane; }
};

template <typename F, typename Bits = typename F::Bits>
inline Vector<Bits> to_keys(Vector<Bits> bits) {
  constexpr Bits largest = static_cast<Bits>(~(uint64_t(1) << (sizeof(Bits) * 8 - 1)));
  const Vector<Bits> magnitude = bits & largest;
  const Vector<Bits> key = bits ^ ((bits >> (sizeof(Bits) * 8 - 1)) & largest);
  return magnitude > F::infinity ? Vector<Bits>{} + largest : key;
}

// Running maximum within a vector, in log2(lanes) steps.
template <typename Bits, bool Reverse, int By = 1>
inline Vector<Bits> running_max(Vector<Bits> v) {
  if constexpr (By >= lanes<Bits>) {
    return v;
  } else {
    const Vector<Bits> before = shuffle<Bits, Bits, Before<lanes<Bits>, By, Reverse>>(v, v);
    return running_max<Bits, Reverse, 2 * By>(before > v ? before : v);
  }
}
#endif

// A scan along one line of n neighbours.
template <typename F, bool Add, bool Reverse, typename Bits = typename F::Bits>
inline void scan_row(const Bits* __restrict__ x, Bits* __restrict__ y, int64_t n) {
  Bits best = smallest_key<Bits>();
  int64_t done = 0;
#ifdef SCAN_VECTOR_BYTES
  constexpr int N = lanes<Bits>;
  Vector<Bits> bests = Vector<Bits>{} + best;
  for (; done + N <= n; done += N) {
    const int64_t at = Reverse ? n - done - N : done;
    const Vector<Bits> here = running_max<Bits, Reverse>(to_keys<F>(load(x + at)));
    const Vector<Bits> keys = here > bests ? here : bests;
    bests = shuffle<Bits, Bits, Broadcast<Reverse ? 0 : N - 1>>(keys, keys);
    Bits key[N];
    store(key, keys);
    emit<F, Add>(key, y + at, N);
  }
  best = bests[0];
#endif
  for (; done < n; ++done) {
    const int64_t at = Reverse ? n - done - 1 : done;
    const Bits key = to_key<F>(x[at]);
    best = key > best ? key : best;
    put<F, Add>(best, y + at);
  }
}

// The maximum of a line of n neighbours, everywhere on it.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void max_of_row(const Bits* __restrict__ x, Bits* __restrict__ y, int64_t n) {
  Bits best = smallest_key<Bits>();
  for (int64_t k = 0; k < n; ++k) {
    const Bits key = to_key<F>(x[k]);
    best = key > best ? key : best;
  }
  for (int64_t k = 0; k < n; ++k) put<F, Add>(best, y + k);
}

// Row h of a plane, scanned over its width: `width` pixels of `channels` neighbours, `pixel` elements apart.
template <typename F, bool Add, typename Bits = typename F::Bits>
inline void pool_row(const Bits* x, Scan scan, Bits* y, const Plane& plane, Bits* state) {
  if (plane.pixel == 1) {
    if (scan == Scan::kWhole) return max_of_row<F, Add>(x, y, plane.width);
    return scan == Scan::kReverse ? scan_row<F, Add, true>(x, y, plane.width)
                                  : scan_row<F, Add, false>(x, y, plane.width);
  }
  clear(state, plane.channels);
  if (scan == Scan::kWhole) {
    for (int64_t w = 0; w < plane.width; ++w) absorb<F>(x + w * plane.pixel, state, plane.channels);
    for (int64_t w = 0; w < plane.width; ++w) emit<F, Add>(state, y + w * plane.pixel, plane.channels);
    return;
  }
  for (int64_t i = 0; i < plane.width; ++i) {
    const int64_t at = position(i, plane.width, scan) * plane.pixel;
    step<F, Add>(x + at, state, y + at, plane.channels);
  }
}

// y = a scanned over the height + b scanned over the width; a or b may be null. state: width * channels + channels.
template <typename F, typename Bits = typename F::Bits>
void pool_plane(const void* a_data, Scan a_scan, const void* b_data, Scan b_scan, void* y_data, const Plane& plane,
                void* scratch) {
  const auto a = static_cast<const Bits*>(a_data), b = static_cast<const Bits*>(b_data);
  const auto y = static_cast<Bits*>(y_data), state = static_cast<Bits*>(scratch);
  const bool dense = plane.pixel == plane.channels;
  const int64_t pieces = dense ? 1 : plane.width, piece = dense ? plane.width * plane.channels : plane.channels;
  if (a != nullptr) clear(state, pieces * piece);
  if (a != nullptr && a_scan == Scan::kWhole) {
    for (int64_t h = 0; h < plane.height; ++h) {
      for (int64_t i = 0; i < pieces; ++i) absorb<F>(a + h * plane.row + i * plane.pixel, state + i * piece, piece);
    }
  }
  for (int64_t i = 0; i < plane.height; ++i) {
    const int64_t row = position(i, plane.height, a_scan) * plane.row;
    for (int64_t i = 0; a != nullptr && i < pieces; ++i) {
      const int64_t at = row + i * plane.pixel;
      if (a_scan == Scan::kWhole) {
        emit<F, false>(state + i * piece, y + at, piece);
      } else {
        step<F, false>(a + at, state + i * piece, y + at, piece);
      }
    }
    if (b == nullptr) continue;
    Bits* const row_state = state + pieces * piece;
    if (a != nullptr) {
      pool_row<F, true>(b + row, b_scan, y + row, plane, row_state);
    } else {
      pool_row<F, false>(b + row, b_scan, y + row, plane, row_state);
    }
  }
}

// Gradients. A line falls into runs: an element that takes over, and those after it up to the next that does. The
// element has its run's sum, added up in scan order, the others have zero. A first pass in scan order keeps the sums so
// far and where runs begin; a second one, backwards, finds the sum at each run's end and brings it to its beginning. Of
// a whole line, there is one sum, and the last element that holds the maximum has it.

// Numbers that already are what sums are kept in.
template <typename T>
struct Plain {
  using Bits = T;
  using Wide = T;
  static inline T value(T value) { return value; }
  static inline T bits(T value) { return value; }
};

// First pass: a step for n lines side by side. sums and begins are this step's.
template <typename F, bool First, bool Whole, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void gather(const Bits* __restrict__ grad, const Bits* __restrict__ x, Wide* __restrict__ best,
                   Wide* __restrict__ sum, Wide* __restrict__ sums, uint8_t* __restrict__ begins, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    const Wide value = F::value(x[k]), g = F::value(grad[k]), before = First ? value : best[k];
    // A NaN takes over from any number, nothing from a NaN; of a whole line, the last NaN or the last equal counts
    const bool takes = First || (Whole ? (value >= before) | (value != value)
                                       : !(value <= before) & (before == before));
    const Wide total = First || (takes && !Whole) ? g : sum[k] + g;
    best[k] = takes ? value : before;
    sum[k] = total;
    if (!Whole) sums[k] = total;
    begins[k] = takes;
  }
}

// Second pass: ends are the begins of the step after this one.
template <typename F, bool Whole, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void settle(const Wide* __restrict__ sums, const uint8_t* __restrict__ begins, uint8_t* __restrict__ ends,
                   Wide* __restrict__ sum, Bits* __restrict__ grad_x, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    if (Whole) {  // ends: whether the sum is still to be given away
      grad_x[k] = F::bits(begins[k] & ends[k] ? sum[k] : Wide(0));
      ends[k] &= ~begins[k];
    } else {
      const Wide total = ends[k] ? sums[k] : sum[k];
      sum[k] = total;
      grad_x[k] = F::bits(begins[k] ? total : Wide(0));
      ends[k] = begins[k];
    }
  }
}

// Scratch of n lines scanned together.
template <typename Wide>
struct Strips {
  Wide *best, *sum, *sums;  // n, n, length * n
  uint8_t *ends, *begins;   // n, length * n
  Strips(void* scratch, int64_t length, int64_t n, bool whole)
      : best(static_cast<Wide*>(scratch)),
        sum(best + n),
        sums(sum + n),
        ends(reinterpret_cast<uint8_t*>(sums + (whole ? 0 : length * n))),
        begins(ends + n) {}
};

// n lines side by side, whose steps are `stride` elements apart.
template <typename F, bool Whole, typename Bits = typename F::Bits>
inline void backward_columns(const Bits* grad, const Bits* x, Bits* grad_x, int64_t length, int64_t stride, Scan scan,
                             int64_t n, void* scratch) {
  const Strips<typename F::Wide> lines(scratch, length, n, Whole);
  for (int64_t i = 0; i < length; ++i) {
    const int64_t at = position(i, length, scan) * stride, kept = Whole ? 0 : i * n;
    if (i == 0) {
      gather<F, true, Whole>(grad + at, x + at, lines.best, lines.sum, lines.sums, lines.begins, n);
    } else {
      gather<F, false, Whole>(grad + at, x + at, lines.best, lines.sum, lines.sums + kept, lines.begins + i * n, n);
    }
  }
  for (int64_t k = 0; k < n; ++k) lines.ends[k] = 1;
  for (int64_t i = length; i-- > 0;) {
    const int64_t at = position(i, length, scan) * stride, kept = Whole ? 0 : i * n;
    settle<F, Whole>(lines.sums + kept, lines.begins + i * n, lines.ends, lines.sum, grad_x + at, n);
  }
}

#ifdef SCAN_VECTOR_BYTES
// Of two rows a and b of a matrix that are S apart, what they become when blocks of S x S change places.
template <int N, int S>
struct Upper {
  static constexpr int at(int i) { return i & S ? N + i - S : i; }
};
template <int N, int S>
struct Lower {
  static constexpr int at(int i) { return i & S ? N + i : i + S; }
};

template <typename T, typename Index, int S = 1>
inline void transpose(Vector<T>* rows) {
  constexpr int N = lanes<T>;
  if constexpr (S < N) {
    for (int r = 0; r < N; ++r) {
      if (r & S) continue;
      const Vector<T> a = rows[r], b = rows[r + S];
      rows[r] = shuffle<T, Index, Upper<N, S>>(a, b);
      rows[r + S] = shuffle<T, Index, Lower<N, S>>(a, b);
    }
    transpose<T, Index, 2 * S>(rows);
  }
}

// tile[k][r] = row r's element k, for N rows and `width` elements.
template <typename F, typename Index, int N, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void read_tile(const Bits* x, int64_t length, int64_t width, Wide (*tile)[N]) {
  if (width < N) {
    for (int64_t k = 0; k < width; ++k) {
      for (int r = 0; r < N; ++r) tile[k][r] = F::value(x[r * length + k]);
    }
    return;
  }
  Vector<Wide> rows[N];
  for (int r = 0; r < N; ++r) {
    Wide row[N];
    for (int k = 0; k < N; ++k) row[k] = F::value(x[r * length + k]);
    rows[r] = load(row);
  }
  transpose<Wide, Index>(rows);
  for (int k = 0; k < N; ++k) store(tile[k], rows[k]);
}

template <typename F, typename Index, int N, typename Bits = typename F::Bits, typename Wide = typename F::Wide>
inline void write_tile(Wide (*tile)[N], int64_t length, int64_t width, Bits* x) {
  if (width < N) {
    for (int64_t k = 0; k < width; ++k) {
      for (int r = 0; r < N; ++r) x[r * length + k] = F::bits(tile[k][r]);
    }
    return;
  }
  Vector<Wide> rows[N];
  for (int k = 0; k < N; ++k) rows[k] = load(tile[k]);
  transpose<Wide, Index>(rows);
  for (int r = 0; r < N; ++r) {
    Wide row[N];
    store(row, rows[r]);
    for (int k = 0; k < N; ++k) x[r * length + k] = F::bits(row[k]);
  }
}

template <typename Wide>
constexpr int64_t rows_together = lanes<Wide>;

// N lines one after the other, turned tile by tile into lines side by side.
template <typename F, bool Whole, typename Bits = typename F::Bits>
inline void backward_rows(const Bits* grad, const Bits* x, Bits* grad_x, int64_t length, Scan scan, void* scratch) {
  using Wide = typename F::Wide;
  using Index = typename std::conditional<sizeof(Wide) == 8, int64_t, int32_t>::type;
  constexpr int N = lanes<Wide>;
  const Strips<Wide> lines(scratch, length, N, Whole);
  Wide values[N][N], grads[N][N];
  for (int64_t done = 0; done < length; done += N) {
    const int64_t width = length - done < N ? length - done : N;
    const int64_t at = scan == Scan::kReverse ? length - done - width : done;
    read_tile<F, Index, N>(x + at, length, width, values);
    read_tile<F, Index, N>(grad + at, length, width, grads);
    for (int64_t i = 0; i < width; ++i) {
      const int64_t k = position(i, width, scan), kept = Whole ? 0 : (done + i) * N;
      if (done + i == 0) {
        gather<Plain<Wide>, true, Whole>(grads[k], values[k], lines.best, lines.sum, lines.sums, lines.begins, N);
      } else {
        gather<Plain<Wide>, false, Whole>(grads[k], values[k], lines.best, lines.sum, lines.sums + kept,
                                          lines.begins + (done + i) * N, N);
      }
    }
  }
  for (int k = 0; k < N; ++k) lines.ends[k] = 1;
  for (int64_t done = (length - 1) / N * N; done >= 0; done -= N) {
    const int64_t width = length - done < N ? length - done : N;
    for (int64_t i = width; i-- > 0;) {
      const int64_t kept = Whole ? 0 : (done + i) * N;
      settle<Plain<Wide>, Whole>(lines.sums + kept, lines.begins + (done + i) * N, lines.ends, lines.sum,
                                 values[position(i, width, scan)], N);
    }
    write_tile<F, Index, N>(values, length, width, grad_x + (scan == Scan::kReverse ? length - done - width : done));
  }
}
#else
template <typename Wide>
constexpr int64_t rows_together = 1;
#endif

// A line alone, without scratch.
template <typename F, bool Whole, typename Bits = typename F::Bits>
inline void backward_line(const Bits* grad, const Bits* x, Bits* grad_x, int64_t length, int64_t stride, Scan scan) {
  using Wide = typename F::Wide;
  Wide best = 0, sum = 0;
  int64_t winner = 0;
  for (int64_t i = 0; i < length; ++i) {
    const int64_t at = position(i, length, scan) * stride;
    const Wide value = F::value(x[at]), g = F::value(grad[at]);
    const bool takes = i == 0 || (Whole ? (value >= best) | (value != value) : !(value <= best) & (best == best));
    if (takes && i > 0) grad_x[winner] = F::bits(Whole ? Wide(0) : sum);
    sum = i == 0 || (takes && !Whole) ? g : sum + g;
    grad_x[at] = 0;
    if (takes) winner = at, best = value;
  }
  if (length > 0) grad_x[winner] = F::bits(sum);
}

// Bytes of scratch that n lines side by side need.
template <typename F>
inline int64_t scratch_of(int64_t length, int64_t n) {
  using Wide = typename F::Wide;
  return n * static_cast<int64_t>((length + 2) * sizeof(Wide) + length + 1);
}

// Gradients of `lines` lines of `length` elements that are `stride` apart; the lines lie side by side if stride > 1,
// one after the other else. scratch: scratch_size bytes, and that much limits how many are done together.
template <typename F, bool Whole, typename Bits = typename F::Bits>
void backward_lines(const void* grad_data, const void* x_data, void* grad_x_data, int64_t lines, int64_t length,
                    int64_t stride, Scan scan, void* scratch, int64_t scratch_size) {
  const auto grad = static_cast<const Bits*>(grad_data), x = static_cast<const Bits*>(x_data);
  const auto grad_x = static_cast<Bits*>(grad_x_data);
  if (stride > 1) {
    int64_t together = scratch_size / scratch_of<F>(length, 1);
    if (together >= 64) together = together / 64 * 64;
    if (together >= 8 || together >= lines) {
      for (int64_t k = 0; k < lines; k += together) {
        const int64_t n = lines - k < together ? lines - k : together;
        backward_columns<F, Whole>(grad + k, x + k, grad_x + k, length, stride, scan, n, scratch);
      }
    } else {
      for (int64_t k = 0; k < lines; ++k) backward_line<F, Whole>(grad + k, x + k, grad_x + k, length, stride, scan);
    }
    return;
  }
  int64_t k = 0;
#ifdef SCAN_VECTOR_BYTES
  constexpr int64_t N = rows_together<typename F::Wide>;
  if (scratch_of<F>(length, N) <= scratch_size) {
    for (; k + N <= lines; k += N) {
      backward_rows<F, Whole>(grad + k * length, x + k * length, grad_x + k * length, length, scan, scratch);
    }
  }
#endif
  for (; k < lines; ++k) {
    backward_line<F, Whole>(grad + k * length, x + k * length, grad_x + k * length, length, 1, scan);
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
