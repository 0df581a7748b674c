// Affine int4 in groups of 32: a search over scales, each refined by least squares, on four groups side by side.
#include <algorithm>
#include <cstring>

#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"

namespace tripos::quant {
namespace {

constexpr int kLanes = 4;  // groups at once: wider than the plain registers, gcc takes vectors apart
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));  // gcc's, on any instruction set
using Mask = int32_t __attribute__((vector_size(kLanes * sizeof(int32_t))));

struct Groups {
  Lanes x[kGroupSize];
  Lanes low, high, sum;
};

// The nearest levels 0..15.
inline Lanes LevelOf(Lanes x, Lanes inverse, Lanes minimum) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to an integer
  const Lanes zero = {}, top = zero + 15.0f;
  Lanes level = (x - minimum) * inverse;
  level = level < top ? level : top;
  level = level > zero ? level : zero;
  return (level + kRound) - kRound;
}

struct Fit {
  Lanes error, sum_q, sum_qq, sum_qx;
};

Fit Measure(const Groups& groups, Lanes scale, Lanes minimum) {
  Fit fit = {};
  const Lanes inverse = 1.0f / scale;
  for (const Lanes& x : groups.x) {
    const Lanes level = LevelOf(x, inverse, minimum);
    const Lanes difference = scale * level + minimum - x;
    fit.error += difference * difference;
    fit.sum_q += level;
    fit.sum_qq += level * level;
    fit.sum_qx += level * x;
  }
  return fit;
}

Groups Load(const float* x, int count) {
  Groups groups = {};
  for (int g = 0; g < count; ++g)
    for (int i = 0; i < kGroupSize; ++i) groups.x[i][g] = x[g * kGroupSize + i];
  groups.low = groups.high = groups.x[0];
  for (const Lanes& values : groups.x) {
    groups.low = values < groups.low ? values : groups.low;
    groups.high = values > groups.high ? values : groups.high;
    groups.sum += values;
  }
  return groups;
}

// The scale and minimum of least squared error among the candidates.
void Search(const Groups& groups, Lanes range, Lanes* best_scale, Lanes* best_minimum) {
  constexpr float kSize = kGroupSize;
  constexpr float kShrink[] = {1.0f, 0.94f, 0.88f, 0.8f};  // of the range, around its centre
  const Lanes zero = {};
  Lanes best_error = zero + 3.4e38f;
  for (const float shrink : kShrink) {
    Lanes scale = range * (shrink / 15.0f);
    Lanes minimum = 0.5f * (groups.low + groups.high) - 7.5f * scale;
    for (int round = 0; round < 2; ++round) {
      const Fit fit = Measure(groups, scale, minimum);
      const Mask is_better = fit.error < best_error;
      best_error = is_better ? fit.error : best_error;
      *best_scale = is_better ? scale : *best_scale;
      *best_minimum = is_better ? minimum : *best_minimum;
      const Lanes refined = (kSize * fit.sum_qx - fit.sum_q * groups.sum) /
                            (kSize * fit.sum_qq - fit.sum_q * fit.sum_q);
      scale = refined > zero ? refined : scale;  // also where it is not a number
      minimum = (groups.sum - scale * fit.sum_q) * (1.0f / kSize);
    }
  }
}

void QuantizeFour(const float* x, int count, Int4Group* out) {
  const Groups groups = Load(x, count);
  const Lanes zero = {}, range = groups.high - groups.low;
  const Mask is_flat = range > zero + 1e-7f ? Mask{} : ~Mask{};  // or not a number
  Lanes scale = zero + 1.0f, minimum = groups.low;
  Search(groups, is_flat ? zero + 1.0f : range, &scale, &minimum);
  Lanes rounded_scale = {}, rounded_minimum = {};
  for (int g = 0; g < count; ++g) {
    const bool is_finite = groups.sum[g] - groups.sum[g] == 0.0f;
    out[g].scale = is_flat[g] || !is_finite ? uint16_t{0} : ToF16(scale[g]);
    const float value = out[g].scale == 0 ? groups.low[g] : minimum[g];
    out[g].minimum = ToF16(is_finite ? value : groups.sum[g]);  // the weight's NaN or infinity shows in every output
    rounded_scale[g] = out[g].scale == 0 ? 3e38f : FromF16(out[g].scale);
    rounded_minimum[g] = FromF16(out[g].minimum);
  }
  const Lanes inverse = 1.0f / rounded_scale;
  for (int i = 0; i < kGroupSize; ++i) {
    const Lanes level = LevelOf(groups.x[i], inverse, rounded_minimum);
    for (int g = 0; g < count; ++g) out[g].q[i] = static_cast<uint8_t>(level[g]);
  }
}

}  // namespace

void QuantizeInt4(const float* x, int64_t num_groups, Int4Group* groups) {
  for (int64_t g = 0; g < num_groups; g += kLanes) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, num_groups - g));
    QuantizeFour(x + g * kGroupSize, count, groups + g);
  }
}

}  // namespace tripos::quant
