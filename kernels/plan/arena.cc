#include "kernels/plan/arena.h"

#include <algorithm>

namespace tripos {
namespace {

bool IsOfOneKind(const Buffer& a, const Buffer& b) { return a.is_local == b.is_local && (a.is_local || a.rows == b.rows); }

size_t FirstFit(const Buffer& buffer, const std::vector<const Buffer*>& placed) {
  std::vector<const Buffer*> neighbours;
  for (const Buffer* other : placed) {
    if (IsOfOneKind(*other, buffer) && other->first <= buffer.last && buffer.first <= other->last) neighbours.push_back(other);
  }
  std::sort(neighbours.begin(), neighbours.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  size_t offset = 0;
  for (const Buffer* other : neighbours) {
    if (offset + buffer.row_bytes <= other->offset) break;
    offset = std::max(offset, other->offset + other->row_bytes);
  }
  return offset;
}

}  // namespace

ArenaSize PlaceBuffers(std::vector<Buffer>& buffers) {
  std::vector<Buffer*> order;
  for (Buffer& buffer : buffers) {
    if (buffer.first >= 0) order.push_back(&buffer);
  }
  std::stable_sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->first < b->first; });
  std::vector<const Buffer*> placed;
  ArenaSize size;
  for (Buffer* buffer : order) {
    buffer->offset = FirstFit(*buffer, placed);
    placed.push_back(buffer);
    size_t& total = buffer->is_local                ? size.local_row_bytes
                    : buffer->rows == Rows::kTokens ? size.token_row_bytes
                                                    : size.sampled_row_bytes;
    total = std::max(total, buffer->offset + buffer->row_bytes);
  }
  return size;
}

}  // namespace tripos
