#include "kernels/ops/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace tripos {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// SplitMix64's finalizer (Steele, Lea, Flood 2014).
uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

double Uniform(uint64_t seed, uint64_t counter) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
  return static_cast<double>(Mix(Mix(seed + kGolden) + (counter + 1) * kGolden) >> 11) * 0x1p-53;
}

class RowSampler {
 public:
  RowSampler(const Kernels& kernels, const TriposStep& step, int row, float* logits, int64_t vocab_size,
             const SamplerScratch& scratch)
      : kernels_(kernels), step_(step), row_(row), logits_(logits), vocab_size_(vocab_size), scratch_(scratch) {}

  // False: no token can be drawn.
  bool Draw(int32_t* token) {
    Adjust();
    const float largest = kernels_.max(logits_, vocab_size_);
    if (!(largest > -kInfinity && largest < kInfinity)) return false;
    const float temperature = step_.temperature[row_];
    if (temperature == 0.0f) {
      *token = FirstOf(largest);
      return true;
    }
    Weigh(largest / temperature, temperature);
    *token = Inverse(Uniform(step_.seed[row_], step_.counter[row_]));
    return true;
  }

 private:
  void Adjust() {
    const float repetition = step_.repetition_penalty[row_];
    const float presence = step_.presence_penalty[row_], frequency = step_.frequency_penalty[row_];
    for (int32_t i = step_.history_start[row_]; i < step_.history_start[row_ + 1]; ++i) {
      float& logit = logits_[step_.history_ids[i]];
      const float count = static_cast<float>(step_.history_counts[i]);
      logit = logit > 0.0f ? logit / repetition : logit * repetition;
      logit -= frequency * count;
      logit -= count > 0.0f ? presence : 0.0f;
    }
    for (int32_t i = step_.bias_start[row_]; i < step_.bias_start[row_ + 1]; ++i) {
      logits_[step_.bias_ids[i]] += step_.bias_values[i];
    }
    if (step_.mask_row[row_] < 0) return;
    const uint32_t* mask = step_.mask + static_cast<size_t>(step_.mask_row[row_]) * static_cast<size_t>(step_.mask_words);
    for (int64_t i = 0; i < vocab_size_; i += 32) {  // most words allow all of their tokens, or none
      const uint32_t word = mask[i >> 5];
      const int64_t end = std::min<int64_t>(32, vocab_size_ - i);
      if (word == 0) {
        std::fill_n(logits_ + i, end, -kInfinity);
      } else if (word != ~0u) {
        for (int64_t k = 0; k < end; ++k) logits_[i + k] = word >> k & 1u ? logits_[i + k] : -kInfinity;
      }
    }
  }

  int32_t FirstOf(float value) const {
    int64_t i = 0;
    while (logits_[i] != value) ++i;
    return static_cast<int32_t>(i);
  }

  // The weights of the tokens that may be drawn: exp(logit / temperature - scaled_peak), at most 1. Those left by top_k,
  // top_p and min_p are few: what follows the first pass over the vocabulary goes over their list alone.
  void Weigh(float scaled_peak, float temperature) {
    const float k_cut = TopKCut();
    if (k_cut > -kInfinity) {
      Keep(logits_, k_cut);
      for (int64_t i = 0; i < num_kept_; ++i) scratch_.weights[i] = logits_[ids()[i]];
      kernels_.exp_weights(scratch_.weights, num_kept_, scaled_peak, temperature, scratch_.weights);
    } else {
      kernels_.exp_weights(logits_, vocab_size_, scaled_peak, temperature, scratch_.weights);
      const float bound = std::max(TopPBound(), step_.min_p[row_]);
      if (bound > 0.0f) {
        Keep(scratch_.weights, bound);
        left_out_ = kernels_.sum(scratch_.weights, vocab_size_);
        for (int64_t i = 0; i < num_kept_; ++i) scratch_.weights[i] = scratch_.weights[ids()[i]];
        left_out_ = std::max(0.0, left_out_ - kernels_.sum(scratch_.weights, num_kept_));
      }
    }
    const float cut = std::max(TopPCut(), step_.min_p[row_]);
    for (int64_t i = 0; i < size(); ++i) scratch_.weights[i] = scratch_.weights[i] >= cut ? scratch_.weights[i] : 0.0f;
  }

  // The candidates: all tokens, or those that Keep has listed, in order of id.
  int32_t* ids() const { return reinterpret_cast<int32_t*>(scratch_.candidates); }
  int64_t size() const { return num_kept_ < 0 ? vocab_size_ : num_kept_; }
  int64_t IdOf(int64_t i) const { return num_kept_ < 0 ? i : ids()[i]; }
  void Keep(const float* x, float cut) { num_kept_ = kernels_.at_least(x, vocab_size_, cut, ids()); }
  // Behind the ids; a vocabulary of floats fits.
  float* found() const {
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(ids() + vocab_size_) + 63) / 64 * 64);
  }

  // The top_k-th largest logit, or -infinity. The top_k-th largest of the maxima of short runs is a lower bound.
  float TopKCut() {
    constexpr int64_t kRun = 128;
    const int64_t k = step_.top_k[row_];
    if (k <= 0 || k >= vocab_size_) return -kInfinity;
    float* values = found();
    int64_t num_values = 0;
    for (int64_t i = 0; i < vocab_size_; i += kRun) {
      values[num_values++] = kernels_.max(logits_ + i, std::min(kRun, vocab_size_ - i));
    }
    const float bound = num_values < k ? -kInfinity : Largest(values, num_values, k);
    const int64_t count = kernels_.at_least(logits_, vocab_size_, bound, ids());
    for (int64_t i = 0; i < count; ++i) values[i] = logits_[ids()[i]];
    return Largest(values, count, k);
  }

  // The k-th largest.
  static float Largest(float* values, int64_t count, int64_t k) {
    std::nth_element(values, values + (k - 1), values + count, std::greater<float>());
    return values[k - 1];
  }

  // All tokens lighter than this weigh together less than 1 - top_p, so none of them is among the top_p.
  float TopPBound() {
    const float top_p = step_.top_p[row_];
    if (!(top_p < 1.0f)) return 0.0f;
    const double total = kernels_.sum(scratch_.weights, vocab_size_);
    return static_cast<float>(0.99 * (1.0 - static_cast<double>(top_p)) * total / static_cast<double>(vocab_size_));
  }

  // The weight at which the sum of the larger ones reaches top_p of all, or 0.
  float TopPCut() {
    const float top_p = step_.top_p[row_];
    if (!(top_p < 1.0f)) return 0.0f;
    double sum[kBins] = {};
    const float* w = scratch_.weights;
    for (int64_t i = 0; i < size(); ++i) sum[Order(w[i])] += static_cast<double>(w[i]);
    double total = left_out_;
    for (double s : sum) total += s;
    const double target = static_cast<double>(top_p) * total;
    double above = 0.0;
    uint32_t bin = 0;
    while (bin + 1 < kBins && above + sum[bin] < target) above += sum[bin++];
    float* values = found();
    int64_t num_found = 0;
    for (int64_t i = 0; i < size(); ++i) {
      if (Order(w[i]) == bin) values[num_found++] = w[i];
    }
    if (num_found == 0) return 0.0f;
    std::sort(values, values + num_found, std::greater<float>());
    for (int64_t i = 0; i < num_found; ++i) {
      above += static_cast<double>(values[i]);
      if (above >= target) return values[i];
    }
    return values[num_found - 1];
  }

  // Histogram over the leading bits of a float, ordered from large to small.
  static constexpr int kBins = 1 << 12;
  static uint32_t Order(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return ~bits >> 20;
  }

  // Inverse of the cumulative weights, in vocabulary order; sums of runs first, then within the run.
  int32_t Inverse(double uniform) const {
    constexpr int64_t kRun = 256;
    const float* w = scratch_.weights;
    double* sums = reinterpret_cast<double*>(found());
    const int64_t count = size(), num_runs = (count + kRun - 1) / kRun;
    double total = 0.0;
    for (int64_t run = 0; run < num_runs; ++run) {
      double s = 0.0;
      for (int64_t i = run * kRun; i < std::min(count, (run + 1) * kRun); ++i) s += static_cast<double>(w[i]);
      sums[run] = s;
      total += s;
    }
    const double target = uniform * total;
    double below = 0.0;
    int64_t run = 0;
    while (run + 1 < num_runs && below + sums[run] <= target) below += sums[run++];
    int64_t chosen = -1;
    for (int64_t i = run * kRun; i < std::min(count, (run + 1) * kRun); ++i) {
      if (w[i] > 0.0f) chosen = i;
      below += static_cast<double>(w[i]);
      if (below > target && w[i] > 0.0f) break;
    }
    // Rounding may leave the target at the very end of the sum: the last possible token then.
    for (int64_t i = run * kRun; chosen < 0 && i-- > 0;) {
      if (w[i] > 0.0f) chosen = i;
    }
    return static_cast<int32_t>(IdOf(chosen));
  }

  const Kernels& kernels_;
  const TriposStep& step_;
  const int row_;
  float* const logits_;
  const int64_t vocab_size_;
  const SamplerScratch scratch_;
  int64_t num_kept_ = -1;   // -1: the candidates are all tokens
  double left_out_ = 0.0;  // weight of the tokens that are no candidates for being too light
};

// The `count` likeliest tokens, ties to the lowest id, likeliest first, by a heap whose top is the least likely kept.
void TopLogprobs(const float* logits, int64_t vocab_size, int64_t count, float normalizer,
                 std::pair<float, int32_t>* heap, int32_t* ids, float* logprobs) {
  const auto is_likelier = [](const auto& a, const auto& b) { return a.first > b.first || (a.first == b.first && a.second < b.second); };
  for (int64_t i = 0; i < count; ++i) heap[i] = {logits[i], static_cast<int32_t>(i)};
  std::make_heap(heap, heap + count, is_likelier);
  for (int64_t i = count; i < vocab_size; ++i) {
    if (logits[i] <= heap[0].first) continue;
    std::pop_heap(heap, heap + count, is_likelier);
    heap[count - 1] = {logits[i], static_cast<int32_t>(i)};
    std::push_heap(heap, heap + count, is_likelier);
  }
  std::sort(heap, heap + count, is_likelier);
  for (int64_t i = 0; i < count; ++i) {
    ids[i] = heap[i].second;
    logprobs[i] = heap[i].first - normalizer;
  }
}

}  // namespace

void SampleRow(const Kernels& kernels, const TriposStep& step, int row, float* logits, int64_t vocab_size,
               const SamplerScratch& scratch, const TriposOutput& out) {
  int32_t& token = out.token_ids[row];
  token = 0;
  out.logprobs[row] = 0.0f;
  out.ok[row] = 0;
  if (!kernels.all_finite(logits, vocab_size)) return;

  const int32_t num_logprobs = step.num_logprobs[row];
  float normalizer = 0.0f;
  if (num_logprobs >= 0) {
    const float largest = kernels.max(logits, vocab_size);
    normalizer = largest + static_cast<float>(std::log(kernels.exp_sum(logits, vocab_size, largest)));
  }
  if (num_logprobs > 0) {
    const int64_t at = int64_t{row} * out.top_width;
    TopLogprobs(logits, vocab_size, std::min<int64_t>(num_logprobs, vocab_size), normalizer, scratch.candidates, out.top_ids + at, out.top_logprobs + at);
  }
  for (int32_t i = step.wanted_start[row]; i < step.wanted_start[row + 1]; ++i) {
    out.wanted_logprobs[i] = logits[step.wanted_ids[i]] - normalizer;
  }
  const int32_t forced = step.forced_token[row];
  if (forced >= 0) {
    token = forced;
    if (num_logprobs >= 0) out.logprobs[row] = logits[forced] - normalizer;
    out.ok[row] = 1;
    return;
  }
  if (num_logprobs >= 0) std::memcpy(scratch.raw, logits, static_cast<size_t>(vocab_size) * sizeof(float));
  if (!RowSampler(kernels, step, row, logits, vocab_size, scratch).Draw(&token)) {
    token = 0;
    return;
  }
  if (num_logprobs >= 0) out.logprobs[row] = scratch.raw[token] - normalizer;
  out.ok[row] = 1;
}

}  // namespace tripos
