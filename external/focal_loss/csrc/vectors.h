// Kernels on explicit vectors for float32 arithmetic and the published exponents, alpha 2 and beta 4. No include guard:
// cpu.cpp includes it once per instruction set, in a namespace of its own, with FOCAL_VECTOR_BYTES set. Nothing here may
// instantiate functions of the standard library: the linker keeps one instance for all instruction sets.

constexpr int kLanes = FOCAL_VECTOR_BYTES / 4;
typedef float Floats __attribute__((vector_size(FOCAL_VECTOR_BYTES)));
typedef int32_t Ints __attribute__((vector_size(FOCAL_VECTOR_BYTES)));
typedef uint32_t Words __attribute__((vector_size(FOCAL_VECTOR_BYTES)));
typedef uint16_t Shorts __attribute__((vector_size(FOCAL_VECTOR_BYTES / 2)));
typedef double Doubles __attribute__((vector_size(FOCAL_VECTOR_BYTES * 2)));

template <typename To, typename From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

template <typename V>
inline V read(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename V>
inline void write(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// How logits are stored. Conversions to the 16-bit formats round to nearest, ties to even.
struct F32 {
  using Type = float;
  static inline Floats load(const float* from) { return read<Floats>(from); }
  static inline void store(float* to, Floats v) { write(to, v); }
};

struct BF16 {
  using Type = BFloat16;
  static inline Floats load(const BFloat16* from) {
    return as<Floats>(__builtin_convertvector(read<Shorts>(from), Words) << 16);
  }
  static inline void store(BFloat16* to, Floats v) {
    const Words bits = as<Words>(v);
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Words result = v != v ? Words{} + 0x7fc0 : rounded;
    const Shorts half = __builtin_convertvector(result, Shorts);
    write(to, half);
  }
};

struct F16 {
  using Type = Half;
  static inline Floats load(const Half* from) {
    const Words bits = __builtin_convertvector(read<Shorts>(from), Words), magnitude = bits & 0x7fff;
    // infinities and NaNs stay what they are
    const Words bias = magnitude >= 0x7c00 ? Words{} + (224u << 23) : Words{} + (112u << 23);
    const Floats subnormal = __builtin_convertvector(as<Ints>(magnitude), Floats) * 0x1p-24f;
    const Words result = magnitude < 0x400 ? as<Words>(subnormal) : (magnitude << 13) + bias;
    return as<Floats>(((bits & 0x8000) << 16) | result);
  }
  static inline void store(Half* to, Floats v) {
    const Words bits = as<Words>(v), magnitude = bits & 0x7fffffff;
    const Words normal = (magnitude - (112u << 23) + 0xfff + ((bits >> 13) & 1)) >> 13;
    // the last place of 0.5 is that of the subnormals
    const Words subnormal = as<Words>(as<Floats>(magnitude) + 0.5f) - 0x3f000000;
    Words result = magnitude < 0x38800000 ? subnormal : normal;
    result = magnitude >= 0x47800000 ? Words{} + 0x7c00 : result;
    result = magnitude > 0x7f800000 ? Words{} + 0x7e00 : result;
    const Shorts half = __builtin_convertvector(((bits >> 16) & 0x8000) | result, Shorts);
    write(to, half);
  }
};

// exp(-a), 0 <= a <= 87, to 1 ulp.
inline Floats exp_of_minus(Floats a) {
  constexpr float shift = 0x1.8p23f;  // its last place is 1: adding it rounds to a whole number, found in the low bits
  const Floats shifted = a * -0x1.715476p0f + shift, n = shifted - shift;
  // ln 2 in two parts; n times the first is exact
  const Floats r = (-a - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;
  // minimax on |r| <= ln(2) / 2
  Floats p = 0.0013901283964514732f * r + 0.008363146334886551f;
  p = p * r + 0.04166685417294502f;
  p = p * r + 0.16666577756404877f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  const Floats power = as<Floats>((as<Ints>(shifted) + 127) << 23);
  return p * power + power;
}

// log(1 + e), 0 <= e <= 1, to 2 ulp: minimax of log(1 + e) / e.
inline Floats log_of_one_plus(Floats e) {
  Floats p = -0.0032439804635941982f * e + 0.019851261749863625f;
  p = p * e - 0.056959155946969986f;
  p = p * e + 0.10603616386651993f;
  p = p * e - 0.15305569767951965f;
  p = p * e + 0.19675931334495544f;
  p = p * e - 0.24954132735729218f;
  p = p * e + 0.3332996368408203f;
  p = p * e - 0.4999990165233612f;
  return p * (e * e) + e;
}

// Element of terms.h, of a vector.
struct Together {
  Words sign, clamped;  // of the slope; masks
  Ints positive;
  Floats weight, u, v, softplus;
};

inline Together element(Floats logit, Floats target, float limit) {
  Together result;
  result.positive = target == 1.0f;
  result.sign = as<Words>(result.positive) & 0x80000000;
  const Floats y = as<Floats>(as<Words>(logit) ^ result.sign);  // not clamped yet; its sign is all that is used
  const Floats magnitude = as<Floats>(as<Words>(logit) & 0x7fffffff);
  const auto above = magnitude > limit;
  const Floats a = above ? Floats{} + limit : magnitude;
  result.clamped = as<Words>(above);
  const Floats e = exp_of_minus(a), larger = 1.0f / (1.0f + e), smaller = e * larger;
  const auto rises = y > 0.0f;
  result.u = rises ? larger : smaller;
  result.v = rises ? smaller : larger;
  result.softplus = as<Floats>(as<Words>(rises) & as<Words>(a)) + log_of_one_plus(e);
  const Floats rest = 1.0f - target, squared = rest * rest;  // 0 at a positive
  const Floats one = as<Floats>(as<Words>(result.positive) & 0x3f800000);
  result.weight = (squared * squared + one) * (result.u * result.u);
  return result;
}

// n is a multiple of kLanes.
template <typename Logits>
void forward_block(const typename Logits::Type* logits, const float* target, int64_t n, float limit, Sum* sum) {
  constexpr int64_t together = 16;  // added up in float32
  Doubles total{};
  Ints positives{};
  for (int64_t start = 0; start < n; start += together * kLanes) {
    const int64_t end = start + together * kLanes < n ? start + together * kLanes : n;
    Floats part{};
    for (int64_t i = start; i < end; i += kLanes) {
      const Together now = element(Logits::load(logits + i), read<Floats>(target + i), limit);
      part += now.weight * now.softplus;
      positives -= now.positive;
    }
    total += __builtin_convertvector(part, Doubles);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    sum->loss += total[lane];
    sum->positives += positives[lane];
  }
}

template <typename Logits>
void backward_block(const typename Logits::Type* logits, const float* target, typename Logits::Type* grad, int64_t n,
                    float limit, float scale) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Together now = element(Logits::load(logits + i), read<Floats>(target + i), limit);
    const Floats slope = scale * (now.weight * (now.u + 2.0f * (now.v * now.softplus)));
    Logits::store(grad + i, as<Floats>((as<Words>(slope) ^ now.sign) & ~now.clamped));
  }
}

template <typename Logits>
Kernels<typename Logits::Type> kernels_of() {
  return {kLanes, forward_block<Logits>, backward_block<Logits>};
}

inline void choose(Kernels<float>* kernels) { *kernels = kernels_of<F32>(); }
inline void choose(Kernels<Half>* kernels) { *kernels = kernels_of<F16>(); }
inline void choose(Kernels<BFloat16>* kernels) { *kernels = kernels_of<BF16>(); }
