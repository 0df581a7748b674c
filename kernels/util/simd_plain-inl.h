// The vocabulary of simd-inl.h in gcc's vectors of four lanes, which every 64-bit machine has: its definition.
#include "kernels/quant/floats.h"

namespace tripos {
namespace {

using Vec = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));  // of sums modulo 2^32
using Halves = uint16_t __attribute__((vector_size(8)));
using Pairs = int16_t __attribute__((vector_size(16)));
using Mask = Ints;
using Quad = Ints;
constexpr int kLanes = 4;
constexpr bool kHasMasks = false;
constexpr int kSmallByte = 255;
constexpr int kDotBias = 128;

template <typename T>
inline T LoadAs(const void* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// -- Floats ------------------------------------------------------------------------------------------------------

inline Vec Load(const float* p) { return LoadAs<Vec>(p); }
inline void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec LoadN(const float* p, int n) {
  Vec v = {};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
inline void StoreN(float* p, Vec v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
inline Vec Set(float x) { return Vec{x, x, x, x}; }
inline Vec Ramp() { return Vec{0, 1, 2, 3}; }
inline Vec Add(Vec a, Vec b) { return a + b; }
inline Vec Sub(Vec a, Vec b) { return a - b; }
inline Vec Mul(Vec a, Vec b) { return a * b; }
inline Vec Div(Vec a, Vec b) { return a / b; }
inline Vec DivNear(Vec a, Vec b) { return Div(a, b); }
inline Mask Less(Vec a, Vec b) { return a < b; }
inline Vec Select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
inline Vec Max(Vec a, Vec b) { return Select(a > b, a, b); }
inline Vec Min(Vec a, Vec b) { return Select(a < b, a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec Abs(Vec a) { return reinterpret_cast<Vec>(reinterpret_cast<Ints>(a) & 0x7fffffff); }
// Exact for |a| < 2^22; what is larger stays as large.
inline Vec Round(Vec a) {
  const Vec shift = Set(12582912.0f);
  return (a + shift) - shift;
}
inline float SumLanes(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float MaxLanes(Vec v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}

template <int kRows>
inline Vec MaxEach(const Vec* v) {
  static_assert(kRows <= kLanes);
  Vec largest = {};
  for (int r = 0; r < kRows; ++r) largest[r] = MaxLanes(v[r]);
  return largest;
}

inline void Transpose(Vec* v) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = i + 1; j < kLanes; ++j) {
      const float swapped = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = swapped;
    }
  }
}

// -- Int32 -------------------------------------------------------------------------------------------------------

inline Ints SetInts(int32_t x) { return Ints{x, x, x, x}; }
inline Ints LoadInts(const void* p) { return LoadAs<Ints>(p); }
inline Words WordsOf(Ints v) { return reinterpret_cast<Words>(v); }
inline Ints Add(Ints a, Ints b) { return reinterpret_cast<Ints>(WordsOf(a) + WordsOf(b)); }
inline Ints Sub(Ints a, Ints b) { return reinterpret_cast<Ints>(WordsOf(a) - WordsOf(b)); }
inline Ints Max(Ints a, Ints b) { return a > b ? a : b; }
inline Ints Xor(Ints a, Ints b) { return a ^ b; }
inline int32_t MaxLanes(Ints v) {
  const int32_t a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
inline Vec ToFloats(Ints v) { return __builtin_convertvector(v, Vec); }
inline Ints BitsOf(Vec v) { return reinterpret_cast<Ints>(v); }

inline Vec PowerOfTwo(Vec n) { return reinterpret_cast<Vec>((__builtin_convertvector(n, Ints) + 127) << 23); }
inline Vec TimesPowerOfTwo(Vec x, Vec n) {
  const Vec low = Set(-126.0f);
  return Select(Less(n, low), Set(0.0f), Mul(x, PowerOfTwo(Max(low, n))));
}

// -- Bytes -------------------------------------------------------------------------------------------------------

inline Quad SetQuad(const void* p) { return SetInts(LoadQuad(p)); }
// A product of two bytes fits 16 bits, a sum of two does not.
inline Ints Dot(Ints sum, Ints bytes, Quad signed_bytes) {
  const Pairs a = reinterpret_cast<Pairs>(signed_bytes);
  const Pairs even = reinterpret_cast<Pairs>(bytes & 0x00ff00ff) * ((a << 8) >> 8);
  const Pairs odd = reinterpret_cast<Pairs>((WordsOf(bytes) >> 8) & 0x00ff00ffu) * (a >> 8);
  const Ints x = reinterpret_cast<Ints>(even), y = reinterpret_cast<Ints>(odd);
  return Add(sum, (((x << 16) >> 16) + (x >> 16)) + (((y << 16) >> 16) + (y >> 16)));
}
inline Ints DotSmall(Ints sum, Ints small_bytes, Ints signed_bytes) { return Dot(sum, small_bytes, signed_bytes); }
inline Ints DotBiased(Ints sum, Ints biased_bytes, Ints signed_bytes) { return Dot(sum, biased_bytes, signed_bytes); }
inline void LoadNibbles(const void* p, Ints* low, Ints* high) {
  const Ints bytes = LoadInts(p);
  *low = bytes & 0x0f0f0f0f;
  *high = (bytes >> 4) & 0x0f0f0f0f;
}
inline void StoreInt8(int8_t* p, Vec v) {
  const Vec rounded = Round(v);
  for (int i = 0; i < kLanes; ++i) {
    p[i] = rounded[i] >= -128.0f && rounded[i] <= 127.0f ? static_cast<int8_t>(rounded[i]) : int8_t{0};
  }
}
inline void StoreSmallBytes(uint8_t* p, Vec v) {
  const Vec rounded = Round(v);
  for (int i = 0; i < kLanes; ++i) {
    p[i] = rounded[i] >= 0.0f && rounded[i] <= 255.0f ? static_cast<uint8_t>(rounded[i]) : uint8_t{0};
  }
}

// -- Smaller floats ----------------------------------------------------------------------------------------------

inline Words LoadWords(const void* p) { return __builtin_convertvector(LoadAs<Halves>(p), Words); }
// The shifted bits are the value / 2^112, subnormals included.
inline Vec FromHalves(Words h) {
  const Words magnitude = (h & 0x7fffu) << 13;
  const Words scaled = reinterpret_cast<Words>(reinterpret_cast<Vec>(magnitude) * Set(0x1p112f));
  const Words special = reinterpret_cast<Words>(reinterpret_cast<Ints>(magnitude) >= 31 << 23) & 0x7f800000u;
  return reinterpret_cast<Vec>(scaled | special | (h & 0x8000u) << 16);
}
inline Vec LoadHalf(const uint16_t* p) { return FromHalves(LoadWords(p)); }
inline Vec LoadBf16(const uint16_t* p) { return reinterpret_cast<Vec>(LoadWords(p) << 16); }
inline void LoadBf16Pair(const void* p, Vec* low, Vec* high) {
  const Words words = LoadAs<Words>(p);
  *low = reinterpret_cast<Vec>(words << 16);
  *high = reinterpret_cast<Vec>(words & 0xffff0000u);
}
inline void StoreBf16(void* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) {
    const uint16_t half = quant::ToBF16(v[i]);
    std::memcpy(static_cast<uint8_t*>(p) + 2 * i, &half, sizeof half);
  }
}
inline void StoreBf16Pairs(void* p, Vec even, Vec odd) {
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t word = uint32_t{quant::ToBF16(odd[i])} << 16 | quant::ToBF16(even[i]);
    std::memcpy(static_cast<uint8_t*>(p) + 4 * i, &word, sizeof word);
  }
}
inline void LoadFp8Pair(const void* p, Vec* even, Vec* odd) {
  const auto widen = [](Words byte) { return FromHalves((byte & 0x80u) << 8 | (byte & 0x7fu) << 7); };
  const Words words = LoadWords(p);
  *even = widen(words);
  *odd = widen(words >> 8);
}

}  // namespace
}  // namespace tripos
