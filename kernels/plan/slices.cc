#include "kernels/plan/slices.h"

#include <algorithm>

namespace tripos {
namespace {

constexpr size_t kSliceBytes = size_t{1} << 20;  // of activations: about an L2
// Fewer rows would wait for weights from memory; more gain nothing.
constexpr int kMinTokens = 64, kMaxTokens = 256;

}  // namespace

void Slices::Reserve(int num_threads, int max_num_tokens, int max_num_rows, size_t num_counters, const ArenaSize& arena) {
  num_threads_ = num_threads;
  tokens_per_thread_ = max_num_tokens / num_threads;
  rows_per_thread_ = max_num_rows / num_threads;
  const size_t fitting = kSliceBytes / std::max<size_t>(arena.token_row_bytes, 1);
  slice_tokens_ = std::clamp(static_cast<int>(std::min<size_t>(fitting, kMaxTokens)), kMinTokens, kMaxTokens);
  starts_.reserve(static_cast<size_t>(max_num_rows) + 1);
  own_.resize(static_cast<size_t>(num_threads));
  loads_.resize(static_cast<size_t>(num_threads));
  for (SliceStep& own : own_) {
    own.query_start.resize(static_cast<size_t>(rows_per_thread_) + 1);
    own.last_rows.resize(static_cast<size_t>(rows_per_thread_));
    own.counters = std::make_unique<std::atomic<int64_t>[]>(num_counters);
  }
}

bool Slices::Plan(const TriposStep& step) {
  starts_.clear();
  if (step.num_rows != step.num_seqs) return false;
  for (int32_t b = 0; b < step.num_seqs; ++b) {
    if (step.last_rows[b] < step.query_start[b] || step.last_rows[b] >= step.query_start[b + 1]) return false;
  }
  // As many slices of equal size for each thread, so that all end together.
  const int64_t round = int64_t{num_threads_} * slice_tokens_;
  const int64_t count = (step.num_tokens + round - 1) / round * num_threads_;
  if (count < 2 || step.num_tokens < count * kMinTokens) return false;
  starts_.push_back(0);
  for (int32_t b = 1; b < step.num_seqs; ++b) {
    // At the end of a sequence that is nearest to an even cut.
    const int64_t twice = int64_t{step.query_start[b]} + step.query_start[b + 1];
    if (twice * count >= 2 * int64_t{step.num_tokens} * static_cast<int64_t>(starts_.size())) starts_.push_back(b);
  }
  starts_.push_back(step.num_seqs);
  next_.store(0, std::memory_order_relaxed);
  return IsEven(step);
}

// Whether every slice has room and the thread that ends last does not keep the others waiting for long.
bool Slices::IsEven(const TriposStep& step) {
  std::fill(loads_.begin(), loads_.end(), 0);
  for (size_t i = 0; i + 1 < starts_.size(); ++i) {
    const int32_t rows = starts_[i + 1] - starts_[i];
    const int64_t tokens = step.query_start[starts_[i + 1]] - step.query_start[starts_[i]];
    if (rows > rows_per_thread_ || tokens > tokens_per_thread_) return false;
    *std::min_element(loads_.begin(), loads_.end()) += tokens;  // whoever is free takes the next
  }
  return *std::max_element(loads_.begin(), loads_.end()) * num_threads_ * 8 <= int64_t{step.num_tokens} * 9;
}

bool Slices::Take(const TriposStep& whole, SliceStep& own, int32_t* first_seq) {
  const size_t slice = next_.fetch_add(1, std::memory_order_relaxed);
  if (slice + 1 >= starts_.size()) return false;
  const int32_t first = starts_[slice], count = starts_[slice + 1] - first, token = whole.query_start[first];
  for (int32_t b = 0; b <= count; ++b) own.query_start[static_cast<size_t>(b)] = whole.query_start[first + b] - token;
  for (int32_t b = 0; b < count; ++b) own.last_rows[static_cast<size_t>(b)] = whole.last_rows[first + b] - token;
  own.step = whole;
  own.step.num_tokens = whole.query_start[first + count] - token;
  own.step.num_seqs = own.step.num_rows = count;
  own.step.token_ids += token;
  own.step.positions += token;
  if (whole.token_types != nullptr) own.step.token_types += token;
  own.step.seq_lens += first;
  own.step.query_start = own.query_start.data();
  own.step.last_rows = own.last_rows.data();
  *first_seq = first;
  return true;
}

}  // namespace tripos
