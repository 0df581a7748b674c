#include "kernels/plan/slices.h"

#include <algorithm>
#include <thread>

namespace tripos {
namespace {

constexpr size_t kSliceBytes = size_t{1} << 20;  // of activations: about an L2
// Fewer rows would wait for weights from memory; more gain nothing.
constexpr int kMinTokens = 64, kMaxTokens = 256;
constexpr int kMinCachedTokens = 16;  // they wait for the cache as well, and slices do not all do so at once
// The busiest thread may have so much more than its share.
constexpr double kMostUneven = 9.0 / 8.0, kMostUnevenCached = 17.0 / 16.0;
constexpr double kSharedKeyCost = 0.375;  // a key that several queries share comes from L2, not from memory
constexpr int kSpins = 2000;

// Whether rows can be told apart by the slice they lie in.
bool FollowSequences(const TriposStep& step, bool pools) {
  if (!pools) return std::is_sorted(step.last_rows, step.last_rows + step.num_rows);
  for (int32_t b = 0; b < step.num_seqs; ++b) {
    if (step.last_rows[b] < step.query_start[b] || step.last_rows[b] >= step.query_start[b + 1]) return false;
  }
  return true;
}

// The first row of a token at or after this one.
int32_t RowAt(const TriposStep& step, int32_t token) {
  return static_cast<int32_t>(std::lower_bound(step.last_rows, step.last_rows + step.num_rows, token) - step.last_rows);
}

}  // namespace

void SliceStep::WaitFor(uint32_t num_phases) const {
  for (int i = 0; num_passed.load(std::memory_order_acquire) < num_phases; ++i) {
    if (i < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

void Slices::Reserve(const SliceOptions& options) {
  options_ = options;
  const size_t fitting = kSliceBytes / std::max<size_t>(options.arena.token_row_bytes, 1);
  slice_tokens_ = std::clamp(static_cast<int>(std::min<size_t>(fitting, kMaxTokens)), kMinTokens, kMaxTokens);
  const size_t max_tokens = static_cast<size_t>(options.max_num_tokens);
  cuts_.reserve(max_tokens + 1);
  loads_.resize(static_cast<size_t>(options.num_threads));
  own_ = std::make_unique<SliceStep[]>(static_cast<size_t>(options.num_threads));
  for (int thread = 0; thread < options.num_threads; ++thread) {
    SliceStep& own = Own(thread);
    own.query_start.resize(max_tokens + 1);
    own.seq_lens.resize(max_tokens);
    own.last_rows.resize(static_cast<size_t>(options.max_num_rows));
    own.tiles.reserve(options.has_cache ? max_tokens : 0);
    own.counters = std::make_unique<std::atomic<int64_t>[]>(options.num_counters);
  }
}

// As many slices of equal size for each thread, so that all end together. 0: none.
int64_t Slices::NumSlices(const TriposStep& step) const {
  const int64_t threads = options_.num_threads, round = threads * slice_tokens_;
  if (options_.has_cache) {  // one sequence gains nothing, and tasks for whoever is free even out what disturbs a thread
    return threads > 1 && step.num_seqs > 1 && step.num_tokens >= threads * kMinCachedTokens ? threads : 0;
  }
  const int64_t count = (step.num_tokens + round - 1) / round * threads;
  return count >= 2 && step.num_tokens >= count * kMinTokens ? count : 0;
}

// Of a sequence's first tokens in the step. A token's linears cost 1.
double Slices::CostOf(const TriposStep& step, int32_t seq, int32_t num_tokens) const {
  const int32_t known = step.seq_lens[seq] - (step.query_start[seq + 1] - step.query_start[seq]);
  const int32_t num_keys = known + (num_tokens + 1) / 2;  // of a query in the middle
  double keys = 0.0;
  for (const auto& [window, layers] : options_.layers_of_window) {
    keys += layers * static_cast<double>(window == 0 ? num_keys : std::min(num_keys, window));
  }
  return num_tokens * (1.0 + keys * options_.key_cost * (num_tokens > 1 ? kSharedKeyCost : 1.0));
}

// How many tokens of a sequence cost about so much. Never all but one, nor one: of a sequence with more than one token in
// the step all keys are written before attention, and a slice must not take it for one with a single token.
int32_t Slices::TokensFor(const TriposStep& step, int32_t seq, double cost) const {
  const int32_t num_tokens = step.query_start[seq + 1] - step.query_start[seq];
  const double all = CostOf(step, seq, num_tokens);
  if (!options_.has_cache || num_tokens < 4) return cost >= all / 2 ? num_tokens : 0;
  int32_t low = 0, high = num_tokens;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (CostOf(step, seq, middle) < cost) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < 2 ? 0 : low > num_tokens - 2 ? num_tokens : low;
}

bool Slices::Plan(const TriposStep& step) {
  const int64_t count = NumSlices(step);
  if (count == 0 || !FollowSequences(step, options_.pools)) return false;
  double total = 0.0, so_far = 0.0;
  for (int32_t b = 0; b < step.num_seqs; ++b) total += CostOf(step, b, step.query_start[b + 1] - step.query_start[b]);
  cuts_.assign(1, {0, 0, false, 0.0});
  for (int32_t b = 0; b < step.num_seqs; ++b) {
    const int32_t first = step.query_start[b], num_tokens = step.query_start[b + 1] - first;
    const double cost = CostOf(step, b, num_tokens);
    while (static_cast<int64_t>(cuts_.size()) < count) {
      const double share = total * static_cast<double>(cuts_.size()) / static_cast<double>(count) - so_far;
      if (share > cost) break;
      const int32_t before = TokensFor(step, b, share);
      const Cut cut{before == num_tokens ? b + 1 : b, first + before, before > 0 && before < num_tokens,
                    so_far + CostOf(step, b, before)};
      if (cut.token == cuts_.back().token || cut.token == step.num_tokens) break;
      if (cuts_.back().is_inside && cut.token == cuts_.back().token + 1) break;  // one token between two cuts of a sequence
      cuts_.push_back(cut);
    }
    so_far += cost;
  }
  cuts_.push_back({step.num_seqs, step.num_tokens, false, total});
  next_.store(0, std::memory_order_relaxed);
  for (int thread = 0; thread < options_.num_threads; ++thread) Own(thread).Pass(0);
  return IsEven(step);
}

// Whether every slice has room and the thread that ends last does not keep the others waiting for long.
bool Slices::IsEven(const TriposStep& step) {
  if (has_one_each() && cuts_.size() != loads_.size() + 1) return false;
  std::fill(loads_.begin(), loads_.end(), 0.0);
  for (size_t i = 0; i + 1 < cuts_.size(); ++i) {
    const Cut &cut = cuts_[i], &next = cuts_[i + 1];
    const bool has_room = RowAt(step, next.token) - RowAt(step, cut.token) <= rows_per_thread() &&
                          next.token - cut.token <= tokens_per_thread();
    if (!has_one_each() && !has_room) return false;
    *std::min_element(loads_.begin(), loads_.end()) += next.cost - cut.cost;  // whoever is free takes the next
  }
  const double most = *std::max_element(loads_.begin(), loads_.end()) * options_.num_threads;
  return most <= cuts_.back().cost * (has_one_each() ? kMostUnevenCached : kMostUneven);
}

bool Slices::Take(const TriposStep& whole, int thread) {
  SliceStep& own = Own(thread);
  const size_t slice = has_one_each() ? static_cast<size_t>(thread) : next_.fetch_add(1, std::memory_order_relaxed);
  if (slice + 1 >= cuts_.size()) return false;
  const auto [seq, token, is_inside, cost] = cuts_[slice];
  const Cut& end = cuts_[slice + 1];
  const int32_t num_seqs = end.seq - seq + (end.is_inside ? 1 : 0);
  for (int32_t b = 0; b < num_seqs; ++b) {
    const int32_t last = std::min(whole.query_start[seq + b + 1], end.token);
    own.query_start[static_cast<size_t>(b)] = std::max(whole.query_start[seq + b], token) - token;
    own.seq_lens[static_cast<size_t>(b)] = whole.seq_lens[seq + b] - (whole.query_start[seq + b + 1] - last);
  }
  own.query_start[static_cast<size_t>(num_seqs)] = end.token - token;
  const int32_t row = RowAt(whole, token), last_row = RowAt(whole, end.token);
  for (int32_t r = row; r < last_row; ++r) own.last_rows[static_cast<size_t>(r - row)] = whole.last_rows[r] - token;
  own.first_row = row;
  own.arena_token = has_one_each() ? token : thread * tokens_per_thread();
  own.arena_row = has_one_each() ? row : thread * rows_per_thread();
  own.step = whole;
  own.step.num_tokens = end.token - token;
  own.step.num_seqs = num_seqs;
  own.step.num_rows = last_row - row;
  own.step.token_ids += token;
  own.step.positions += token;
  own.step.slots += token;
  if (whole.token_types != nullptr) own.step.token_types += token;
  own.step.block_tables += static_cast<size_t>(seq) * static_cast<size_t>(whole.max_blocks);
  own.step.query_start = own.query_start.data();
  own.step.seq_lens = own.seq_lens.data();
  own.step.last_rows = own.last_rows.data();
  return true;
}

}  // namespace tripos
