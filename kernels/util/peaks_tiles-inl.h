// Tiles from L1, multiplied as fast as the unit can: blocks of two by two, of whose four operands three are loaded anew in
// each round. A fourth load, which a product of long rows needs, costs a fifth of the speed (5.6 for 6.8 TOP/s of int8 on
// one core of a Xeon): this is what the multiplier can do at most, not what a kernel will. Needs tiles-inl.h.
namespace tripos {
namespace {

template <bool kIsInt8>
int64_t TilePeak() {
  constexpr int kTileRounds = 4000, kTileBytes = kTileMaxRows * kTileRowBytes;
  alignas(64) uint8_t operands[4][kTileBytes];
  std::memset(operands, 0x3f, sizeof operands);  // 63 as bytes, 0.75 as bf16
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.Set(tile, kTileMaxRows, kTileRowBytes);
  TileConfigure(config);
  TileLoad<5>(operands[1], kTileRowBytes);
  for (int i = 0; i < kTileRounds; ++i) {
    TileLoad<4>(operands[0], kTileRowBytes);
    TileLoad<6>(operands[2], kTileRowBytes);
    TileLoad<7>(operands[3], kTileRowBytes);
    if constexpr (kIsInt8) {
      TileDotU8S8<0, 4, 6>();
      TileDotU8S8<1, 4, 7>();
      TileDotU8S8<2, 5, 6>();
      TileDotU8S8<3, 5, 7>();
    } else {
      TileDotBF16<0, 4, 6>();
      TileDotBF16<1, 4, 7>();
      TileDotBF16<2, 5, 6>();
      TileDotBF16<3, 5, 7>();
    }
  }
  TileRelease();
  return int64_t{4} * kTileRounds * 2 * kTileMaxRows * kTileMaxRows * (kIsInt8 ? kTileRowBytes : kTileRowBytes / 2);
}

}  // namespace
}  // namespace tripos
