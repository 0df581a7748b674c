#include "kernels/plan/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <utility>

#include "kernels/ops/sampler.h"
#include "kernels/plan/step_check.h"
#include "kernels/util/cpu.h"
#include "kernels/util/error.h"

namespace tripos {
namespace {

constexpr size_t kPartialsBytes = size_t{4} << 20;  // partial softmaxes of split attention
constexpr double kKeyBytesCost = 16.0;  // what a byte of cache costs that one token reads, where a byte of weight costs 1

KvType KvTypeOf(const std::string& name) {
  if (name == "auto" || name == "fp16" || name.empty()) return KvType::kF16;
  if (name == "fp32") return KvType::kF32;
  if (name == "int8") return KvType::kInt8;
  throw Error(Format("kv_cache \"%s\" is unknown: use auto, fp32, fp16 or int8", name.c_str()));
}

ExecutorSettings SettingsOf(const TriposOptions& o) {
  if (o.abi != TRIPOS_ABI) throw Error("the options were written for another version of this library");
  if (o.block_size < 16 || o.block_size % 16 != 0 || kPartition % o.block_size != 0) {
    throw Error(Format("block_size %d is not supported: use 16, 32, 64, 128, 256 or 512", o.block_size));
  }
  Require(o.max_num_tokens > 0 && o.max_num_rows > 0, "max_num_tokens and max_num_rows must be positive");
  Require(o.max_adapters >= 0 && o.max_adapters <= 4096, "max_adapters must be 0 to 4096");
  const int threads = o.threads > 0 ? o.threads : ThisCpu().num_cores;
  if (threads > 1024) throw Error(Format("%d threads are too many", threads));
  return {o.block_size, o.max_num_tokens, o.max_num_rows, threads, o.weights, KvTypeOf(o.kv_cache), o.max_adapters, o.profile != 0};
}

// What a thread does while it waits in a step of few rows: ask for the memory that the phases to come will read.
class FetchAhead {
 public:
  FetchAhead(std::span<const std::unique_ptr<Phase>> phases, const StepState& state, int thread)
      : phases_(phases), state_(state), thread_(thread), is_on_(state.step->num_tokens <= kFewRows) {}

  // One phase is behind: there is nothing to fetch for it any more.
  void Pass() {
    if (++num_passed_ > phase_) {
      phase_ = num_passed_;
      at_ = 0;
    }
  }

  bool operator()() {
    if (!is_on_) return false;
    for (; phase_ < std::min(num_passed_ + kPhasesAhead, phases_.size()); ++phase_, at_ = 0) {
      const int64_t at = phases_[phase_]->Prefetch(state_, thread_, at_);
      if (at != std::exchange(at_, at)) return true;
    }
    return false;
  }

 private:
  static constexpr size_t kPhasesAhead = 4;  // about two matrices; more would not stay in L2

  const std::span<const std::unique_ptr<Phase>> phases_;
  const StepState& state_;
  const int thread_;
  const bool is_on_;
  size_t num_passed_ = 0, phase_ = 0;
  int64_t at_ = 0;
};

}  // namespace

Executor::Executor(const TriposOptions& options)
    : settings_(SettingsOf(options)), kernels_(ChooseKernels(options.isa)), pool_(settings_.threads) {}

size_t Executor::ScratchFloats(const LoweredPlan& plan) const {
  const size_t cached = kAttendScratchFloats + 2 * Partial::Floats(layout_.padded_dim);
  const size_t whole = plan.self_attention_dim > 0 ? SelfAttentionScratchFloats(plan.self_attention_dim, settings_.max_num_tokens) : 0;
  return std::max(cached, whole);
}

void Executor::Load(const void* bytes, size_t num_bytes, std::span<const TriposWeight> weights, TriposProgress progress) {
  plan_.reset();
  num_blocks_ = 0;
  num_sliced_steps_ = 0;
  const Plan plan = ReadPlan(bytes, num_bytes, weights);
  LoweredPlan lowered = Lowering(plan, weights, {kernels_, settings_.kv_type, settings_.weights, progress}, pool_).Run();
  Require(lowered.header.head_dim <= kMaxHeadDim, "head_dim is larger than 512");
  layout_ = KvLayout::Make(settings_.kv_type, settings_.block_size, lowered.header.num_layers, lowered.header.num_kv_heads,
                           lowered.header.head_dim);

  const size_t num_threads = static_cast<size_t>(settings_.threads);
  token_arena_ = Memory(lowered.arena.token_row_bytes * static_cast<size_t>(settings_.max_num_tokens));
  private_arena_ = Memory(num_threads * lowered.arena.row_bytes());
  local_arena_ = Memory(num_threads * lowered.arena.local_bytes());
  sampled_arena_ = Memory(lowered.arena.sampled_row_bytes * static_cast<size_t>(settings_.max_num_rows));
  const size_t scratch_floats = ScratchFloats(lowered);
  scratch_ = Memory(num_threads * scratch_floats * sizeof(float));
  sampler_scratch_ = Memory(num_threads * SamplerScratch::Bytes(lowered.header.vocab_size));
  partials_ = Memory(lowered.queries_per_tile > 0 ? kPartialsBytes : 0);
  thread_scratch_.clear();
  for (size_t i = 0; i < num_threads; ++i) thread_scratch_.push_back(scratch_.As<float>() + i * scratch_floats);
  counters_ = std::make_unique<std::atomic<int64_t>[]>(lowered.phases.size() * num_threads + 1);
  slices_.Reserve(SliceOptionsOf(lowered));
  tiles_.reserve(static_cast<size_t>(settings_.max_num_tokens));
  ReserveAdapters(lowered.lora_sites.empty() ? 0 : static_cast<size_t>(settings_.max_adapters));
  times_.assign(settings_.has_profile ? (lowered.phases.size() + 1) * num_threads : 0, {});
  const bool can_share_last = lowered.queries_per_tile > 0 && !lowered.phases.empty() &&
                              dynamic_cast<const LinearPhase*>(lowered.phases.back().get()) != nullptr;
  num_alone_ = lowered.phases.size() - (can_share_last ? 1 : 0);
  plan_ = std::move(lowered);
}

SliceOptions Executor::SliceOptionsOf(const LoweredPlan& plan) const {
  SliceOptions options;
  options.num_threads = settings_.threads;
  options.max_num_tokens = settings_.max_num_tokens;
  options.max_num_rows = settings_.max_num_rows;
  options.num_counters = plan.phases.size() + 1;
  options.arena = plan.arena;
  options.has_cache = plan.queries_per_tile > 0;
  options.pools = plan.pools;
  options.layers_of_window = plan.layers_of_window;
  const double key_bytes = static_cast<double>(layout_.layer_bytes()) / settings_.block_size;
  options.key_cost = plan.weights.bytes == 0 ? 0.0 : kKeyBytesCost * key_bytes / static_cast<double>(plan.weights.bytes);
  return options;
}

void Executor::ReserveAdapters(size_t count) {
  adapters_.clear();
  adapters_.resize(count);
  thread_addends_.clear();
  addends_ = Memory();
  if (count == 0) return;
  lora_step_.Reserve(static_cast<size_t>(settings_.max_num_tokens), static_cast<size_t>(settings_.max_num_rows), count);
  addends_ = Memory(static_cast<size_t>(settings_.threads) * kAddendFloats * sizeof(float));
  for (size_t i = 0; i < static_cast<size_t>(settings_.threads); ++i) {
    thread_addends_.push_back(addends_.As<float>() + i * kAddendFloats);
  }
}

void Executor::SetAdapter(int32_t slot, std::span<const TriposLowRank> given) {
  Require(plan_.has_value(), "load() comes before set_adapter()");
  if (slot < 0 || static_cast<size_t>(slot) >= adapters_.size()) {
    throw Error(Format("adapter slot %d does not exist: the executor has %zu", slot, adapters_.size()));
  }
  std::vector<lora::Module> modules;
  for (const TriposLowRank& each : given) {
    const auto site = plan_->site_of_weight.find(each.weight);
    if (site == plan_->site_of_weight.end()) throw Error(Format("adapter: weight %d carries none", each.weight));
    if (each.format != TRIPOS_F32 && each.format != TRIPOS_BF16) throw Error("adapter: use float32 or bfloat16");
    const lora::Type type = each.format == TRIPOS_F32 ? lora::Type::kF32 : lora::Type::kBF16;
    modules.push_back({site->second, each.first_row, each.rows, each.cols, each.first_col, each.rank, each.scale, type, each.a, each.b});
  }
  auto adapter = modules.empty() ? nullptr : std::make_unique<lora::Adapter>(plan_->lora_sites, modules);
  adapters_[static_cast<size_t>(slot)] = std::move(adapter);
}

TriposPanels Executor::Panels(int32_t weight) const {
  Require(plan_.has_value(), "load() comes before panels()");
  const auto found = plan_->weights.matrices.find(weight);
  if (found == plan_->weights.matrices.end()) throw Error(Format("weight %d is not packed: no linear uses it", weight));
  const linear::PackedMatrix& matrix = found->second;
  const int32_t format = static_cast<int32_t>(matrix.format) | (matrix.is_interleaved ? kInterleavedPanels : 0);
  return {matrix.data, static_cast<int64_t>(matrix.bytes()), format, 0};
}

void Executor::Reserve(int64_t num_blocks) {
  Require(plan_.has_value(), "load() comes before reserve()");
  Require(num_blocks >= 0, "num_blocks must not be negative");
  num_blocks_ = 0;
  cache_ = Memory();
  if (num_blocks > INT32_MAX / settings_.block_size) throw Error("too many blocks: slots must fit 32 bits");
  cache_ = Memory(static_cast<size_t>(num_blocks) * layout_.block_bytes());
  num_blocks_ = num_blocks;
}

// Queries of a sequence in runs that fill a tile.
void Executor::PlanTiles(const TriposStep& step, std::vector<QueryTile>& tiles) const {
  tiles.clear();
  const int32_t width = plan_->queries_per_tile;
  if (width == 0) return;
  for (int32_t b = 0; b < step.num_seqs; ++b) {
    const int32_t start = step.query_start[b], end = step.query_start[b + 1];
    for (int32_t first = start; first < end; first += width) {
      const int32_t count = std::min(width, end - first);
      const int32_t num_partitions = step.positions[first + count - 1] / kPartition + 1;
      tiles.push_back({b, first, count, num_partitions, end - start == 1});
    }
  }
}

void Executor::Run(const TriposStep& step, const TriposOutput& output) {
  Require(plan_.has_value(), "load() comes before run()");
  const LoweredPlan& plan = *plan_;
  CheckStep(step, output,
            {settings_.block_size, settings_.max_num_tokens, settings_.max_num_rows, num_blocks_, plan.num_embed_rows,
             plan.num_positions, plan.header.vocab_size, plan.queries_per_tile > 0, plan.num_token_types,
             plan.self_attention_dim > 0, plan.pools});
  CheckAdapterSlots(step, adapters_);
  const size_t num_counters = plan.phases.size() * static_cast<size_t>(settings_.threads) + 1;
  for (size_t i = 0; i < num_counters; ++i) counters_[i].store(0, std::memory_order_relaxed);

  StepState state;
  state.step = &step;
  state.num_threads = settings_.threads;
  state.token_arena = token_arena_.As<std::byte>();
  state.sampled_arena = sampled_arena_.As<std::byte>();
  state.private_token_arena = state.token_arena;
  state.private_sampled_arena = state.sampled_arena;
  state.is_single = settings_.threads > 1 && step.num_tokens == 1 && step.num_rows <= 1;
  state.cache.layout = layout_;
  state.cache.data = cache_.As<uint8_t>();
  state.counters = {counters_.get(), num_counters};
  state.scratch = thread_scratch_;
  state.partials = partials_.As<float>();
  state.num_partial_floats = partials_.bytes() / sizeof(float);
  state.lora = lora_step_.Plan(step, adapters_) ? &lora_step_ : nullptr;
  state.addends = thread_addends_;
  const bool needs_whole_seqs = plan.self_attention_dim > 0 || plan.pools;  // with a cache a slice may begin inside one
  const bool can_slice = plan.queries_per_tile > 0 ? !needs_whole_seqs : plan.self_attention_dim > 0;
  if (can_slice && state.lora == nullptr && slices_.Plan(step)) {
    ++num_sliced_steps_;
    pool_.Run([&](int thread) { RunSlices(state, output, thread); });
    return;
  }
  PlanTiles(step, tiles_);
  state.tiles = tiles_;
  for (const QueryTile& tile : tiles_) state.max_partitions = std::max(state.max_partitions, tile.num_partitions);
  pool_.Run([&](int thread) {
    StepState own = state;
    own.local_arena = LocalArena(thread);
    if (state.is_single) {
      own.private_token_arena = private_arena_.As<std::byte>() + static_cast<size_t>(thread) * plan.arena.row_bytes();
      own.private_sampled_arena = own.private_token_arena + plan.arena.token_row_bytes;
    }
    RunThread(own, output, thread);
  });
}

template <typename Work>
void Executor::Timed(size_t phase, int thread, double PhaseTimes::*part, const Work& work) {
  using Clock = std::chrono::steady_clock;
  if (times_.empty()) return work();
  const Clock::time_point began = Clock::now();
  work();
  const size_t index = phase * static_cast<size_t>(settings_.threads) + static_cast<size_t>(thread);
  times_[index].*part += std::chrono::duration<double>(Clock::now() - began).count();
}

void Executor::RunThread(const StepState& state, const TriposOutput& output, int thread) {
  FetchAhead ahead(plan_->phases, state, thread);
  const size_t num_phases = plan_->phases.size();
  for (size_t i = 0; i < num_phases; ++i) {
    const Phase& phase = *plan_->phases[i];
    if (!phase.IsIdle(state)) {
      if (phase.NeedsBarrier(state)) Timed(i, thread, &PhaseTimes::wait_s, [&] { pool_.Barrier(ahead); });
      Timed(i, thread, &PhaseTimes::run_s, [&] { phase.Run(state, thread); });
    }
    ahead.Pass();
  }
  Timed(num_phases, thread, &PhaseTimes::wait_s, [&] { pool_.Barrier(); });
  Timed(num_phases, thread, &PhaseTimes::run_s, [&] { Sample(state, *state.step, 0, output, thread); });
}

// Each thread is alone with its part of the arenas, its scratch and its counters: a step of one thread.
void Executor::RunSlices(const StepState& whole, const TriposOutput& output, int thread) {
  SliceStep& own = slices_.Own(thread);
  StepState& state = own.state;
  while (slices_.Take(*whole.step, thread)) {
    state = whole;
    state.step = &own.step;
    state.num_threads = 1;
    state.token_arena += plan_->arena.token_row_bytes * static_cast<size_t>(own.arena_token);
    state.sampled_arena += plan_->arena.sampled_row_bytes * static_cast<size_t>(own.arena_row);
    state.private_token_arena = state.token_arena;
    state.private_sampled_arena = state.sampled_arena;
    state.local_arena = LocalArena(thread);
    PlanTiles(own.step, own.tiles);
    state.tiles = own.tiles;
    state.scratch = whole.scratch.subspan(static_cast<size_t>(thread), 1);
    state.counters = {own.counters.get(), plan_->phases.size() + 1};
    for (std::atomic<int64_t>& counter : state.counters) counter.store(0, std::memory_order_relaxed);
    RunAlone(own, thread);
    if (slices_.has_one_each()) return FinishTogether(*whole.step, output, thread);
    Timed(plan_->phases.size(), thread, &PhaseTimes::run_s, [&] { Sample(state, *whole.step, own.first_row, output, thread); });
  }
}

void Executor::RunAlone(SliceStep& own, int thread) {
  for (size_t i = 0; i < num_alone_; ++i) {
    const Phase& phase = *plan_->phases[i];
    if (!phase.IsIdle(own.state)) {
      if (phase.reads_cache) Timed(i, thread, &PhaseTimes::wait_s, [&] { WaitForKeys(i, thread); });
      Timed(i, thread, &PhaseTimes::run_s, [&] { phase.Run(own.state, 0); });
    }
    own.Pass(static_cast<uint32_t>(i + 1));
  }
}

// Those of earlier tokens of the sequence in which this thread's slice begins.
void Executor::WaitForKeys(size_t phase, int thread) {
  for (int slice = thread; slices_.Continues(slice); --slice) slices_.Own(slice - 1).WaitFor(static_cast<uint32_t>(phase));
}

// The last linear and the sampling of all slices: who is done with its own goes on with those of others.
void Executor::FinishTogether(const TriposStep& step, const TriposOutput& output, int thread) {
  const size_t num_phases = plan_->phases.size();
  for (int i = 0; i < settings_.threads && num_alone_ < num_phases; ++i) {
    SliceStep& slice = slices_.Own((thread + i) % settings_.threads);
    Timed(num_alone_, thread, &PhaseTimes::wait_s, [&] { slice.WaitFor(static_cast<uint32_t>(num_alone_)); });
    if (i > 0 && slice.step.num_rows <= kFewRows) continue;  // these are not shared out in tasks
    Timed(num_alone_, thread, &PhaseTimes::run_s, [&] { plan_->phases.back()->Run(slice.state, 0); });
  }
  Timed(num_phases, thread, &PhaseTimes::wait_s, [&] { pool_.Barrier(); });
  for (int i = 0; i < settings_.threads; ++i) {
    const SliceStep& slice = slices_.Own((thread + i) % settings_.threads);
    Timed(num_phases, thread, &PhaseTimes::run_s, [&] { Sample(slice.state, step, slice.first_row, output, thread); });
  }
}

// Rows of `state`, which are those from first_row on of the whole step.
void Executor::Sample(const StepState& state, const TriposStep& whole, int64_t first_row, const TriposOutput& output, int thread) {
  std::atomic<int64_t>& next = state.counters.back();
  for (int64_t row; (row = next.fetch_add(1, std::memory_order_relaxed)) < state.step->num_rows;) {
    SampleLogits(whole, first_row + row, plan_->logits.Row(state, row), output, thread);
  }
}

void Executor::SampleLogits(const TriposStep& step, int64_t row, float* logits, const TriposOutput& output, int thread) {
  const int64_t vocab_size = plan_->header.vocab_size;
  const size_t stride = SamplerScratch::Bytes(vocab_size);
  const SamplerScratch scratch =
      SamplerScratch::At(sampler_scratch_.As<std::byte>() + static_cast<size_t>(thread) * stride, vocab_size);
  if (output.logits != nullptr) {
    std::memcpy(output.logits + row * vocab_size, logits, static_cast<size_t>(vocab_size) * sizeof(float));
  }
  SampleRow(kernels_, step, static_cast<int>(row), logits, vocab_size, scratch, output);
}

const std::string& Executor::Describe() {
  std::string& d = description_;
  d = Format("isa=%s\nthreads=%d\nkv_cache=%s\n", kernels_.isa, settings_.threads,
             KvTypeName(settings_.kv_type));
  if (!plan_.has_value()) return d;
  const size_t arena = token_arena_.bytes() + sampled_arena_.bytes() + private_arena_.bytes() + local_arena_.bytes() +
                       scratch_.bytes() + sampler_scratch_.bytes() + partials_.bytes() + addends_.bytes();
  d += Format("weight_bytes=%zu\narena_bytes=%zu\nkv_bytes_per_block=%zu\nsliced_steps=%lld\n", plan_->weights.bytes, arena,
              layout_.block_bytes(), static_cast<long long>(num_sliced_steps_));
  // Seconds of each kind of phase, all threads together: running, and waiting for others before it.
  std::map<std::string, PhaseTimes> kinds;
  for (size_t i = 0; i < times_.size(); ++i) {
    const size_t phase = i / static_cast<size_t>(settings_.threads);
    PhaseTimes& kind = kinds[phase < plan_->phases.size() ? plan_->phases[phase]->Name() : "sample"];
    kind.wait_s += times_[i].wait_s;
    kind.run_s += times_[i].run_s;
  }
  for (const auto& [name, times] : kinds) d += Format("profile.%s=%.6f %.6f\n", name.c_str(), times.run_s, times.wait_s);
  for (const auto& [op, kernel] : plan_->kernels) d += "kernel." + op + "=" + kernel + "\n";
  return d;
}

}  // namespace tripos
