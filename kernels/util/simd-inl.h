// One vector of floats, in the widest form that this translation unit's flags allow. Included once per instruction
// set; everything is in an anonymous namespace, so that no wide instruction can leak through an inline function that
// the linker merged.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tripos {
namespace {

#if defined(__AVX512F__)

using Vec = __m512;
using Bits = __m512i;
using Mask = __mmask16;
constexpr int kLanes = 16;

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Mask FirstLanes(int n) { return static_cast<Mask>((1u << n) - 1); }
inline Vec LoadN(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void StoreN(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec Abs(Vec a) { return _mm512_abs_ps(a); }
inline Vec Round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Mask Less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Vec Select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }
inline float SumLanes(Vec v) { return _mm512_reduce_add_ps(v); }
inline float MaxLanes(Vec v) { return _mm512_reduce_max_ps(v); }
// 2^n for integral n in [-126, 127].
inline Vec PowerOfTwo(Vec n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
// Column i of kLanes rows becomes v[i].
inline void Transpose(Vec* v) {
  Vec t[16];
  const auto pair = [](Vec a, Vec b, bool is_high) {  // of 64-bit values
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(is_high ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  };
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // v[i + j]: columns j, 4 + j, 8 + j and 12 + j of rows i to i + 3
    for (int j = 0; j < 4; ++j) v[i + j] = pair(t[i + j / 2], t[i + 2 + j / 2], j % 2 != 0);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    for (int half = 0; half < 2; ++half) {
      t[8 * half + j] = _mm512_shuffle_f32x4(v[8 * half + j], v[8 * half + 4 + j], 0x88);
      t[8 * half + 4 + j] = _mm512_shuffle_f32x4(v[8 * half + j], v[8 * half + 4 + j], 0xdd);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0x88);
    v[8 + i] = _mm512_shuffle_f32x4(t[i], t[8 + i], 0xdd);
  }
}
inline Vec Ramp() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }
inline Vec LoadHalf(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

#elif defined(__AVX2__)

using Vec = __m256;
using Mask = __m256;
constexpr int kLanes = 8;

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
inline Vec LoadN(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void StoreN(float* p, Vec v, int n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }
inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec Abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline Vec Round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Mask Less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Vec Select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }
inline float SumLanes(Vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float MaxLanes(Vec v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline Vec PowerOfTwo(Vec n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
// Column i of kLanes rows becomes v[i].
inline void Transpose(Vec* v) {
  Vec t[8];
  const auto pair = [](Vec a, Vec b, bool is_high) {  // of 64-bit values
    const __m256d x = _mm256_castps_pd(a), y = _mm256_castps_pd(b);
    return _mm256_castpd_ps(is_high ? _mm256_unpackhi_pd(x, y) : _mm256_unpacklo_pd(x, y));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // v[i + j]: columns j and 4 + j of rows i to i + 3
    for (int j = 0; j < 4; ++j) v[i + j] = pair(t[i + j / 2], t[i + 2 + j / 2], j % 2 != 0);
  }
  for (int j = 0; j < 4; ++j) {
    t[j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x20);
    t[4 + j] = _mm256_permute2f128_ps(v[j], v[4 + j], 0x31);
  }
  for (int i = 0; i < 8; ++i) v[i] = t[i];
}
inline Vec Ramp() { return _mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0); }
inline Vec LoadHalf(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

#else  // plain C++: four lanes, which every 64-bit machine has

using Vec = float __attribute__((vector_size(16)));
using Mask = int32_t __attribute__((vector_size(16)));
constexpr int kLanes = 4;

inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
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
inline Vec Add(Vec a, Vec b) { return a + b; }
inline Vec Sub(Vec a, Vec b) { return a - b; }
inline Vec Mul(Vec a, Vec b) { return a * b; }
inline Vec Div(Vec a, Vec b) { return a / b; }
inline Mask Less(Vec a, Vec b) { return a < b; }
inline Vec Select(Mask m, Vec yes, Vec no) { return m ? yes : no; }
inline Vec Max(Vec a, Vec b) { return Select(a > b, a, b); }
inline Vec Min(Vec a, Vec b) { return Select(a < b, a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec Abs(Vec a) { return reinterpret_cast<Vec>(reinterpret_cast<Mask>(a) & 0x7fffffff); }
// Exact for |a| < 2^22, which is all that Exp asks of it.
inline Vec Round(Vec a) {
  const Vec shift = Set(12582912.0f);
  return (a + shift) - shift;
}
inline float SumLanes(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float MaxLanes(Vec v) {
  const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
  return a > b ? a : b;
}
inline Vec PowerOfTwo(Vec n) { return reinterpret_cast<Vec>((__builtin_convertvector(n, Mask) + 127) << 23); }
// Column i of kLanes rows becomes v[i].
inline void Transpose(Vec* v) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = i + 1; j < kLanes; ++j) {
      const float swapped = v[i][j];
      v[i][j] = v[j][i];
      v[j][i] = swapped;
    }
  }
}
inline Vec Ramp() { return Vec{0, 1, 2, 3}; }
inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  // Scaling by 2^112 moves the exponent from float16's bias to float32's and makes subnormals come out right.
  std::memcpy(&value, &magnitude, sizeof value);
  value *= 0x1p112f;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000;
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline Vec LoadHalf(const uint16_t* p) {
  return Vec{HalfToFloat(p[0]), HalfToFloat(p[1]), HalfToFloat(p[2]), HalfToFloat(p[3])};
}

#endif

// Round to nearest even, as the hardware conversions do; overflow becomes infinity.
inline uint16_t FloatToHalf(float x) {
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (bits >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
  if (bits < 0x38800000) {  // subnormal in float16: let float addition do the rounding
    float y;
    std::memcpy(&y, &bits, sizeof y);
    y += 0.5f;
    std::memcpy(&bits, &y, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000));
  }
  return static_cast<uint16_t>(sign | ((bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13));
#endif
}

// e^x within 2 ulp. Below -87.3 exactly 0, so that a masked score weighs nothing; above 88.3 it saturates.
inline Vec Exp(Vec x) {
  const Vec low = Set(-87.3f);
  const Vec clamped = Min(Max(x, low), Set(88.3f));
  const Vec n = Round(Mul(clamped, Set(1.44269504f)));
  Vec r = Fma(n, Set(-0.693359375f), clamped);  // ln 2 in two parts (Cody and Waite)
  r = Fma(n, Set(2.12194440e-4f), r);
  Vec p = Set(1.9875691500e-4f);  // minimax on [-ln2/2, ln2/2] (Cephes expf)
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Add(Fma(Mul(r, r), p, r), Set(1.0f));
  return Select(Less(x, low), Set(0.0f), Mul(p, PowerOfTwo(n)));
}

inline Vec Tanh(Vec x) {
  return Sub(Set(1.0f), Div(Set(2.0f), Add(Exp(Add(x, x)), Set(1.0f))));
}

}  // namespace
}  // namespace tripos
