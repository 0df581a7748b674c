// The vocabulary of simd-inl.h in AVX2, FMA and F16C.
#include <immintrin.h>

namespace tripos {
namespace {

using Vec = __m256;
using Ints = __m256i;
using Mask = __m256;
// Widened to 16 bits: the int16 sums of vpmaddubsw would saturate at 255 * 127 twice.
struct Quad {
  __m256i even, odd;
};
constexpr int kLanes = 8;
constexpr bool kHasMasks = false;
constexpr int kSmallByte = 127;
constexpr int kDotBias = 0;

// -- Floats ------------------------------------------------------------------------------------------------------

inline Vec Load(const float* p) { return _mm256_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}
inline Vec LoadN(const float* p, int n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
inline void StoreN(float* p, Vec v, int n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }
inline Vec Set(float x) { return _mm256_set1_ps(x); }
inline Vec Ramp() { return _mm256_set_ps(7, 6, 5, 4, 3, 2, 1, 0); }
inline Vec Add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec DivNear(Vec a, Vec b) { return Div(a, b); }
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

template <int kRows>
inline Vec MaxEach(const Vec* v) {
  static_assert(kRows <= kLanes);
  float largest[kLanes] = {};
  for (int r = 0; r < kRows; ++r) largest[r] = MaxLanes(v[r]);
  return Load(largest);
}

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

// -- Int32 -------------------------------------------------------------------------------------------------------

inline Ints SetInts(int32_t x) { return _mm256_set1_epi32(x); }
inline Ints LoadInts(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Ints Add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Ints Sub(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Ints Max(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
inline Ints Xor(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
inline int32_t MaxLanes(Ints v) {
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}
inline Vec ToFloats(Ints v) { return _mm256_cvtepi32_ps(v); }
inline Ints BitsOf(Vec v) { return _mm256_castps_si256(v); }

inline Vec PowerOfTwo(Vec n) {
  const Ints biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Vec TimesPowerOfTwo(Vec x, Vec n) {
  const Vec low = Set(-126.0f);
  return Select(Less(n, low), Set(0.0f), Mul(x, PowerOfTwo(Max(low, n))));
}

// -- Bytes -------------------------------------------------------------------------------------------------------

inline Quad SetQuad(const void* p) {
  const Ints each = SetInts(LoadQuad(p));
  return {_mm256_srai_epi16(_mm256_slli_epi16(each, 8), 8), _mm256_srai_epi16(each, 8)};
}
inline Ints Dot(Ints sum, Ints bytes, Quad signed_bytes) {
  const Ints even = _mm256_and_si256(bytes, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(bytes, 8);
  return Add(sum, Add(_mm256_madd_epi16(even, signed_bytes.even), _mm256_madd_epi16(odd, signed_bytes.odd)));
}
inline Ints DotSmall(Ints sum, Ints small_bytes, Ints signed_bytes) {  // 127 * 128 twice fits int16
  return Add(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(small_bytes, signed_bytes), _mm256_set1_epi16(1)));
}
inline Ints DotBiased(Ints sum, Ints biased_bytes, Ints signed_bytes) {
  const Ints bytes = _mm256_xor_si256(biased_bytes, _mm256_set1_epi8(-128));
  return DotSmall(sum, _mm256_abs_epi8(signed_bytes), _mm256_sign_epi8(bytes, signed_bytes));
}
inline void LoadNibbles(const void* p, Ints* low, Ints* high) {
  const Ints bytes = LoadInts(p), mask = _mm256_set1_epi8(15);
  *low = _mm256_and_si256(bytes, mask);
  *high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
}
inline void StoreInt8(int8_t* p, Vec v) {
  const Ints rounded = _mm256_cvtps_epi32(v);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline void StoreSmallBytes(uint8_t* p, Vec v) { StoreInt8(reinterpret_cast<int8_t*>(p), v); }

// -- Smaller floats ----------------------------------------------------------------------------------------------

inline __m128i LoadWords(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline Vec LoadHalf(const uint16_t* p) { return _mm256_cvtph_ps(LoadWords(p)); }
inline Vec LoadBf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(LoadWords(p)), 16));
}
inline void LoadBf16Pair(const void* p, Vec* low, Vec* high) {
  const Ints words = LoadInts(p);
  *low = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  *high = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
}
inline void LoadFp8Pair(const void* p, Vec* even, Vec* odd) {
  const auto widen = [](__m128i words) {  // s e4 m3 in the high byte, shifted right by one with the sign kept
    const __m128i mask = _mm_set1_epi16(static_cast<int16_t>(0xBF80));
    return _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(words, 1), mask));
  };
  const __m128i words = LoadWords(p);
  *even = widen(_mm_slli_epi16(words, 8));
  *odd = widen(words);
}

}  // namespace
}  // namespace tripos
