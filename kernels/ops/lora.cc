// Packing of adapters: what does not depend on the instruction set.
#include "kernels/ops/lora.h"

#include <cstring>

#include "kernels/util/error.h"

namespace tripos::lora {

namespace {

size_t SizeOf(Type type) { return type == Type::kF32 ? sizeof(float) : sizeof(uint16_t); }
int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The half panels that a module's outputs lie in: within a part they follow each other, but for the step of 2 where
// two parts are interleaved.
struct Halves {
  int64_t first, last, step;
  int64_t count() const { return (last - first) / step + 1; }
};

Halves HalvesOf(const Site& site, const Module& module) {
  Halves halves;
  int lane;
  site.Place(module.first_row, &halves.first, &lane);
  site.Place(module.first_row + module.rows - 1, &halves.last, &lane);
  halves.step = site.is_interleaved ? 2 : 1;
  return halves;
}

void CheckModule(std::span<const Site> sites, const Module& m, Type type) {
  Require(m.site >= 0 && static_cast<size_t>(m.site) < sites.size(), "adapter: a module is for no linear of the plan");
  const Site& site = sites[static_cast<size_t>(m.site)];
  Require(m.k == site.k && m.first_row >= 0 && m.rows > 0 && m.first_row <= site.n - m.rows,
          "adapter: a module's shape differs from its linear's");
  Require(!site.is_interleaved || (m.first_row < site.n / 2) == (m.first_row + m.rows <= site.n / 2),
          "adapter: a module reaches over both halves of a gated linear");
  Require(m.rank > 0 && m.first_col >= 0 && m.first_col % kPanel == 0 &&
              m.first_col + CeilDiv(m.rank, kPanel) * kPanel <= site.shrunk_cols,
          "adapter: a module's rank is larger than the plan allows");
  Require(m.type == type, "adapter: modules of several types");
  Require(m.a != nullptr && m.b != nullptr, "adapter: a module has no data");
}

}  // namespace

int64_t Site::num_halves() const { return is_interleaved ? 2 * CeilDiv(n / 2, kPanel) : 2 * CeilDiv(n, 2 * kPanel); }

void Site::Place(int64_t column, int64_t* half, int* lane) const {
  const bool is_upper = is_interleaved && column >= n / 2;
  const int64_t in_part = is_upper ? column - n / 2 : column;
  *half = is_interleaved ? in_part / kPanel * 2 + (is_upper ? 1 : 0) : in_part / kPanel;
  *lane = static_cast<int>(in_part % kPanel);
}

Adapter::Adapter(std::span<const Site> sites, std::span<const Module> modules) {
  Require(!modules.empty(), "adapter: no modules");
  type_ = modules[0].type;
  size_t num_values = 0;
  for (const Module& module : modules) {
    CheckModule(sites, module, type_);
    const Site& site = sites[static_cast<size_t>(module.site)];
    num_values += static_cast<size_t>(CeilDiv(module.rank, kPanel) * kPanel * module.k);
    num_values += static_cast<size_t>(HalvesOf(site, module).count() * kPanel * module.rank);
  }
  memory_ = Memory(num_values * SizeOf(type_));
  uint8_t* at = memory_.As<uint8_t>();
  sites_.resize(sites.size());
  for (size_t s = 0; s < sites.size(); ++s) {
    std::vector<std::vector<ExpandBlock>> blocks(static_cast<size_t>(sites[s].num_halves()));
    Packed& packed = sites_[s];
    for (const Module& module : modules) {
      if (static_cast<size_t>(module.site) != s) continue;
      packed.panels.resize(static_cast<size_t>(sites[s].shrunk_cols / kPanel));
      PackA(module, packed, at);
      PackB(sites[s], module, blocks, at);
    }
    for (const std::vector<ExpandBlock>& half : blocks) {
      packed.first_block.push_back(packed.blocks.size());
      packed.blocks.insert(packed.blocks.end(), half.begin(), half.end());
    }
    packed.first_block.push_back(packed.blocks.size());
  }
}

void Adapter::PackA(const Module& module, Packed& packed, uint8_t*& at) {
  const size_t size = SizeOf(type_), k = static_cast<size_t>(module.k);
  const uint8_t* a = static_cast<const uint8_t*>(module.a);
  for (int first = 0; first < module.rank; first += kPanel) {
    ShrinkPanel& panel = packed.panels[static_cast<size_t>((module.first_col + first) / kPanel)];
    Require(panel.data == nullptr, "adapter: two modules for the same columns");
    panel.data = at;
    panel.scale = module.scale;
    for (int r = 0; r < kPanel && first + r < module.rank; ++r) {
      const uint8_t* row = a + static_cast<size_t>(first + r) * k * size;
      for (size_t i = 0; i < k; ++i) std::memcpy(at + (i * kPanel + static_cast<size_t>(r)) * size, row + i * size, size);
    }
    at += k * kPanel * size;
  }
}

void Adapter::PackB(const Site& site, const Module& module, std::vector<std::vector<ExpandBlock>>& blocks, uint8_t*& at) {
  const size_t size = SizeOf(type_), rank = static_cast<size_t>(module.rank);
  const size_t block_bytes = rank * kPanel * size;
  const Halves halves = HalvesOf(site, module);
  for (int64_t half = halves.first; half <= halves.last; half += halves.step) {
    const size_t index = static_cast<size_t>((half - halves.first) / halves.step);
    blocks[static_cast<size_t>(half)].push_back({at + index * block_bytes, module.first_col, module.rank});
  }
  const uint8_t* b = static_cast<const uint8_t*>(module.b);
  for (int64_t row = 0; row < module.rows; ++row) {
    int64_t half;
    int lane;
    site.Place(module.first_row + row, &half, &lane);
    uint8_t* block = at + static_cast<size_t>((half - halves.first) / halves.step) * block_bytes;
    for (size_t r = 0; r < rank; ++r) {
      std::memcpy(block + (r * kPanel + static_cast<size_t>(lane)) * size, b + (static_cast<size_t>(row) * rank + r) * size, size);
    }
  }
  at += static_cast<size_t>(halves.count()) * block_bytes;
}

}  // namespace tripos::lora
