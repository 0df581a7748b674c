#include "kernels/plan/phases.h"

#include <algorithm>

#include "kernels/util/error.h"

namespace tripos {
namespace {

constexpr int64_t kSharedBytes = int64_t{8} << 10;  // of weights that a thread takes at a time from what all share
constexpr int64_t kMostAhead = int64_t{192} << 10;   // bytes of one phase fetched into an L2 of 1 MiB, or half of that

}  // namespace

void RowRunPhase::Run(const StepState& state, int thread) const {
  if (state.is_single) {
    for (const auto& phase : phases) {
      if (phase->is_repeated || thread == 0) phase->RunRows(state, 0, state.NumRows(rows));
    }
    return;
  }
  const Range range = RangeOf(state.NumRows(rows), thread, state.num_threads);
  for (int64_t first = range.first, last; first < range.last; first = last) {
    last = std::min((first / kLocalRows + 1) * kLocalRows, range.last);
    for (const auto& phase : phases) phase->RunRows(state, first, last);
  }
}

std::string RowRunPhase::Name() const {
  std::string name;
  for (const auto& phase : phases) name += (name.empty() ? "" : "+") + phase->Name();
  return name;
}

std::vector<Operand*> RowRunPhase::Operands() {
  std::vector<Operand*> all;
  for (const auto& phase : phases) {
    for (Operand* operand : phase->Operands()) all.push_back(operand);
  }
  return all;
}

void WriteKvPhase::RunRows(const StepState& state, int64_t first, int64_t last) const {
  const KvLayout& layout = state.cache.layout;
  const int32_t* starts = state.step->query_start;
  const int32_t* seq = std::upper_bound(starts, starts + state.step->num_seqs, static_cast<int32_t>(first)) - 1;
  for (int64_t row = first; row < last; ++row) {
    if (seq[1] <= row) ++seq;
    if (is_only_written_late && seq[1] - seq[0] == 1) continue;
    const float *k = in[0].Row(state, row), *v = in[1].Row(state, row);
    for (int head = 0; head < layout.num_kv_heads; ++head, k += layout.head_dim, v += layout.head_dim) {
      kernels_.write_kv(layout, state.cache.Chunks(layer, head), state.step->slots[row], k, v);
    }
  }
}

std::string LinearPhase::Name() const { return Format("linear %lldx%lld", static_cast<long long>(matrix.n), static_cast<long long>(matrix.k)); }

void LinearPhase::Run(const StepState& state, int thread) const {
  const int64_t num_rows = state.NumRows(rows);
  if (num_rows == 0) return;
  const bool has_adapters = !lora.IsIdle(state, rows);
  linear::RunArgs args;
  args.rows = in.Row0(state);
  args.row_bytes = in.stride;
  args.y = out.Row(state, 0);
  args.y_stride = static_cast<int64_t>(out.stride / sizeof(float));
  args.bias = bias.empty() ? nullptr : bias.data();
  args.epilogue = epilogue;
  if (num_rows <= kFewRows && !has_adapters) {
    args.last_row = num_rows;
    return RunFewRows(state, thread, args);
  }
  linear::Split split = linear::SuggestSplit(matrix, in.stride, num_rows, state.num_threads);
  if (has_adapters) split = LoraTerm::Bound(split);
  for (int i = 0; i < state.num_threads; ++i) {  // its own tasks, then those of others
    const int owner = (thread + i) % state.num_threads;
    std::atomic<int64_t>& next = state.Counter(counter, owner);
    for (int64_t task; task = next.fetch_add(1, std::memory_order_relaxed), split.TaskOf(owner, task, &args);) {
      args.after = split.PanelsOf(matrix, owner, task + 1);
      if (args.after.empty() && following != nullptr) args.after = following->FirstPanels(state, thread);
      if (has_adapters) lora.Expand(state, rows, thread, args);
      kernels->LinearOf(matrix.format)(matrix, args);
    }
  }
}

std::span<const uint8_t> LinearPhase::FirstPanels(const StepState& state, int thread) const {
  const int64_t num_rows = state.NumRows(rows);
  return linear::SuggestSplit(matrix, in.stride, num_rows, state.num_threads).PanelsOf(matrix, thread, 0);
}

// Memory is what it waits for. A thread's own share is one stream, and known before the phase begins, so that it can be
// fetched ahead; the rest evens out who comes late.
void LinearPhase::RunFewRows(const StepState& state, int thread, linear::RunArgs args) const {
  const int64_t num_panels = matrix.num_panels(), own = OwnPanels(state);
  args.first_panel = own * thread;
  args.last_panel = args.first_panel + own;
  if (own > 0) kernels->LinearOf(matrix.format)(matrix, args);
  const int64_t least = std::max<int64_t>(1, kSharedBytes / static_cast<int64_t>(matrix.panel_bytes()));
  std::atomic<int64_t>& next = state.Counter(counter);
  int64_t first = own * state.num_threads;
  for (int64_t piece = 0;; ++piece) {  // piece by piece up to the one that is ours
    const int64_t mine = next.fetch_add(1, std::memory_order_relaxed);
    for (; piece < mine; ++piece) first += PieceAt(state, first, least);
    if (first >= num_panels) return;
    args.first_panel = first;
    args.last_panel = first += PieceAt(state, first, least);
    kernels->LinearOf(matrix.format)(matrix, args);
  }
}

int64_t LinearPhase::Prefetch(const StepState& state, int thread, int64_t at) const {
  const int64_t bytes = OwnPanels(state) * static_cast<int64_t>(matrix.panel_bytes());
  if (at >= std::min(bytes, kMostAhead)) return at;
  PrefetchToL2(matrix.data + bytes * thread + at);
  return at + kPrefetchStep;
}

bool AttentionPhase::IsSplit(const StepState& state) const {
  const size_t num_units = state.tiles.size() * static_cast<size_t>(NumHeadTiles());
  if (state.num_threads == 1 || state.max_partitions < 2) return false;
  const size_t floats = num_units * static_cast<size_t>(state.max_partitions) * Partial::Floats(state.cache.layout.padded_dim);
  return num_units < 8 * static_cast<size_t>(state.num_threads) && floats <= state.num_partial_floats;
}

AttentionTile AttentionPhase::TileOf(const StepState& state, const QueryTile& tile, int head_tile) const {
  const int kv_head = head_tile / shape.tiles_per_kv_head();
  const int in_group = head_tile % shape.tiles_per_kv_head() * shape.heads_per_tile();
  const int first_head = kv_head * shape.group() + in_group;
  AttentionTile t;
  t.q = q.Row(state, tile.first_token) + first_head * shape.head_dim;
  t.q_stride = q.stride / sizeof(float);
  t.out = out.Row(state, tile.first_token) + first_head * shape.head_dim;
  t.out_stride = out.stride / sizeof(float);
  t.num_queries = tile.num_queries;
  t.num_heads = std::min(shape.heads_per_tile(), shape.group() - in_group);
  t.first_position = state.step->positions[tile.first_token];
  t.chunks = state.cache.Chunks(shape.layer, kv_head);
  t.block_table = state.step->block_tables + static_cast<size_t>(tile.seq) * static_cast<size_t>(state.step->max_blocks);
  t.scale = shape.scale;
  t.window = shape.window;
  t.softcap = shape.softcap;
  return t;
}

// The newest key of a sequence with a single query, right before its partition is attended: the lines are in L2 by then.
void AttentionPhase::WriteOnly(const StepState& state, const QueryTile& tile, int head_tile, int partition) const {
  if (!tile.is_only || !shape.writes_only() || partition + 1 != tile.num_partitions) return;
  const int64_t row = tile.first_token, column = int64_t{head_tile} * shape.head_dim;
  kernels_.write_kv(state.cache.layout, state.cache.Chunks(shape.layer, head_tile), state.step->slots[row],
                    k.Row(state, row) + column, v.Row(state, row) + column);
}

// The cache that the thread's first unit reads, block by block.
int64_t AttentionPhase::Prefetch(const StepState& state, int thread, int64_t at) const {
  const Range units = UnitsOf(state, thread);
  if (units.first == units.last) return at;
  const NextBlocks blocks = BlocksOf(state, units.first, FirstPartition(TileAt(state, units.first), state));
  const int64_t chunk_bytes = static_cast<int64_t>(state.cache.layout.chunk_bytes);
  const int64_t block = at / chunk_bytes;
  if (block >= blocks.count || at >= kMostAhead) return at;
  PrefetchToL2(blocks.chunks + static_cast<size_t>(blocks.table[block]) * state.cache.layout.block_bytes() + at % chunk_bytes);
  return at + kPrefetchStep;
}

Range AttentionPhase::UnitsOf(const StepState& state, int thread) const {
  return RangeOf(static_cast<int64_t>(state.tiles.size()) * NumHeadTiles(), thread, state.num_threads);
}

// Its own units first, then those of others.
std::optional<int64_t> AttentionPhase::TakeUnit(const StepState& state, int thread, int* num_done) const {
  for (; *num_done < state.num_threads; ++*num_done) {
    const int owner = (thread + *num_done) % state.num_threads;
    const Range units = UnitsOf(state, owner);
    const int64_t unit = units.first + state.Counter(counter, owner).fetch_add(1, std::memory_order_relaxed);
    if (unit < units.last) return unit;
  }
  return std::nullopt;
}

NextBlocks AttentionPhase::BlocksOf(const StepState& state, int64_t unit, int partition) const {
  const QueryTile& tile = TileAt(state, unit);
  const int per_partition = kPartition / state.cache.layout.block_size;
  const int32_t num_keys = state.step->positions[tile.first_token + tile.num_queries - 1] + 1;
  const int num_blocks = (num_keys + state.cache.layout.block_size - 1) / state.cache.layout.block_size;
  const AttentionTile attended = TileOf(state, tile, static_cast<int>(unit % NumHeadTiles()));
  const int first = partition * per_partition;
  return {attended.chunks, attended.block_table + first, std::min(per_partition, num_blocks - first)};
}

int AttentionPhase::FirstPartition(const QueryTile& tile, const StepState& state) const {
  const int low = state.step->positions[tile.first_token] - shape.window + 1;
  return shape.window > 0 && low > 0 ? low / kPartition : 0;
}

Partial AttentionPhase::PartialOf(const StepState& state, int64_t unit, int partition) const {
  const size_t index = static_cast<size_t>(unit) * static_cast<size_t>(state.max_partitions) + static_cast<size_t>(partition);
  return Partial::At(state.partials + index * Partial::Floats(state.cache.layout.padded_dim));
}

void AttentionPhase::Run(const StepState& state, int thread) const {
  if (IsSplit(state)) {
    RunPartitions(state, thread);
  } else {
    RunWhole(state, thread);
  }
}

void AttentionPhase::RunWhole(const StepState& state, int thread) const {
  const KvLayout& layout = state.cache.layout;
  float* scores = state.scratch[static_cast<size_t>(thread)];
  const size_t partial_floats = Partial::Floats(layout.padded_dim);
  const Partial total = Partial::At(scores + kAttendScratchFloats);
  const Partial part = Partial::At(scores + kAttendScratchFloats + partial_floats);
  int num_done = 0;
  std::optional<int64_t> unit = TakeUnit(state, thread, &num_done);
  while (unit.has_value()) {
    const std::optional<int64_t> after = TakeUnit(state, thread, &num_done);  // one ahead, to have its cache fetched
    const QueryTile& query_tile = TileAt(state, *unit);
    AttentionTile tile = TileOf(state, query_tile, static_cast<int>(*unit % NumHeadTiles()));
    const int first = FirstPartition(query_tile, state);
    for (int p = first; p < query_tile.num_partitions; ++p) {
      if (p + 1 < query_tile.num_partitions) {
        tile.next = BlocksOf(state, *unit, p + 1);
      } else if (after.has_value()) {
        tile.next = BlocksOf(state, *after, FirstPartition(TileAt(state, *after), state));
      } else {
        tile.next = {};
      }
      WriteOnly(state, query_tile, static_cast<int>(*unit % NumHeadTiles()), p);
      kernels_.AttendOf(layout.type)(layout, tile, p, scores, p == first ? total : part);
      if (p > first) kernels_.merge(total, part, tile.num_queries * tile.num_heads, layout.padded_dim);
    }
    kernels_.finish(tile, total, layout.head_dim, layout.padded_dim);
    unit = after;
  }
}

void AttentionPhase::RunPartitions(const StepState& state, int thread) const {
  float* scores = state.scratch[static_cast<size_t>(thread)];
  const int64_t num_units = static_cast<int64_t>(state.tiles.size()) * NumHeadTiles();
  std::atomic<int64_t>& next = state.Counter(counter);
  for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < num_units * state.max_partitions;) {
    const int64_t unit = task / state.max_partitions;
    const int partition = static_cast<int>(task % state.max_partitions);
    const QueryTile& query_tile = TileAt(state, unit);
    if (partition >= query_tile.num_partitions || partition < FirstPartition(query_tile, state)) continue;
    const AttentionTile tile = TileOf(state, query_tile, static_cast<int>(unit % NumHeadTiles()));
    WriteOnly(state, query_tile, static_cast<int>(unit % NumHeadTiles()), partition);
    kernels_.AttendOf(state.cache.layout.type)(state.cache.layout, tile, partition, scores, PartialOf(state, unit, partition));
  }
}

void CombinePhase::Run(const StepState& state, int thread) const {
  if (!IsSplit(state)) return;
  const KvLayout& layout = state.cache.layout;
  const Range range = RangeOf(static_cast<int64_t>(state.tiles.size()) * NumHeadTiles(), thread, state.num_threads);
  for (int64_t unit = range.first; unit < range.last; ++unit) {
    const QueryTile& query_tile = TileAt(state, unit);
    const AttentionTile tile = TileOf(state, query_tile, static_cast<int>(unit % NumHeadTiles()));
    const int first = FirstPartition(query_tile, state);
    const Partial total = PartialOf(state, unit, first);
    for (int p = first + 1; p < query_tile.num_partitions; ++p) {
      kernels_.merge(total, PartialOf(state, unit, p), tile.num_queries * tile.num_heads, layout.padded_dim);
    }
    kernels_.finish(tile, total, layout.head_dim, layout.padded_dim);
  }
}

}  // namespace tripos
