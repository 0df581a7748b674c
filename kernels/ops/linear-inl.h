// The text of the linear kernels, compiled once per instruction set. Needs simd-inl.h and math-inl.h.
//
// Outputs are the lanes: a tile is kRows rows x (lo, hi) vectors, where lo covers columns
// [h*kLanes, +kLanes) of a panel's first sixteen and hi the same of its second sixteen; narrower vectors take several
// passes h. Interleaved matrices hold gate in the first sixteen and up in the second, so lo and hi meet in one tile.
//
// Each output has one accumulator chain over k in every tile shape, so its bits do not depend on the tile.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/ops/linear_layout.h"

namespace tripos::linear {
namespace {

// The tallest tiles. Of 16 lanes, 12 rows x 2 vectors are 24 accumulators, which fit the 32 registers beside two vectors
// of weights and a broadcast: 14 loads feed 24 multiply-adds. Zen 4 does one 512-bit vpdpbusd and one 64-byte load per
// cycle.
constexpr int kMaxRowsFloat = ByLanes(12, 6, 2);
constexpr int kMaxRowsInt8 = ByLanes(12, 4, 2);
constexpr int kMaxRowsGroup = ByLanes(6, 3, 2);  // int32 and float accumulators side by side
constexpr int kPasses = 16 / kLanes;

template <int kRows>
struct Tile {
  Vec v[kRows][2];
};

// What a tile reads.
struct TileInput {
  const uint8_t* panel;
  const uint8_t* rows;  // first row
  size_t row_bytes;
  int64_t k;
  int pass;
  // What to prefetch: for each 128 bytes read of a panel, the lines at `next`, which then moves on by next_step. One
  // row tile looks a little ahead in its own stream; of several, each fetches its share of what is read after these.
  const uint8_t* next;
  size_t next_step;
};

// Short tiles consume as fast as memory gives: straight to L1. Tall ones leave L1 to the activations.
template <bool kIsTall>
inline void PrefetchLines(const uint8_t* p) {
  if constexpr (kIsTall) {
    PrefetchL2(p);
    PrefetchL2(p + 64);
  } else {
    Prefetch(p);
    Prefetch(p + 64);
  }
}

// -- Float formats -----------------------------------------------------------------------------------------------

struct F32Loader {
  static constexpr int kStep = 1;  // k per Load
  static constexpr int kBytes = 128;
  static constexpr int kHeader = 0;
  static constexpr float kScale = 1.0f;
  static void Read(const uint8_t* p, int pass, Vec (*w)[2]) {
    const float* f = reinterpret_cast<const float*>(p) + pass * kLanes;
    w[0][0] = Load(f);
    w[0][1] = Load(f + 16);
  }
};

struct BF16Loader {
  static constexpr int kStep = 2;
  static constexpr int kBytes = 128;
  static constexpr int kHeader = 0;
  static constexpr float kScale = 1.0f;
  static void Read(const uint8_t* p, int pass, Vec (*w)[2]) {
    const uint8_t* words = p + pass * kLanes * 4;
    LoadBf16Pair(words, &w[0][0], &w[1][0]);
    LoadBf16Pair(words + 64, &w[0][1], &w[1][1]);
  }
};

struct F16Loader {
  static constexpr int kStep = 1;
  static constexpr int kBytes = 64;
  static constexpr int kHeader = 0;
  static constexpr float kScale = 1.0f;
  static void Read(const uint8_t* p, int pass, Vec (*w)[2]) {
    const uint16_t* f = reinterpret_cast<const uint16_t*>(p) + pass * kLanes;
    w[0][0] = LoadHalf(f);
    w[0][1] = LoadHalf(f + 16);
  }
};

// e4m3 moved into the bits of a half is the value / 256, subnormals included; the scale undoes it.
struct Fp8Loader {
  static constexpr int kStep = 2;
  static constexpr int kBytes = 64;
  static constexpr int kHeader = kPanelCols * 4;
  static constexpr float kScale = 256.0f;
  static void Read(const uint8_t* p, int pass, Vec (*w)[2]) {
    const uint8_t* q = p + pass * kLanes * 2;
    LoadFp8Pair(q, &w[0][0], &w[1][0]);
    LoadFp8Pair(q + 32, &w[0][1], &w[1][1]);
  }
};

template <class Loader>
struct FloatKernel {
  static constexpr int kMaxRows = kMaxRowsFloat;

  template <int kRows>
  static inline void Compute(const TileInput& in, Tile<kRows>* out) {
    constexpr int kStep = Loader::kStep;
    Vec acc[kRows][2];
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = Set(0.0f);
    const uint8_t* w = in.panel + Loader::kHeader;
    const uint8_t* next = in.next;
    const size_t next_step = Loader::kBytes == 128 ? in.next_step : (in.next_step + 1) / 2;
    // Rows r, r + 1 and r + 2 from one pointer and two strides: a pointer or an offset per row would not fit the registers.
    const size_t stride = in.row_bytes, twice = 2 * in.row_bytes;
    const uint8_t* x[(kRows + 2) / 3];
    for (int r = 0; r < kRows; r += 3) x[r / 3] = in.rows + r * stride;
    int64_t k = 0;
    for (; k + kStep <= in.k; k += kStep, w += Loader::kBytes, next += next_step) {
      Vec b[kStep][2];
      PrefetchLines<(2 * kRows >= kMaxRows)>(next);
      Loader::Read(w, in.pass, b);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* row = x[r / 3] + (r % 3 == 0 ? 0 : r % 3 == 1 ? stride : twice);
#pragma GCC unroll 2
        for (int s = 0; s < kStep; ++s) {
          const Vec a = Set(reinterpret_cast<const float*>(row)[k + s]);
          acc[r][0] = Fma(a, b[s][0], acc[r][0]);
          acc[r][1] = Fma(a, b[s][1], acc[r][1]);
        }
      }
    }
    if (kStep == 2 && k < in.k) {  // odd k
      Vec b[kStep][2];
      Loader::Read(w, in.pass, b);
      for (int r = 0; r < kRows; ++r) {
        const Vec a = Set(reinterpret_cast<const float*>(in.rows + r * in.row_bytes)[k]);
        acc[r][0] = Fma(a, b[0][0], acc[r][0]);
        acc[r][1] = Fma(a, b[0][1], acc[r][1]);
      }
    }
    if constexpr (Loader::kHeader > 0) {
      const float* scales = reinterpret_cast<const float*>(in.panel) + in.pass * kLanes;
      const Vec lo = Mul(Load(scales), Set(Loader::kScale));
      const Vec hi = Mul(Load(scales + 16), Set(Loader::kScale));
      for (int r = 0; r < kRows; ++r) {
        out->v[r][0] = Mul(acc[r][0], lo);
        out->v[r][1] = Mul(acc[r][1], hi);
      }
    } else {
      for (int r = 0; r < kRows; ++r) {
        out->v[r][0] = acc[r][0];
        out->v[r][1] = acc[r][1];
      }
    }
  }
};

// -- int8, one scale per output ----------------------------------------------------------------------------------

// Weights are stored as w + 128 (unsigned): sum((w + 128) a) - 128 sum(a) = sum(w a), exact modulo 2^32.
struct Int8Kernel {
  static constexpr int kMaxRows = kMaxRowsInt8;

  template <int kRows>
  static inline void Compute(const TileInput& in, Tile<kRows>* out) {
    Ints acc[kRows][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = SetInts(0);
    const uint8_t* w = in.panel + kPanelCols * 4 + in.pass * kLanes * 4;
    const uint8_t* a = in.rows + kRowHeaderBytes;
    const uint8_t* next = in.next;
    const int64_t quads = PaddedK(in.k) / 4;
    for (int64_t q = 0; q < quads; ++q, w += 128, a += 4, next += in.next_step) {
      Ints b[2];
      PrefetchLines<(2 * kRows >= kMaxRows)>(next);
      b[0] = LoadInts(w);
      b[1] = LoadInts(w + 64);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Quad x = SetQuad(a + r * in.row_bytes);
        acc[r][0] = Dot(acc[r][0], b[0], x);
        acc[r][1] = Dot(acc[r][1], b[1], x);
      }
    }
    Scale<kRows>(in, acc, out);
  }

  // Outputs from the products of the rows with w + 128.
  template <int kRows>
  static inline void Scale(const TileInput& in, const Ints (*sums)[2], Tile<kRows>* out) {
    const float* scales = reinterpret_cast<const float*>(in.panel) + in.pass * kLanes;
    const Vec lo = Load(scales);
    const Vec hi = Load(scales + 16);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const RowHeader* header = reinterpret_cast<const RowHeader*>(in.rows + r * in.row_bytes);
      const Ints offset = SetInts(static_cast<int32_t>(128u * static_cast<uint32_t>(header->sum)));
      const Vec scale = Set(header->scale);
      out->v[r][0] = Mul(Mul(ToFloats(Sub(sums[r][0], offset)), lo), scale);
      out->v[r][1] = Mul(Mul(ToFloats(Sub(sums[r][1], offset)), hi), scale);
    }
  }
};

// -- Grouped formats ---------------------------------------------------------------------------------------------

// Per group of 32 k: an exact int32 dot product, then float adds in group order.
struct Int4Kernel {
  static constexpr int kMaxRows = kMaxRowsGroup;

  template <int kRows>
  static inline void Compute(const TileInput& in, Tile<kRows>* out) {
    Vec acc[kRows][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = Set(0.0f);
    const int64_t groups = PaddedK(in.k) / kGroup;
    const size_t sums = GroupSumOffset(in.k);
    const uint8_t* next = in.next;
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* w = in.panel + g * kInt4GroupBytes;
      const uint8_t* a = in.rows + kRowHeaderBytes + g * kGroup;
      Ints dot[kRows][2];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) dot[r][0] = dot[r][1] = SetInts(0);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c, next += in.next_step) {
        Ints low[2], high[2];
        const uint8_t* wp = w + 128 + c * 128 + in.pass * kLanes * 4;
        PrefetchLines<(2 * kRows >= kMaxRows)>(next);
        LoadNibbles(wp, &low[0], &high[0]);
        LoadNibbles(wp + 64, &low[1], &high[1]);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Ints x0 = SetInts(LoadQuad(a + r * in.row_bytes + c * 8));
          const Ints x1 = SetInts(LoadQuad(a + r * in.row_bytes + c * 8 + 4));
          dot[r][0] = DotSmall(dot[r][0], low[0], x0);
          dot[r][1] = DotSmall(dot[r][1], low[1], x0);
          dot[r][0] = DotSmall(dot[r][0], high[0], x1);
          dot[r][1] = DotSmall(dot[r][1], high[1], x1);
        }
      }
      const uint16_t* half = reinterpret_cast<const uint16_t*>(w) + in.pass * kLanes;
      const Vec scale[2] = {LoadHalf(half), LoadHalf(half + 16)};
      const Vec minimum[2] = {LoadHalf(half + 32), LoadHalf(half + 48)};
      PrefetchLines<(2 * kRows >= kMaxRows)>(next);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec sum = Set(reinterpret_cast<const float*>(in.rows + r * in.row_bytes + sums)[g]);
        for (int j = 0; j < 2; ++j) {
          acc[r][j] = Fma(ToFloats(dot[r][j]), scale[j], acc[r][j]);
          acc[r][j] = Fma(sum, minimum[j], acc[r][j]);
        }
      }
      next += in.next_step;
    }
    ScaleRows<kRows>(in, acc, out);
  }

  template <int kRows>
  static inline void ScaleRows(const TileInput& in, Vec (*acc)[2], Tile<kRows>* out) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec scale = Set(reinterpret_cast<const RowHeader*>(in.rows + r * in.row_bytes)->scale);
      out->v[r][0] = Mul(acc[r][0], scale);
      out->v[r][1] = Mul(acc[r][1], scale);
    }
  }
};

struct Int8GroupKernel {
  static constexpr int kMaxRows = kMaxRowsGroup;

  template <int kRows>
  static inline void Compute(const TileInput& in, Tile<kRows>* out) {
    Vec acc[kRows][2];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = Set(0.0f);
    const int64_t groups = PaddedK(in.k) / kGroup;
    const size_t sums = GroupSumOffset(in.k);
    const uint8_t* next = in.next;
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* w = in.panel + g * kInt8GroupBytes;
      const uint8_t* a = in.rows + kRowHeaderBytes + g * kGroup;
      Ints dot[kRows][2];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const float sum = reinterpret_cast<const float*>(in.rows + r * in.row_bytes + sums)[g];
        const Ints offset = SetInts(-128 * static_cast<int32_t>(sum));
        dot[r][0] = dot[r][1] = offset;
      }
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c, next += in.next_step) {
        Ints b[2];
        const uint8_t* wp = w + 64 + c * 128 + in.pass * kLanes * 4;
        PrefetchLines<(2 * kRows >= kMaxRows)>(next);
        b[0] = LoadInts(wp);
        b[1] = LoadInts(wp + 64);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Quad x = SetQuad(a + r * in.row_bytes + c * 4);
          dot[r][0] = Dot(dot[r][0], b[0], x);
          dot[r][1] = Dot(dot[r][1], b[1], x);
        }
      }
      const uint16_t* half = reinterpret_cast<const uint16_t*>(w) + in.pass * kLanes;
      const Vec scale[2] = {LoadHalf(half), LoadHalf(half + 16)};
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        for (int j = 0; j < 2; ++j)
          acc[r][j] = Fma(ToFloats(dot[r][j]), scale[j], acc[r][j]);
    }
    Int4Kernel::ScaleRows<kRows>(in, acc, out);
  }
};

// -- Epilogue ----------------------------------------------------------------------------------------------------

inline Vec Activate(Epilogue epilogue, Vec x) {
  switch (epilogue) {
    case Epilogue::kGelu:
    case Epilogue::kGluGelu: return Gelu(x);
    case Epilogue::kGeluTanh:
    case Epilogue::kGluGeluTanh: return GeluTanh(x);
    default: return Silu(x);
  }
}

template <int kRows>
inline void AddAddends(const RunArgs& args, int64_t row, int64_t panel, int pass, Tile<kRows>* tile) {
  const int64_t stride = (args.last_panel - args.first_panel) * kPanelCols;
  for (int r = 0; r < kRows; ++r) {
    if (args.has_addend[row + r] == 0) continue;
    const float* addend = args.addend + (row + r - args.first_row) * stride + (panel - args.first_panel) * kPanelCols;
    for (int j = 0; j < 2; ++j) {
      tile->v[r][j] = Add(tile->v[r][j], Load(addend + j * 16 + pass * kLanes));
    }
  }
}

// `epilogue`: that of the arguments, a constant where the caller has one for each.
template <int kRows>
[[gnu::always_inline]] inline void Finish(const PackedMatrix& matrix, const RunArgs& args, Epilogue epilogue,
                                          int64_t row, int64_t panel, int pass, Tile<kRows>* tile) {
  const bool is_glu = epilogue >= Epilogue::kGluSilu;
  const int64_t half_n = matrix.n / 2;
  int64_t column[2], count[2];  // of lo and hi, in the order of the parts
  for (int j = 0; j < 2; ++j) {
    if (matrix.is_interleaved) {
      const int64_t first = panel * 16 + pass * kLanes;
      column[j] = j * half_n + first;
      count[j] = half_n - first;
    } else {
      column[j] = panel * kPanelCols + j * 16 + pass * kLanes;
      count[j] = matrix.n - column[j];
    }
    if (args.bias != nullptr && count[j] > 0) {
      const Vec bias = LoadPart(args.bias + column[j], count[j]);
      for (int r = 0; r < kRows; ++r) tile->v[r][j] = Add(tile->v[r][j], bias);
    }
  }
  if (args.addend != nullptr) AddAddends<kRows>(args, row, panel, pass, tile);
  for (int r = 0; r < kRows; ++r) {
    float* y = args.y + (row + r) * args.y_stride;
    Vec* v = tile->v[r];
    if (is_glu) {
      if (count[0] > 0) StorePart(y + column[0], Mul(Activate(epilogue, v[0]), v[1]), count[0]);
      continue;
    }
    for (int j = 0; j < 2; ++j) {
      if (count[j] <= 0) continue;
      float* out = y + column[j];
      if (epilogue == Epilogue::kAdd) v[j] = Add(LoadPart(out, count[j]), v[j]);
      if (epilogue >= Epilogue::kGelu) v[j] = Activate(epilogue, v[j]);
      StorePart(out, v[j], count[j]);
    }
  }
}

// -- Driver ------------------------------------------------------------------------------------------------------

template <class Kernel, int kRows>
void RunTile(const PackedMatrix& matrix, const RunArgs& args, int64_t row, int64_t panel, const uint8_t* next,
             size_t next_step) {
  for (int pass = 0; pass < kPasses; ++pass) {
    const TileInput in = {matrix.data + panel * matrix.panel_bytes(),
                          static_cast<const uint8_t*>(args.rows) + row * args.row_bytes,
                          args.row_bytes,
                          matrix.k,
                          pass,
                          next,
                          next_step};
    Tile<kRows> tile;
    Kernel::template Compute<kRows>(in, &tile);
    Finish<kRows>(matrix, args, args.epilogue, row, panel, pass, &tile);
  }
}

using TileFunction = void (*)(const PackedMatrix&, const RunArgs&, int64_t, int64_t, const uint8_t*, size_t);

// The function that computes `rows` rows of one panel.
template <class Kernel, int... kIndex>
TileFunction TileOfRows(int64_t rows, std::integer_sequence<int, kIndex...>) {
  static constexpr TileFunction kTiles[] = {RunTile<Kernel, kIndex + 1>...};
  return kTiles[rows - 1];
}

template <class Kernel>
void RunFormat(const PackedMatrix& matrix, const RunArgs& args) {
  const int64_t rows = args.last_row - args.first_row;
  if (rows <= 0) return;
  const size_t panel_bytes = matrix.panel_bytes();
  // A group of panels stays in L2 while all rows pass over it, and what is read next is on its way meanwhile. Rows on the
  // outside: a tile of rows stays in L1, and its outputs are written side by side.
  const int64_t tiles = (rows + Kernel::kMaxRows - 1) / Kernel::kMaxRows;
  const int64_t group = std::max<int64_t>(1, static_cast<int64_t>(kPanelGroupBytes / panel_bytes));
  const auto at = [&](int64_t panel) { return matrix.data + static_cast<size_t>(panel) * panel_bytes; };
  for (int64_t panel = args.first_panel; panel < args.last_panel; panel += group) {
    const int64_t last = std::min(panel + group, args.last_panel);
    const std::span<const uint8_t> after =
        last < args.last_panel ? std::span(at(last), at(std::min(last + group, args.last_panel))) : args.after;
    const size_t each = after.size() / static_cast<size_t>(last - panel);  // beside each panel
    const size_t step = (each * 128 / panel_bytes + tiles - 1) / tiles;
    for (int64_t t = 0; t < tiles; ++t) {  // of equal height, give or take one row
      const int64_t row = args.first_row + rows * t / tiles;
      const int64_t next_row = args.first_row + rows * (t + 1) / tiles;
      const TileFunction tile =
          TileOfRows<Kernel>(next_row - row, std::make_integer_sequence<int, Kernel::kMaxRows>());
      for (int64_t p = panel; p < last; ++p) {
        if (tiles == 1 || after.empty()) {
          tile(matrix, args, row, p, at(p) + kPrefetchBytes, 128);
        } else {
          tile(matrix, args, row, p, after.data() + static_cast<size_t>(p - panel) * each + each / tiles * t, step);
        }
      }
    }
  }
}

// -- Activations -------------------------------------------------------------------------------------------------

// Symmetric per row: scale = absmax / 127. NaN and infinity end up in the scale and so in every output of the row.
inline void PrepareRow(const float* x, int64_t k, uint8_t* out) {
  Ints largest = SetInts(0);  // of the bits of |x|: ordered like the values, NaN on top
  const int64_t whole = k / kLanes * kLanes;  // what whole vectors hold
  for (int64_t i = 0; i < whole; i += kLanes) largest = Max(largest, BitsOf(Abs(Load(x + i))));
  if (whole < k) largest = Max(largest, BitsOf(Abs(LoadPart(x + whole, k - whole))));
  const int32_t bits = MaxLanes(largest);
  float absmax;
  std::memcpy(&absmax, &bits, 4);

  const bool is_zero = absmax < 1e-30f;  // below, 127 / absmax may overflow
  const Vec inverse = Set(is_zero ? 0.0f : 127.0f / absmax);
  int8_t* values = reinterpret_cast<int8_t*>(out + kRowHeaderBytes);
  const auto quantize = [&](int64_t i, Vec v) { StoreInt8(values + i, Mul(v, inverse)); };
  for (int64_t i = 0; i < whole; i += kLanes) quantize(i, Load(x + i));
  for (int64_t i = whole; i < PaddedK(k); i += kLanes) quantize(i, LoadPart(x + i, k - i));
  float* sums = reinterpret_cast<float*>(out + GroupSumOffset(k));
  int32_t total = 0;
  for (int64_t g = 0; g * kGroup < k; ++g) {
    const int32_t sum = Sum32(values + g * kGroup);
    sums[g] = static_cast<float>(sum);
    total += sum;
  }
  RowHeader* header = reinterpret_cast<RowHeader*>(out);
  header->scale = is_zero ? 0.0f : absmax / 127.0f;
  header->sum = total;
}

inline void PrepareInt8(const float* x, int64_t x_stride, int64_t rows, int64_t k, void* out) {
  const size_t row_bytes = PreparedRowBytes(RowFormat::kInt8, k);
  for (int64_t r = 0; r < rows; ++r) PrepareRow(x + r * x_stride, k, static_cast<uint8_t*>(out) + r * row_bytes);
}

}  // namespace
}  // namespace tripos::linear
