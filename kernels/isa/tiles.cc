// Tiles emulated in plain C++: what the tile kernels compute, on any machine. For tests: slow, and chosen by name only.
#include "kernels/isa/tile_table-inl.h"

namespace tripos {

extern const Kernels kTilesKernels;
constinit const Kernels kTilesKernels = TileTable();

}  // namespace tripos
