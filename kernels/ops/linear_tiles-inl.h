// Linear kernels over tile registers. Needs linear-inl.h and tiles-inl.h.
//
// A block is up to 32 rows of x and one panel of 32 outputs: two by two tiles of sums, two of rows, two of weights.
// Panels lie as the tiles want them: four bytes (or two bf16) of each column side by side, row by row of k.
//
// The tile unit multiplies by itself; what turns the sums of the block before into outputs is placed between its
// instructions, so that both units are busy.

namespace tripos::linear {
namespace {

inline constexpr int kBlockRows = 2 * kTileMaxRows;
inline constexpr size_t kStepBytes = kTileRowBytes;                      // of a row of x, per tile
inline constexpr size_t kPanelStepBytes = kTileMaxRows * 128;            // of a panel beside it
inline constexpr size_t kPanelGroupTiles = size_t{256} << 10;            // of panels that blocks of rows share in L2
inline constexpr int kPieceRows = 4;                                     // turned into outputs at a time

// Rows [row, row + num_rows) of a panel: their sums are known, the outputs are still to come.
struct PendingBlock {
  int64_t row = 0, panel = 0;
  int num_rows = 0, num_done = 0;
  const int32_t* sums = nullptr;  // [kBlockRows][kPanelCols]
};

// What a format does with tiles. kRowBytes, kPanelHeader: of a value of x, and before a panel's first step;
// kIsUnpacked: a panel is first turned into one of bf16.
struct Int8Tiles {
  static constexpr int64_t kRowBytes = 1;
  static constexpr size_t kPanelHeader = kPanelCols * 4;
  static constexpr size_t kRowHeader = kRowHeaderBytes;
  static constexpr bool kIsUnpacked = false;

  template <int kSum, int kRowTile, int kPanelTile>
  static void Dot() {
    TileDotS8U8<kSum, kRowTile, kPanelTile>();
  }
  template <int kRows>
  static void Outputs(const TileInput& in, const int32_t* sums, Tile<kRows>* out) {
    Ints products[kRows][2];
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < 2; ++j) products[r][j] = LoadSums(sums, r, j, in.pass);
    }
    Int8Kernel::Scale<kRows>(in, products, out);
  }
  static Ints LoadSums(const int32_t* sums, int row, int half, int pass) {
    return LoadInts(sums + row * kPanelCols + half * 16 + pass * kLanes);
  }
};

// bf16 by bf16; Loader: of the weights as they are packed. Each 32 products of even and of odd k are summed apart, then
// added to the sum: the order of the tile unit, for any number of rows.
template <class Loader>
struct FloatTiles {
  static constexpr int64_t kRowBytes = 2;
  static constexpr size_t kPanelHeader = 0;
  static constexpr size_t kRowHeader = 0;
  static constexpr bool kIsUnpacked = !std::is_same_v<Loader, BF16Loader>;

  template <int kSum, int kRowTile, int kPanelTile>
  static void Dot() {
    TileDotBF16<kSum, kRowTile, kPanelTile>();
  }
  template <int kRows>
  static void Outputs(const TileInput& in, const int32_t* sums, Tile<kRows>* out) {
    for (int j = 0; j < 2; ++j) {
      Vec scale = Set(Loader::kScale);
      if constexpr (Loader::kHeader > 0) {
        scale = Mul(Load(reinterpret_cast<const float*>(in.panel) + j * 16 + in.pass * kLanes), scale);
      }
      for (int r = 0; r < kRows; ++r) {
        const Vec sum = Load(reinterpret_cast<const float*>(sums) + r * kPanelCols + j * 16 + in.pass * kLanes);
        out->v[r][j] = Loader::kHeader > 0 ? Mul(sum, scale) : sum;
      }
    }
  }
  // A panel of k values to bf16, laid out as BF16Loader reads it.
  static void Unpack(const uint8_t* panel, int64_t k, uint8_t* out) {
    constexpr int kLoads = 2 / Loader::kStep;
    for (int64_t i = 0; i < PaddedK(k); i += 2, out += 128) {
      for (int pass = 0; pass < kPasses; ++pass) {
        Vec w[2][2] = {{Set(0.0f), Set(0.0f)}, {Set(0.0f), Set(0.0f)}};
        for (int load = 0; load < kLoads && i + load < k; ++load) {
          Loader::Read(panel + Loader::kHeader + (i / Loader::kStep + load) * Loader::kBytes, pass, w + load);
        }
        for (int j = 0; j < 2; ++j) StoreBf16Pairs(out + j * 64 + pass * kLanes * 4, w[0][j], w[1][j]);
      }
    }
  }
};

// Memory of this thread for a panel that is unpacked; grows to the largest asked for.
inline uint8_t* UnpackedPanel(size_t bytes) {
  struct Grown {
    ~Grown() { FreePacked(data, size); }
    uint8_t* data = nullptr;
    size_t size = 0;
  };
  static thread_local Grown grown;
  if (grown.size < bytes) {
    FreePacked(grown.data, grown.size);
    grown.data = AllocatePacked(bytes);
    grown.size = bytes;
  }
  return grown.data;
}

template <class Format, Epilogue kEpilogue>
class TileRun {
 public:
  TileRun(const PackedMatrix& matrix, const RunArgs& args)
      : matrix_(matrix), args_(args), panel_bytes_(matrix.panel_bytes()),
        steps_(PaddedK(matrix.k) * Format::kRowBytes / static_cast<int64_t>(kStepBytes)),
        has_tail_(PaddedK(matrix.k) * Format::kRowBytes % static_cast<int64_t>(kStepBytes) != 0) {
    if constexpr (Format::kIsUnpacked) unpacked_ = UnpackedPanel(static_cast<size_t>(steps_) * kPanelStepBytes);
  }

  void Run() {
    const int64_t rows = args_.last_row - args_.first_row;
    const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
    const int64_t panels = static_cast<int64_t>(kPanelGroupTiles / panel_bytes_);
    const int64_t group = Format::kIsUnpacked ? 1 : std::max<int64_t>(1, panels);
    for (int64_t panel = args_.first_panel; panel < args_.last_panel; panel += group) {
      const int64_t last = std::min(panel + group, args_.last_panel);
      PlanAhead(panel, last, blocks);
      if constexpr (Format::kIsUnpacked) Format::Unpack(PanelAt(panel), matrix_.k, unpacked_);
      for (int64_t b = 0; b < blocks; ++b) {  // of equal height, give or take one row
        const int64_t row = args_.first_row + rows * b / blocks;
        const int height = static_cast<int>(args_.first_row + rows * (b + 1) / blocks - row);
        Configure(height);
        if (has_tail_) CopyRowTail(row, height);
        for (int64_t p = panel; p < last; ++p) {
          next_ = after_ == nullptr ? PanelAt(p) + kPrefetchBytes
                                    : after_ + static_cast<size_t>((p - panel) * blocks + b) * share_;
          Block(row, height, p);
        }
      }
    }
    Drain(pending_.num_rows);
    TileRelease();
  }

 private:
  const uint8_t* PanelAt(int64_t panel) const { return matrix_.data + static_cast<size_t>(panel) * panel_bytes_; }
  const uint8_t* RowAt(int64_t row) const {
    return static_cast<const uint8_t*>(args_.rows) + static_cast<size_t>(row) * args_.row_bytes;
  }

  // What each block asks for meanwhile: one block of rows looks ahead in its own stream, several share out the panels
  // after.
  void PlanAhead(int64_t panel, int64_t last, int64_t blocks) {
    after_ = nullptr;
    lines_ = static_cast<int>(kPanelStepBytes / 64);
    if (blocks == 1) return;
    std::span<const uint8_t> after = args_.after;
    if (last < args_.last_panel) {
      const int64_t end = std::min(last + (last - panel), args_.last_panel);
      after = std::span(PanelAt(last), static_cast<size_t>(end - last) * panel_bytes_);
    }
    after_ = after.data();
    share_ = after.size() / static_cast<size_t>((last - panel) * blocks) / 64 * 64;
    const size_t steps = static_cast<size_t>(std::max<int64_t>(steps_, 1));
    lines_ = static_cast<int>((share_ / 64 + steps - 1) / steps);
  }

  void Configure(int height) {
    if (height == height_) return;
    height_ = height;
    const int upper = height > kTileMaxRows ? (height + 1) / 2 : height, lower = height - upper;
    upper_ = upper;
    TileConfig config;
    for (int j = 0; j < 2; ++j) {
      config.Set(j, upper, kTileRowBytes);
      config.Set(2 + j, lower > 0 ? lower : 1, kTileRowBytes);
      config.Set(6 + j, kTileMaxRows, kTileRowBytes);
    }
    config.Set(4, upper, kTileRowBytes);
    config.Set(5, lower > 0 ? lower : 1, kTileRowBytes);
    TileConfigure(config);
  }

  // Half a step of k: the rest of each row and of the panel become 0.
  void CopyRowTail(int64_t row, int height) {
    for (int r = 0; r < height; ++r) {
      const uint8_t* from = RowAt(row + r) + Format::kRowHeader + static_cast<size_t>(steps_) * kStepBytes;
      std::memset(row_tail_ + r * kStepBytes, 0, kStepBytes);
      std::memcpy(row_tail_ + r * kStepBytes, from, kStepBytes / 2);
    }
  }

  void Block(int64_t row, int height, int64_t panel) {
    const uint8_t* x = RowAt(row) + Format::kRowHeader;
    const uint8_t* w = Format::kIsUnpacked ? unpacked_ : PanelAt(panel) + Format::kPanelHeader;
    int32_t* sums = sums_[which_];
    which_ ^= 1;
    if (height > kTileMaxRows) {
      Products<2>(x, w, sums);
    } else {
      Products<1>(x, w, sums);
    }
    Drain(pending_.num_rows);
    pending_ = {row, panel, height, 0, sums};
  }

  template <int kHeight>
  void Products(const uint8_t* x, const uint8_t* w, int32_t* sums) {
    const size_t stride = args_.row_bytes;
    TileZero<0>();
    TileZero<1>();
    if constexpr (kHeight == 2) {
      TileZero<2>();
      TileZero<3>();
    }
    Load<kHeight>(x, stride, w);
    for (int64_t step = 0; step < steps_; ++step) {
      x += kStepBytes;
      w += kPanelStepBytes;
      Dots<kHeight>();
      if (step + 1 < steps_) Load<kHeight>(x, stride, w);
      for (int i = 0; i < lines_; ++i, next_ += 64) PrefetchL2(next_);
      Drain((static_cast<int>(step) + 1) * pending_.num_rows / static_cast<int>(steps_));
    }
    if (has_tail_) {
      std::memcpy(panel_tail_, w, kPanelStepBytes / 2);
      Load<kHeight>(row_tail_, kStepBytes, panel_tail_);
      Dots<kHeight>();
    }
    TileStore<0>(sums, kPanelCols * 4);
    TileStore<1>(sums + 16, kPanelCols * 4);
    if constexpr (kHeight == 2) {
      TileStore<2>(sums + upper_ * kPanelCols, kPanelCols * 4);
      TileStore<3>(sums + upper_ * kPanelCols + 16, kPanelCols * 4);
    }
  }

  template <int kHeight>
  void Load(const uint8_t* x, size_t stride, const uint8_t* w) {
    TileLoad<6>(w, 128);
    TileLoad<4>(x, stride);
    TileLoad<7>(w + 64, 128);
    if constexpr (kHeight == 2) TileLoad<5>(x + static_cast<size_t>(upper_) * stride, stride);
  }

  template <int kHeight>
  void Dots() {
    Format::template Dot<0, 4, 6>();
    Format::template Dot<1, 4, 7>();
    if constexpr (kHeight == 2) {
      Format::template Dot<2, 5, 6>();
      Format::template Dot<3, 5, 7>();
    }
  }

  // Outputs of the pending block, at least its first `count` rows.
  void Drain(int count) {
    while (pending_.num_done < count) {
      const int left = pending_.num_rows - pending_.num_done;
      if (left >= kPieceRows) {
        Outputs<kPieceRows>();
      } else {
        Outputs<1>();
      }
    }
  }

  template <int kRows>
  void Outputs() {
    const int64_t row = pending_.row + pending_.num_done;
    for (int pass = 0; pass < kPasses; ++pass) {
      const TileInput in = {PanelAt(pending_.panel), RowAt(row), args_.row_bytes, matrix_.k, pass, nullptr, 0};
      Tile<kRows> tile;
      Format::template Outputs<kRows>(in, pending_.sums + pending_.num_done * kPanelCols, &tile);
      Finish<kRows>(matrix_, args_, kEpilogue, row, pending_.panel, pass, &tile);
    }
    pending_.num_done += kRows;
  }

  const PackedMatrix& matrix_;
  const RunArgs& args_;
  const size_t panel_bytes_;
  const int64_t steps_;
  const bool has_tail_;
  int height_ = 0, upper_ = 0, which_ = 0, lines_ = 0;
  const uint8_t* after_ = nullptr;
  const uint8_t* next_ = nullptr;
  size_t share_ = 0;
  uint8_t* unpacked_ = nullptr;
  PendingBlock pending_;
  alignas(64) int32_t sums_[2][kBlockRows * kPanelCols];
  alignas(64) uint8_t row_tail_[kBlockRows * kStepBytes];
  alignas(64) uint8_t panel_tail_[kPanelStepBytes] = {};
};

template <class Format>
void RunTiles(const PackedMatrix& matrix, const RunArgs& args) {
  if (args.first_row >= args.last_row || args.first_panel >= args.last_panel) return;
  switch (args.epilogue) {
    case Epilogue::kStore: return TileRun<Format, Epilogue::kStore>(matrix, args).Run();
    case Epilogue::kAdd: return TileRun<Format, Epilogue::kAdd>(matrix, args).Run();
    case Epilogue::kGelu: return TileRun<Format, Epilogue::kGelu>(matrix, args).Run();
    case Epilogue::kGeluTanh: return TileRun<Format, Epilogue::kGeluTanh>(matrix, args).Run();
    case Epilogue::kGluSilu: return TileRun<Format, Epilogue::kGluSilu>(matrix, args).Run();
    case Epilogue::kGluGelu: return TileRun<Format, Epilogue::kGluGelu>(matrix, args).Run();
    case Epilogue::kGluGeluTanh: return TileRun<Format, Epilogue::kGluGeluTanh>(matrix, args).Run();
  }
}

inline constexpr int64_t kMinInt8Rows = 8;  // fewer are faster without tiles, at the same bits

void RunInt8Tiles(const PackedMatrix& matrix, const RunArgs& args) {
  if (args.last_row - args.first_row < kMinInt8Rows) return RunFormat<Int8Kernel>(matrix, args);
  RunTiles<Int8Tiles>(matrix, args);
}

void PrepareBf16(const float* x, int64_t x_stride, int64_t rows, int64_t k, void* out) {
  const size_t row_bytes = PreparedRowBytes(RowFormat::kBF16, k);
  for (int64_t r = 0; r < rows; ++r, x += x_stride) {
    uint8_t* row = static_cast<uint8_t*>(out) + static_cast<size_t>(r) * row_bytes;
    for (int64_t i = 0; i < PaddedK(k); i += kLanes) StoreBf16(row + 2 * i, LoadPart(x + i, k - i));
  }
}

}  // namespace
}  // namespace tripos::linear
