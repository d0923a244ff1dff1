// SIMD vectors based on the compiler's vector extensions, and conversions of floating-point formats.
//
// There is no include guard: the file is included once per instruction set, each time in a separate namespace.
// VECTOR_BYTES is the size of the widest vectors; if it is undefined, the code is scalar.
// Do not instantiate templates of the standard library here. The linker keeps a single instance for all instruction
// sets, which may then contain instructions that the processor does not have.

// A vector of L values of type T. For L = 1 it is T itself, which supports the same operators.
template <typename T, int L>
struct VecOf {
#ifdef VECTOR_BYTES
  typedef T type __attribute__((vector_size(sizeof(T) * L)));
#endif
};
template <typename T>
struct VecOf<T, 1> {
  using type = T;
};
template <typename T, int L>
using Vec = typename VecOf<T, L>::type;

#ifdef VECTOR_BYTES
template <typename T>
constexpr int lanes = VECTOR_BYTES / static_cast<int>(sizeof(T));
#else
template <typename T>
constexpr int lanes = 1;
#endif

template <typename T, int L>
inline Vec<T, L> load(const T* from) {
  Vec<T, L> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// Reinterprets the bits of a value as another type.
template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <int L, typename T>
inline void store(T* to, Vec<T, L> v) {
  std::memcpy(to, &v, sizeof v);
}

template <typename T, int L>
inline Vec<T, L> splat(T value) {
  if constexpr (L == 1) {
    return value;
  } else {
    return Vec<T, L>{} + value;
  }
}

// Converts the values to another arithmetic type.
template <typename To, int L, typename From>
inline Vec<To, L> convert(From from) {
  if constexpr (L == 1) {
    return static_cast<To>(from);
  } else {
    return __builtin_convertvector(from, Vec<To, L>);
  }
}

// Floating-point formats. Bits is the integer type of the stored representation, Wide the accumulation type.
struct F32 {
  using Bits = int32_t;
  using Wide = float;
  static constexpr Bits infinity = 0x7f800000;
  template <int L>
  static inline Vec<float, L> value(Vec<Bits, L> bits) {
    return bit_cast<Vec<float, L>>(bits);
  }
  template <int L>
  static inline Vec<Bits, L> bits(Vec<float, L> value) {
    return bit_cast<Vec<Bits, L>>(value);
  }
};

struct F64 {
  using Bits = int64_t;
  using Wide = double;
  static constexpr Bits infinity = 0x7ff0000000000000;
  template <int L>
  static inline Vec<double, L> value(Vec<Bits, L> bits) {
    return bit_cast<Vec<double, L>>(bits);
  }
  template <int L>
  static inline Vec<Bits, L> bits(Vec<double, L> value) {
    return bit_cast<Vec<Bits, L>>(value);
  }
};

// Conversions to the 16-bit formats round to nearest, with ties to even.
struct BF16 {
  using Bits = int16_t;
  using Wide = float;
  static constexpr Bits infinity = 0x7f80;
  template <int L>
  static inline Vec<float, L> value(Vec<Bits, L> bits) {
    return bit_cast<Vec<float, L>>(convert<uint32_t, L>(bit_cast<Vec<uint16_t, L>>(bits)) << 16);
  }
  template <int L>
  static inline Vec<Bits, L> bits(Vec<float, L> value) {
    using U = Vec<uint32_t, L>;
    using I = Vec<int32_t, L>;
    const U u = bit_cast<U>(value);
    const I rounded = bit_cast<I>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    const I magnitude = bit_cast<I>(u & 0x7fffffff);
    const I result = magnitude > 0x7f800000 ? splat<int32_t, L>(0x7fc0) : rounded;
    return bit_cast<Vec<Bits, L>>(convert<uint16_t, L>(bit_cast<U>(result)));
  }
};

struct F16 {
  using Bits = int16_t;
  using Wide = float;
  static constexpr Bits infinity = 0x7c00;
  template <int L>
  static inline Vec<float, L> value(Vec<Bits, L> bits) {
    using U = Vec<uint32_t, L>;
    using I = Vec<int32_t, L>;
    const U u = convert<uint32_t, L>(bit_cast<Vec<uint16_t, L>>(bits));
    const I magnitude = bit_cast<I>(u & 0x7fff);
    // infinities and NaNs get the largest exponent
    const I bias = magnitude >= 0x7c00 ? splat<int32_t, L>(224 << 23) : splat<int32_t, L>(112 << 23);
    const I normal = bit_cast<I>((bit_cast<U>(magnitude) << 13) + bit_cast<U>(bias));
    const I subnormal = bit_cast<I>(convert<float, L>(magnitude) * 0x1p-24f);
    const I result = magnitude < 0x400 ? subnormal : normal;
    return bit_cast<Vec<float, L>>(((u & 0x8000) << 16) | bit_cast<U>(result));
  }
  template <int L>
  static inline Vec<Bits, L> bits(Vec<float, L> value) {
    using U = Vec<uint32_t, L>;
    using I = Vec<int32_t, L>;
    const U u = bit_cast<U>(value), absolute = u & 0x7fffffff;
    const I magnitude = bit_cast<I>(absolute);
    const I normal = bit_cast<I>((absolute - (112u << 23) + 0xfff + ((u >> 13) & 1)) >> 13);
    // the unit in the last place of 0.5f is the spacing of float16 subnormals, so that the addition rounds to them
    const I subnormal = bit_cast<I>(bit_cast<U>(bit_cast<Vec<float, L>>(absolute) + 0.5f) - 0x3f000000);
    I result = magnitude < 0x38800000 ? subnormal : normal;
    result = magnitude >= 0x47800000 ? splat<int32_t, L>(0x7c00) : result;
    result = magnitude > 0x7f800000 ? splat<int32_t, L>(0x7e00) : result;
    return bit_cast<Vec<Bits, L>>(convert<uint16_t, L>(((u >> 16) & 0x8000) | bit_cast<U>(result)));
  }
};
