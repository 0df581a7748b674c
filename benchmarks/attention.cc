// Times the attention kernels without the rest of the engine: what a pair of a query and a key costs in one head.
//
//   attention_benchmark [isa [case]]      ns per pair; of the cases whose name contains `case`
//
// Built by the CMake target `attention_benchmark`. One thread, timed by its own CPU time: best of many short runs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <random>
#include <vector>

#include "kernels/ops/op_kernels.h"
#include "kernels/util/cpu.h"
#include "kernels/util/memory.h"

namespace {

using namespace tripos;  // NOLINT: a program about this one namespace

struct Case {
  const char* name;
  int num_heads, num_kv_heads, head_dim;
  int context;      // keys of the last query
  int num_queries;  // 1: decode
};

constexpr Case kCases[] = {
    {"135m prefill 512", 9, 3, 64, 512, 512},    {"135m prefill 2048", 9, 3, 64, 2048, 512},
    {"135m decode 512", 9, 3, 64, 512, 1},       {"0.6b prefill 512", 16, 8, 128, 512, 512},
    {"0.6b decode 512", 16, 8, 128, 512, 1},
};

double Now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double NanosecondsPerPair(const OpKernels& kernels, KvType type, const Case& c) {
  constexpr int kBlock = 32;
  const KvLayout layout = KvLayout::Make(type, kBlock, 1, c.num_kv_heads, c.head_dim);
  const int num_blocks = (c.context + kBlock - 1) / kBlock;
  Memory cache(static_cast<size_t>(num_blocks) * layout.block_bytes());
  std::vector<int32_t> table(static_cast<size_t>(num_blocks));
  for (int i = 0; i < num_blocks; ++i) table[static_cast<size_t>(i)] = num_blocks - 1 - i;

  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  const auto random = [&](int count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = normal(generator);
    return values;
  };
  for (int position = 0; position < c.context; ++position) {
    const std::vector<float> k = random(c.num_kv_heads * c.head_dim), v = random(c.num_kv_heads * c.head_dim);
    const int32_t slot = table[static_cast<size_t>(position / kBlock)] * kBlock + position % kBlock;
    kernels.write_kv(layout, cache.As<uint8_t>(), slot, k.data(), v.data());
  }
  const int width = c.num_heads * c.head_dim, group = c.num_heads / c.num_kv_heads;
  const std::vector<float> q = random(c.num_queries * width);
  std::vector<float> out(q.size()), scratch(AttendScratchFloats(layout.padded_dim));
  std::vector<float> totals(Partial::Floats(layout.padded_dim)), parts(totals.size());
  const Partial total = Partial::At(totals.data()), part = Partial::At(parts.data());
  const int queries_per_tile = kTileRows / group, first_position = c.context - c.num_queries;
  double pairs = 0.0;
  const auto run = [&] {
    pairs = 0.0;
    for (int query = 0; query < c.num_queries; query += queries_per_tile) {
      for (int head = 0; head < c.num_kv_heads; ++head) {
        AttentionTile t{};
        t.q = q.data() + query * width + head * group * c.head_dim;
        t.out = out.data() + query * width + head * group * c.head_dim;
        t.q_stride = t.out_stride = static_cast<size_t>(width);
        t.num_queries = std::min(queries_per_tile, c.num_queries - query);
        t.num_heads = group;
        t.first_position = first_position + query;
        t.chunks = cache.As<uint8_t>() + static_cast<size_t>(head) * layout.chunk_bytes;
        t.block_table = table.data();
        t.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        const int last = t.first_position + t.num_queries - 1;
        kernels.attend(layout, t, 0, scratch.data(), total);
        for (int p = 1; p <= last / kPartition; ++p) {
          kernels.attend(layout, t, p, scratch.data(), part);
          kernels.merge(total, part, t.num_queries * group, layout.padded_dim);
        }
        kernels.finish(t, total, layout.head_dim, layout.padded_dim);
        for (int i = 0; i < t.num_queries; ++i) pairs += static_cast<double>((t.first_position + i + 1) * group);
      }
    }
  };
  double best = 1e9;
  for (const double end = Now() + 0.3; Now() < end;) {
    const double start = Now();
    run();
    best = std::min(best, Now() - start);
  }
  return 1e9 * best / pairs;
}

}  // namespace

int main(int argc, char** argv) {
  const OpKernels& kernels = ChooseOpKernels(ChooseIsa(argc > 1 ? argv[1] : "auto"));
  std::printf("%-20s %12s %12s   ns per query, key and head (%s)\n", "", "int8", "fp16", IsaName(kernels.isa));
  for (const Case& c : kCases) {
    if (argc > 2 && std::strstr(c.name, argv[2]) == nullptr) continue;
    std::printf("%-20s %12.3f %12.3f\n", c.name, NanosecondsPerPair(kernels, KvType::kInt8, c),
                NanosecondsPerPair(kernels, KvType::kF16, c));
  }
}
