// Times the attention kernels without the rest of the engine: what a pair of a query and a key costs in one head.
//
//   attention_benchmark [isa [case]]      ns per pair; of the cases whose name contains `case`
//
// Cases of several sequences decode one token of each, in every layer, from caches that lie apart and together are
// larger than the processor's: they read from memory, as a step does. The others find all in L2.
//
// Built by the CMake target `attention_benchmark`. One thread, timed by its own CPU time: best of many short runs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/isa/kernels.h"
#include "kernels/util/memory.h"

namespace {

using namespace tripos;  // NOLINT: a program about this one namespace

struct Case {
  const char* name;
  int num_heads, num_kv_heads, head_dim;
  int context;      // keys of the last query
  int num_queries;  // 1: decode
  int num_seqs = 1;
  int num_layers = 1;
};

constexpr Case kCases[] = {
    {"135m prefill 512", 9, 3, 64, 512, 512},    {"135m prefill 2048", 9, 3, 64, 2048, 512},
    {"135m decode 512", 9, 3, 64, 512, 1},       {"0.6b prefill 512", 16, 8, 128, 512, 512},
    {"0.6b decode 512", 16, 8, 128, 512, 1},         {"135m batch 64 x 512", 9, 3, 64, 512, 1, 64, 30},
    {"135m batch 32 x 1024", 9, 3, 64, 1024, 1, 32, 30}, {"135m batch 16 x 2048", 9, 3, 64, 2048, 1, 16, 30},
    {"135m batch 8 x 4096", 9, 3, 64, 4096, 1, 8, 30},   {"135m batch 4 x 8192", 9, 3, 64, 8192, 1, 4, 30},
    {"0.6b batch 16 x 512", 16, 8, 128, 512, 1, 16, 28},
};

double Now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// A case's cache, filled with noise, its blocks in an order of no pattern.
class Caches {
 public:
  Caches(const Kernels& kernels, KvType type, const Case& c)
      : layout(KvLayout::Make(type, kBlock, c.num_layers, c.num_kv_heads, c.head_dim)),
        blocks_per_seq((c.context + kBlock - 1) / kBlock),
        tables(static_cast<size_t>(blocks_per_seq * c.num_seqs)),
        memory(tables.size() * layout.block_bytes()) {
    std::iota(tables.begin(), tables.end(), 0);
    std::shuffle(tables.begin(), tables.end(), std::mt19937(2));
    const std::vector<float> noise = Noise(4096 + c.num_kv_heads * c.head_dim);
    const int num_slots = static_cast<int>(tables.size()) * kBlock;
    for (int layer = 0; layer < c.num_layers; ++layer) {
      uint8_t* at = memory.As<uint8_t>() + static_cast<size_t>(layer) * layout.layer_bytes();
      for (int slot = 0; slot < num_slots; ++slot) {
        kernels.write_kv(layout, at, slot, noise.data() + slot * 7 % 4096, noise.data() + slot * 13 % 4096);
      }
    }
  }
  static std::vector<float> Noise(int count) {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = normal(generator);
    return values;
  }
  const int32_t* Table(int seq) const { return tables.data() + seq * blocks_per_seq; }
  const uint8_t* Chunks(int layer, int head) const {
    return memory.As<uint8_t>() + static_cast<size_t>(layer) * layout.layer_bytes() + static_cast<size_t>(head) * layout.chunk_bytes;
  }

  static constexpr int kBlock = 32;
  const KvLayout layout;
  const int blocks_per_seq;
  std::vector<int32_t> tables;  // [seqs, blocks_per_seq]
  Memory memory;
};

double NanosecondsPerPair(const Kernels& kernels, KvType type, const Case& c) {
  const Caches caches(kernels, type, c);
  const KvLayout& layout = caches.layout;
  const int width = c.num_heads * c.head_dim, group = c.num_heads / c.num_kv_heads;
  const std::vector<float> q = Caches::Noise(c.num_queries * width);
  std::vector<float> out(q.size()), scratch(kAttendScratchFloats);
  std::vector<float> totals(Partial::Floats(layout.padded_dim)), parts(totals.size());
  const Partial total = Partial::At(totals.data()), part = Partial::At(parts.data());
  const int queries_per_tile = kTileRows / group;
  std::vector<AttentionTile> tiles;  // of a layer
  for (int seq = 0; seq < c.num_seqs; ++seq) {
    for (int query = 0; query < c.num_queries; query += queries_per_tile) {
      for (int head = 0; head < c.num_kv_heads; ++head) {
        AttentionTile t{};
        t.q = q.data() + query * width + head * group * c.head_dim;
        t.out = out.data() + query * width + head * group * c.head_dim;
        t.q_stride = t.out_stride = static_cast<size_t>(width);
        t.num_queries = std::min(queries_per_tile, c.num_queries - query);
        t.num_heads = group;
        t.first_position = c.context - c.num_queries + query;
        t.chunks = caches.Chunks(0, head);
        t.block_table = caches.Table(seq);
        t.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        tiles.push_back(t);
      }
    }
  }
  double pairs = 0.0;
  int layer = 0;
  const auto run = [&] {
    pairs = 0.0;
    const size_t layer_offset = static_cast<size_t>(layer) * layout.layer_bytes();
    for (size_t i = 0; i < tiles.size(); ++i) {
      AttentionTile t = tiles[i];
      t.chunks += layer_offset;
      const int last = t.first_position + t.num_queries - 1;
      const AttentionTile& after = tiles[(i + 1) % tiles.size()];
      for (int p = 0; p <= last / kPartition; ++p) {
        const int first_block = (p + 1) * kPartition / Caches::kBlock;
        t.next = {t.chunks, t.block_table + first_block, std::min(kPartition / Caches::kBlock, last / Caches::kBlock + 1 - first_block)};
        if (t.next.count <= 0) t.next = {after.chunks + layer_offset, after.block_table, std::min(kPartition / Caches::kBlock, caches.blocks_per_seq)};
        if (p == 0) {
          kernels.AttendOf(layout.type)(layout, t, 0, scratch.data(), total);
          continue;
        }
        kernels.AttendOf(layout.type)(layout, t, p, scratch.data(), part);
        kernels.merge(total, part, t.num_queries * group, layout.padded_dim);
      }
      kernels.finish(t, total, layout.head_dim, layout.padded_dim);
      for (int i = 0; i < t.num_queries; ++i) pairs += static_cast<double>((t.first_position + i + 1) * group);
    }
    layer = (layer + 1) % c.num_layers;
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
  const ChosenKernels kernels = ChooseKernels(argc > 1 ? argv[1] : "auto");
  std::printf("%-22s %12s %12s   ns per query, key and head (%s)\n", "", "int8", "fp16", kernels.isa);
  for (const Case& c : kCases) {
    if (argc > 2 && std::strstr(c.name, argv[2]) == nullptr) continue;
    std::printf("%-22s %12.3f %12.3f\n", c.name, NanosecondsPerPair(kernels, KvType::kInt8, c),
                NanosecondsPerPair(kernels, KvType::kF16, c));
  }
}
