// Low-rank adapters (Hu et al. 2021): y += scale · B (A x), for the rows of a step that use one, in float32.
//
// Owns the packed form of an adapter and the two products: shrink (h = scale · A x) before a linear and expand (B h) in
// the same tasks as the linear. Rows of any adapters mix in a step; weights of the base are read once for all of them.
// Refuses to know: threads, plans, files.
//
// Every value is computed in an order that depends on its own row and adapter only, never on other rows.
#ifndef TRIPOS_OPS_LORA_H_
#define TRIPOS_OPS_LORA_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/util/memory.h"

namespace tripos::lora {

inline constexpr int kPanel = 16;      // ranks, or outputs, side by side: one 512-bit vector
inline constexpr int kMaxRows = 8;     // of one call of a kernel

enum class Type : uint8_t { kF32, kBF16 };

// What an adapter adds to rows [first_row, first_row + rows) of a linear's weight. a: [rank, k], b: [rows, rank], both
// row-major and not owned.
struct Module {
  int site = 0;  // which linear
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t k = 0;
  int first_col = 0;  // of the linear's shrunk tensor, a multiple of kPanel
  int rank = 0;
  float scale = 1.0f;
  Type type = Type::kF32;
  const void* a = nullptr;
  const void* b = nullptr;
};

// A linear as the adapter sees it: n outputs in half panels of 16, in the order of the packed weight (linear.h).
struct Site {
  int64_t n = 0;
  int64_t k = 0;
  bool is_interleaved = false;
  int shrunk_cols = 0;

  int64_t num_halves() const;
  // Where output `column` lies.
  void Place(int64_t column, int64_t* half, int* lane) const;
};

// One panel of A: [k][16 ranks].
struct ShrinkPanel {
  const uint8_t* data = nullptr;  // nullptr: the adapter has nothing here
  float scale = 1.0f;
};

// B of one module for one half panel of outputs: [rank][16 outputs], zero where the outputs are another module's.
struct ExpandBlock {
  const uint8_t* data = nullptr;
  int first_col = 0;
  int rank = 0;
};

// Half panel i has blocks[first[i]] .. blocks[first[i + 1] - 1].
struct Blocks {
  const ExpandBlock* blocks;
  const size_t* first;
};

// One adapter, packed for one plan.
class Adapter {
 public:
  // Copies the modules. Throws Error for what does not fit the sites.
  Adapter(std::span<const Site> sites, std::span<const Module> modules);

  bool Has(int site) const { return !sites_[static_cast<size_t>(site)].panels.empty(); }
  const ShrinkPanel& Panel(int site, int panel) const {
    return sites_[static_cast<size_t>(site)].panels[static_cast<size_t>(panel)];
  }
  // Of half panels first, first + 1 ..; the adapter must have the site.
  Blocks From(int site, int64_t first) const {
    const Packed& packed = sites_[static_cast<size_t>(site)];
    return {packed.blocks.data(), packed.first_block.data() + first};
  }
  Type type() const { return type_; }
  size_t bytes() const { return memory_.bytes(); }

 private:
  struct Packed {
    std::vector<ShrinkPanel> panels;
    std::vector<ExpandBlock> blocks;   // by half
    std::vector<size_t> first_block;  // [num_halves + 1]
  };
  void PackA(const Module& module, Packed& packed, uint8_t*& at);
  void PackB(const Site& site, const Module& module, std::vector<std::vector<ExpandBlock>>& blocks, uint8_t*& at);

  Type type_ = Type::kF32;
  Memory memory_;
  std::vector<Packed> sites_;
};

// Pointers to the rows of one call, at most kMaxRows.
struct Rows {
  const float* in[kMaxRows];
  float* out[kMaxRows];
  int count = 0;
};

}  // namespace tripos::lora

#endif  // TRIPOS_OPS_LORA_H_
