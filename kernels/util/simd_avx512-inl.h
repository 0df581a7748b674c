// The vocabulary of simd-inl.h in AVX-512 F, BW, DQ, VL and VNNI.
#include <immintrin.h>

namespace tripos {
namespace {

using Vec = __m512;
using Ints = __m512i;
using Mask = __mmask16;
using Quad = __m512i;
constexpr int kLanes = 16;
constexpr bool kHasMasks = true;
constexpr int kSmallByte = 255;
constexpr int kDotBias = 128;

// -- Floats ------------------------------------------------------------------------------------------------------

inline Vec Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Mask FirstLanes(int n) { return static_cast<Mask>((1u << n) - 1); }
inline Vec LoadN(const float* p, int n) { return _mm512_maskz_loadu_ps(FirstLanes(n), p); }
inline void StoreN(float* p, Vec v, int n) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
inline Vec Set(float x) { return _mm512_set1_ps(x); }
inline Vec Ramp() { return _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }
inline Vec Add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec Sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec Mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec Div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec Fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// One Newton step from 14 bits: a division holds its unit up for 16 cycles.
inline Vec DivNear(Vec a, Vec b) {
  const Vec r = _mm512_rcp14_ps(b);
  return Mul(a, Fma(r, _mm512_fnmadd_ps(b, r, Set(1.0f)), r));
}
inline Vec Abs(Vec a) { return _mm512_abs_ps(a); }
inline Vec Round(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Mask Less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Vec Select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }
inline float SumLanes(Vec v) { return _mm512_reduce_add_ps(v); }
inline float MaxLanes(Vec v) { return _mm512_reduce_max_ps(v); }

template <int kRows>
inline Vec MaxEach(const Vec* v) {
  static_assert(kRows <= 8);
  const auto at = [v](int r) { return v[r < kRows ? r : 0]; };
  const auto quad = [&at](int r) {  // rows r to r + 3, in every 128 bits
    const Vec a = Max(_mm512_unpacklo_ps(at(r), at(r + 1)), _mm512_unpackhi_ps(at(r), at(r + 1)));
    const Vec b = Max(_mm512_unpacklo_ps(at(r + 2), at(r + 3)), _mm512_unpackhi_ps(at(r + 2), at(r + 3)));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return Max(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  };
  const Vec low = quad(0), high = kRows > 4 ? quad(4) : low;
  const Vec both = Max(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
  return Max(_mm512_shuffle_f32x4(both, both, 0x88), _mm512_shuffle_f32x4(both, both, 0xdd));
}

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

// -- Int32 -------------------------------------------------------------------------------------------------------

inline Ints SetInts(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints LoadInts(const void* p) { return _mm512_loadu_si512(p); }
inline Ints Add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints Sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints Max(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
inline Ints Xor(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
inline int32_t MaxLanes(Ints v) { return _mm512_reduce_max_epi32(v); }
inline Vec ToFloats(Ints v) { return _mm512_cvtepi32_ps(v); }
inline Ints BitsOf(Vec v) { return _mm512_castps_si512(v); }

inline Vec PowerOfTwo(Vec n) {
  const Ints biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
inline Vec TimesPowerOfTwo(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }

// -- Bytes -------------------------------------------------------------------------------------------------------

inline Quad SetQuad(const void* p) { return SetInts(LoadQuad(p)); }
// Not the intrinsic: gcc 12 copies every accumulator around it in tall tiles, at half the speed.
inline Ints Dot(Ints sum, Ints bytes, Quad signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes));
  return sum;
}
inline Ints DotSmall(Ints sum, Ints small_bytes, Ints signed_bytes) { return Dot(sum, small_bytes, signed_bytes); }
inline Ints DotBiased(Ints sum, Ints biased_bytes, Ints signed_bytes) { return Dot(sum, biased_bytes, signed_bytes); }
inline void LoadNibbles(const void* p, Ints* low, Ints* high) {
  const Ints bytes = LoadInts(p), mask = _mm512_set1_epi8(15);
  *low = _mm512_and_si512(bytes, mask);
  *high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
}
inline void StoreInt8(int8_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
}
inline void StoreSmallBytes(uint8_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(v)));
}

// -- Smaller floats ----------------------------------------------------------------------------------------------

inline __m256i LoadWords(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline Vec LoadHalf(const uint16_t* p) { return _mm512_cvtph_ps(LoadWords(p)); }
inline Vec LoadBf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(LoadWords(p)), 16));
}
inline void LoadBf16Pair(const void* p, Vec* low, Vec* high) {
  const Ints words = LoadInts(p);
  *low = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  *high = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
}
#if defined(__AVX512BF16__)
inline void StoreBf16(void* p, Vec v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
inline void StoreBf16Pairs(void* p, Vec even, Vec odd) {
  const Ints halves = reinterpret_cast<Ints>(_mm512_cvtne2ps_pbh(odd, even));
  const Ints order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                      20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(order, halves));
}
#endif
inline void LoadFp8Pair(const void* p, Vec* even, Vec* odd) {
  const auto widen = [](__m256i words) {  // s e4 m3 in the high byte, shifted right by one with the sign kept
    const __m256i mask = _mm256_set1_epi16(static_cast<int16_t>(0xBF80));
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(words, 1), mask));
  };
  const __m256i words = LoadWords(p);
  *even = widen(_mm256_slli_epi16(words, 8));
  *odd = widen(words);
}

}  // namespace
}  // namespace tripos
