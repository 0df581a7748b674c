// Norm, rope, activations and sums: one row at a time. Needs simd-inl.h and math-inl.h.
#include "kernels/ops/rows.h"

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
  for (int i = 0; i < n; i += kLanes) {
    const Vec bias = args.bias != nullptr ? LoadPart(args.bias + i, n - i) : Set(0.0f);
    StorePart(y + i, normed(LoadPart(x + i, n - i), LoadPart(args.weight + i, n - i), bias), n - i);
  }
}

void Norm(const NormArgs& args, const float* x, float* y) {
  for (int at = 0; at < args.cols; at += args.group) NormGroup(args, x + at, y + at);
}

void Rope(const float* x, float* y, int cols, int head_dim, int half, const float* cos, const float* sin) {
  for (int head = 0; head < cols; head += head_dim) {
    const float* a = x + head;
    float* out = y + head;
    for (int i = 0; i < half; i += kLanes) {
      const int rest = half - i;
      const Vec low = LoadPart(a + i, rest), high = LoadPart(a + half + i, rest);
      const Vec c = LoadPart(cos + i, rest), s = LoadPart(sin + i, rest);
      StorePart(out + i, Sub(Mul(low, c), Mul(high, s)), rest);
      StorePart(out + half + i, Add(Mul(high, c), Mul(low, s)), rest);
    }
    for (int i = 2 * half; i < head_dim; ++i) out[i] = a[i];
  }
}

template <ActKind kAct>
inline Vec Activate(Vec x) {
  if constexpr (kAct == ActKind::kSilu) {
    return Silu(x);
  } else if constexpr (kAct == ActKind::kGelu) {
    return Gelu(x);
  } else if constexpr (kAct == ActKind::kGeluTanh) {
    return GeluTanh(x);
  } else if constexpr (kAct == ActKind::kTanh) {
    return Tanh(x);
  } else {
    return Max(Set(0.0f), x);
  }
}

template <ActKind kAct>
void GluOf(const float* gate, const float* up, float* y, int cols) {
  for (int i = 0; i < cols; i += kLanes) {
    Vec v = Activate<kAct>(LoadPart(gate + i, cols - i));
    if (up != nullptr) v = Mul(v, LoadPart(up + i, cols - i));
    StorePart(y + i, v, cols - i);
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
    StorePart(y + i, Add(LoadPart(a + i, cols - i), LoadPart(b + i, cols - i)), cols - i);
  }
}

void ScaleRow(float* x, float factor, int cols) {
  for (int i = 0; i < cols; i += kLanes) {
    StorePart(x + i, Mul(LoadPart(x + i, cols - i), Set(factor)), cols - i);
  }
}

}  // namespace
}  // namespace tripos
