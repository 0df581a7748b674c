// Norm, rope, activations and sums: one row at a time. Needs simd-inl.h.
#include "kernels/ops/gelu.h"
#include "kernels/ops/op_kernels.h"

namespace tripos {
namespace {

// Sum of f(x) over a group, lanes in column order and four vectors side by side, so that a row need not wait for one
// chain; in float, which is what the model was trained with.
inline float SumOf(const float* x, int n, float center, bool is_square) {
  const Vec c = Set(center);
  Vec sum[4] = {Set(0.0f), Set(0.0f), Set(0.0f), Set(0.0f)};
  const auto take = [&](Vec& total, Vec v) {
    v = Sub(v, c);
    total = is_square ? Fma(v, v, total) : Add(total, v);
  };
  int i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) take(sum[j], Load(x + i + j * kLanes));
  }
  for (; i + kLanes <= n; i += kLanes) take(sum[0], Load(x + i));
  if (i < n) {
    alignas(64) float rest[kLanes];
    for (int j = 0; j < kLanes; ++j) rest[j] = i + j < n ? x[i + j] : center;
    take(sum[0], Load(rest));
  }
  return SumLanes(Add(Add(sum[0], sum[1]), Add(sum[2], sum[3])));
}

void NormGroup(const NormArgs& args, const float* x, float* y) {
  const int n = args.group;
  const float mean = args.kind == NormKind::kLayer ? SumOf(x, n, 0.0f, false) / static_cast<float>(n) : 0.0f;
  const float variance = SumOf(x, n, mean, true) / static_cast<float>(n);
  const Vec inverse = Set(1.0f / std::sqrt(variance + args.eps));
  const Vec center = Set(mean);
  const auto normed = [&](Vec v, Vec weight, Vec bias) { return Add(Mul(Mul(Sub(v, center), inverse), weight), bias); };
  const bool has_bias = args.bias != nullptr;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Store(y + i, normed(Load(x + i), Load(args.weight + i), has_bias ? Load(args.bias + i) : Set(0.0f)));
  }
  if (i == n) return;
  const int rest = n - i;
  StoreN(y + i, normed(LoadN(x + i, rest), LoadN(args.weight + i, rest), has_bias ? LoadN(args.bias + i, rest) : Set(0.0f)), rest);
}

void Norm(const NormArgs& args, const float* x, float* y) {
  for (int at = 0; at < args.cols; at += args.group) NormGroup(args, x + at, y + at);
}

void Rope(const float* x, float* y, int cols, int head_dim, int half, const float* cos, const float* sin) {
  for (int head = 0; head < cols; head += head_dim) {
    const float* a = x + head;
    float* out = y + head;
    for (int i = 0; i < half; i += kLanes) {
      const int lanes = half - i < kLanes ? half - i : kLanes;
      const Vec low = LoadN(a + i, lanes), high = LoadN(a + half + i, lanes);
      const Vec c = LoadN(cos + i, lanes), s = LoadN(sin + i, lanes);
      StoreN(out + i, Sub(Mul(low, c), Mul(high, s)), lanes);
      StoreN(out + half + i, Add(Mul(high, c), Mul(low, s)), lanes);
    }
    for (int i = 2 * half; i < head_dim; ++i) out[i] = a[i];
  }
}

// tanh with a small relative error near 0 too, where Tanh only has a small absolute one (Cephes tanhf).
inline Vec RelativeTanh(Vec x) {
  const Vec z = Mul(x, x);
  Vec p = Fma(Set(-5.70498872745e-3f), z, Set(2.06390887954e-2f));
  p = Fma(p, z, Set(-5.37397155531e-2f));
  p = Fma(p, z, Set(1.33314422036e-1f));
  p = Fma(p, z, Set(-3.33332819422e-1f));
  return Select(Less(Abs(x), Set(0.625f)), Fma(Mul(p, z), x, x), Tanh(x));
}

// x (1 + erf(x / sqrt(2))) / 2
inline Vec Gelu(Vec x) {
  const Vec z = Min(Max(Mul(x, Set(0.70710678f)), Set(-kErfEnd)), Set(kErfEnd));
  const Vec t = Fma(Mul(z, z), Set(2.0f / (kErfEnd * kErfEnd)), Set(-1.0f));
  Vec p = Set(kErfCoefficients[kErfDegree]);
  for (int i = kErfDegree - 1; i >= 0; --i) p = Fma(p, t, Set(kErfCoefficients[i]));
  const Vec half = Mul(x, Set(0.5f));
  return Fma(half, Mul(z, p), half);
}

template <ActKind kAct>
inline Vec Activate(Vec x) {
  if constexpr (kAct == ActKind::kSilu) {
    return Div(x, Add(Set(1.0f), Exp(Sub(Set(0.0f), x))));
  } else if constexpr (kAct == ActKind::kGelu) {
    return Gelu(x);
  } else if constexpr (kAct == ActKind::kGeluTanh) {
    const Vec cube = Mul(Mul(Mul(Set(0.044715f), x), x), x);
    return Mul(Mul(Set(0.5f), x), Add(Set(1.0f), Tanh(Mul(Set(0.7978845608f), Add(x, cube)))));
  } else if constexpr (kAct == ActKind::kTanh) {
    return RelativeTanh(x);
  } else {
    return Max(x, Set(0.0f));
  }
}

template <ActKind kAct>
void GluOf(const float* gate, const float* up, float* y, int cols) {
  for (int i = 0; i < cols; i += kLanes) {
    const int lanes = cols - i < kLanes ? cols - i : kLanes;
    Vec v = Activate<kAct>(LoadN(gate + i, lanes));
    if (up != nullptr) v = Mul(v, LoadN(up + i, lanes));
    StoreN(y + i, v, lanes);
  }
}

void Glu(ActKind act, const float* gate, const float* up, float* y, int cols) {
  switch (act) {
    case ActKind::kSilu: return GluOf<ActKind::kSilu>(gate, up, y, cols);
    case ActKind::kGelu: return GluOf<ActKind::kGelu>(gate, up, y, cols);
    case ActKind::kGeluTanh: return GluOf<ActKind::kGeluTanh>(gate, up, y, cols);
    case ActKind::kRelu: return GluOf<ActKind::kRelu>(gate, up, y, cols);
    case ActKind::kTanh: return GluOf<ActKind::kTanh>(gate, up, y, cols);
  }
}

void Act(ActKind act, const float* x, float* y, int cols) { Glu(act, x, nullptr, y, cols); }

void AddRows(const float* a, const float* b, float* y, int cols) {
  for (int i = 0; i < cols; i += kLanes) {
    const int lanes = cols - i < kLanes ? cols - i : kLanes;
    StoreN(y + i, Add(LoadN(a + i, lanes), LoadN(b + i, lanes)), lanes);
  }
}

void ScaleRow(float* x, float factor, int cols) {
  for (int i = 0; i < cols; i += kLanes) {
    const int lanes = cols - i < kLanes ? cols - i : kLanes;
    StoreN(x + i, Mul(LoadN(x + i, lanes), Set(factor)), lanes);
  }
}

}  // namespace
}  // namespace tripos
