// Plain C++: the definition of the vector operations, and what runs where no better instruction set is.
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/ops/linear_kernels.h"
#include "kernels/quant/floats.h"

namespace tripos::linear {
namespace {

struct Simd {
  static constexpr int kLanes = 4;
  static constexpr int kMaxRowsFloat = 2;
  static constexpr int kMaxRowsInt8 = 2;
  static constexpr int kMaxRowsGroup = 2;

  struct F {
    float v[kLanes];
  };
  struct I {
    int32_t v[kLanes];
  };
  struct Quad {
    int8_t v[4];
  };
  using NibbleQuad = Quad;

  template <class Function>
  static F MapF(Function function) {
    F out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = function(i);
    return out;
  }
  template <class Function>
  static I MapI(Function function) {
    I out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = static_cast<int32_t>(function(i));
    return out;
  }
  static uint32_t Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
  }
  static float FromBits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }

  static void Prefetch(const void*) {}
  static void PrefetchL2(const void*) {}
  static F Zero() { return {}; }
  static F Set1(float x) { return MapF([=](int) { return x; }); }
  static F Load(const float* p) { return MapF([=](int i) { return p[i]; }); }
  static void Store(float* p, F x) { std::memcpy(p, x.v, sizeof(x.v)); }
  static F Fma(F a, F b, F c) { return MapF([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
  static F Mul(F a, F b) { return MapF([&](int i) { return a.v[i] * b.v[i]; }); }
  static F Div(F a, F b) { return MapF([&](int i) { return a.v[i] / b.v[i]; }); }
  static F Add(F a, F b) { return MapF([&](int i) { return a.v[i] + b.v[i]; }); }
  static F Min(F a, F b) { return MapF([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
  static F Max(F a, F b) { return MapF([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static F Round(F x) { return MapF([&](int i) { return std::nearbyintf(x.v[i]); }); }
  static F Pow2(F n) {
    return MapF([&](int i) { return FromBits((static_cast<uint32_t>(static_cast<int32_t>(n.v[i])) + 127u) << 23); });
  }
  static F ToFloat(I x) { return MapF([&](int i) { return static_cast<float>(x.v[i]); }); }
  static F LoadF16(const uint16_t* p) { return MapF([=](int i) { return quant::FromF16(p[i]); }); }
  static void LoadBF16Pair(const uint8_t* p, F* lo, F* hi) {
    uint32_t words[kLanes];
    std::memcpy(words, p, sizeof(words));
    *lo = MapF([&](int i) { return FromBits(words[i] << 16); });
    *hi = MapF([&](int i) { return FromBits(words[i] & 0xFFFF0000u); });
  }
  // Even k in the low bytes; the value / 256.
  static void LoadFp8Pair(const uint8_t* p, F* even, F* odd) {
    const auto half = [](uint32_t byte) {
      return quant::FromF16(static_cast<uint16_t>((byte & 0x80u) << 8 | (byte & 0x7Fu) << 7));
    };
    *even = MapF([=](int i) { return half(p[2 * i]); });
    *odd = MapF([=](int i) { return half(p[2 * i + 1]); });
  }

  static I ZeroI() { return {}; }
  static I Set1I(int32_t x) { return MapI([=](int) { return x; }); }
  static I AddI(I a, I b) {
    return MapI([&](int i) { return static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]); });
  }
  static I SubI(I a, I b) {
    return MapI([&](int i) { return static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i]); });
  }
  static I MaxI(I a, I b) { return MapI([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static I AbsBits(F x) { return MapI([&](int i) { return Bits(x.v[i]) & 0x7FFFFFFFu; }); }
  static I RoundToInt(F x) {  // NaN gives 0: the row's scale carries it
    return MapI([&](int i) { return x.v[i] == x.v[i] ? static_cast<int32_t>(std::nearbyintf(x.v[i])) : 0; });
  }
  static int32_t MaxLanes(I x) {
    int32_t largest = x.v[0];
    for (int i = 1; i < kLanes; ++i) largest = x.v[i] > largest ? x.v[i] : largest;
    return largest;
  }
  static void StoreBytes(int8_t* p, I x) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(x.v[i]);
  }
  static int32_t SumGroup(const int8_t* p) {
    int32_t sum = 0;
    for (int64_t i = 0; i < kGroup; ++i) sum += p[i];
    return sum;
  }

  // Four weights per 32-bit lane.
  static I LoadI(const uint8_t* p) {
    I out;
    std::memcpy(out.v, p, sizeof(out.v));
    return out;
  }
  static void LoadNibbles(const uint8_t* p, I* low, I* high) {
    const I bytes = LoadI(p);
    *low = MapI([&](int i) { return static_cast<uint32_t>(bytes.v[i]) & 0x0F0F0F0Fu; });
    *high = MapI([&](int i) { return (static_cast<uint32_t>(bytes.v[i]) >> 4) & 0x0F0F0F0Fu; });
  }
  static Quad BroadcastQuad(const uint8_t* p) {
    Quad out;
    std::memcpy(out.v, p, 4);
    return out;
  }
  static NibbleQuad BroadcastNibbleQuad(const uint8_t* p) { return BroadcastQuad(p); }
  // acc + sum of four (unsigned weight x signed activation) products per lane, modulo 2^32.
  static I Dot(I acc, I w, Quad a) {
    return MapI([&](int i) {
      const uint32_t u = static_cast<uint32_t>(w.v[i]);
      const int32_t sum = static_cast<int32_t>(u & 255u) * a.v[0] + static_cast<int32_t>(u >> 8 & 255u) * a.v[1] +
                          static_cast<int32_t>(u >> 16 & 255u) * a.v[2] + static_cast<int32_t>(u >> 24) * a.v[3];
      return static_cast<uint32_t>(acc.v[i]) + static_cast<uint32_t>(sum);
    });
  }
  static I DotNibble(I acc, I w, NibbleQuad a) { return Dot(acc, w, a); }
};

}  // namespace
}  // namespace tripos::linear

#include "kernels/ops/linear-inl.h"

namespace tripos::linear {

const Kernels kScalarKernels = {"scalar", [] { return true; }, Prepare, Run};

}  // namespace tripos::linear
