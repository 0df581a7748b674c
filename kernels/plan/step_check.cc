#include "kernels/plan/step_check.h"

#include "kernels/util/error.h"

namespace tripos {
namespace {

void InRange(const char* name, int64_t index, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value < high) return;
  throw Error(Format("step: %s[%lld] is %lld, must be in [%lld, %lld)", name, static_cast<long long>(index),
                     static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high)));
}

void CheckSequence(const TriposStep& step, const StepLimits& limits, int32_t b) {
  const int32_t first = step.query_start[b], last = step.query_start[b + 1];
  InRange("query_start", b + 1, last, int64_t{first} + 1, int64_t{step.num_tokens} + 1);
  const int32_t length = step.seq_lens[b];
  const int64_t max_length = limits.has_cache ? int64_t{step.max_blocks} * limits.block_size : INT32_MAX;
  InRange("seq_lens", b, length, last - first, limits.has_whole_seqs ? int64_t{last} - first + 1 : max_length + 1);
  const int32_t* table = step.block_tables + int64_t{b} * step.max_blocks;
  if (limits.has_cache) {
    const int32_t num_blocks = (length + limits.block_size - 1) / limits.block_size;
    for (int32_t i = 0; i < num_blocks; ++i) InRange("block_tables", int64_t{b} * step.max_blocks + i, table[i], 0, limits.num_blocks);
  }
  for (int32_t t = first; t < last; ++t) {
    const int32_t position = length - (last - t);
    InRange("positions", t, step.positions[t], position, int64_t{position} + 1);
    if (!limits.has_cache) continue;
    const int64_t slot = int64_t{table[position / limits.block_size]} * limits.block_size + position % limits.block_size;
    InRange("slots", t, step.slots[t], slot, slot + 1);
  }
}

// Starts [num_rows + 1] that rise from 0 to at most `size`.
void CheckStarts(const char* name, const int32_t* starts, int32_t num_rows, int32_t size) {
  if (num_rows == 0) return;
  InRange(name, 0, starts[0], 0, 1);
  for (int32_t r = 0; r < num_rows; ++r) InRange(name, r + 1, starts[r + 1], starts[r], int64_t{size} + 1);
}

void CheckSampling(const TriposStep& step, const TriposOutput& output, const StepLimits& limits) {
  const int64_t vocab_size = limits.vocab_size;
  CheckStarts("history_start", step.history_start, step.num_rows, step.history_size);
  CheckStarts("bias_start", step.bias_start, step.num_rows, step.bias_size);
  CheckStarts("wanted_start", step.wanted_start, step.num_rows, step.wanted_size);
  for (int32_t i = 0; i < step.history_size; ++i) InRange("history_ids", i, step.history_ids[i], 0, vocab_size);
  for (int32_t i = 0; i < step.bias_size; ++i) InRange("bias_ids", i, step.bias_ids[i], 0, vocab_size);
  for (int32_t i = 0; i < step.wanted_size; ++i) InRange("wanted_ids", i, step.wanted_ids[i], 0, vocab_size);
  if (step.num_masks > 0 && int64_t{step.mask_words} * 32 < vocab_size) throw Error("step: mask is narrower than the vocabulary");
  for (int32_t r = 0; r < step.num_rows; ++r) {
    InRange("last_rows", r, step.last_rows[r], 0, step.num_tokens);
    InRange("mask_row", r, step.mask_row[r], -1, step.num_masks);
    InRange("forced_token", r, step.forced_token[r], -1, vocab_size);
    InRange("num_logprobs", r, step.num_logprobs[r], -1, int64_t{output.top_width} + 1);
    if (!(step.temperature[r] >= 0.0f)) throw Error(Format("step: temperature[%d] is not a number >= 0", r));
  }
}

}  // namespace

void CheckStep(const TriposStep& step, const TriposOutput& output, const StepLimits& limits) {
  if (step.num_tokens < 1 || step.num_tokens > limits.max_num_tokens) {
    throw Error(Format("step: %d tokens, must be 1 to max_num_tokens = %d", step.num_tokens, limits.max_num_tokens));
  }
  if (step.num_rows < 0 || step.num_rows > limits.max_num_rows) {
    throw Error(Format("step: %d rows, must be 0 to max_num_rows = %d", step.num_rows, limits.max_num_rows));
  }
  if (limits.pools && step.num_rows != step.num_seqs) {
    throw Error(Format("step: %d rows for %d sequences, which are pooled to one row each", step.num_rows, step.num_seqs));
  }
  if (step.num_seqs < 1 || step.num_seqs > step.num_tokens || step.max_blocks < 0) {
    throw Error(Format("step: %d sequences for %d tokens", step.num_seqs, step.num_tokens));
  }
  InRange("query_start", 0, step.query_start[0], 0, 1);
  InRange("query_start", step.num_seqs, step.query_start[step.num_seqs], step.num_tokens, int64_t{step.num_tokens} + 1);
  for (int32_t b = 0; b < step.num_seqs; ++b) CheckSequence(step, limits, b);
  for (int32_t t = 0; t < step.num_tokens; ++t) {
    if (limits.num_embed_rows > 0) InRange("token_ids", t, step.token_ids[t], 0, limits.num_embed_rows);
    if (limits.num_positions > 0) InRange("positions", t, step.positions[t], 0, limits.num_positions);
    if (limits.num_token_types > 0 && step.token_types != nullptr) {
      InRange("token_types", t, step.token_types[t], 0, limits.num_token_types);
    }
  }
  CheckSampling(step, output, limits);
}

}  // namespace tripos
