// Checks and times the linear kernels without the rest of the engine.
//
//   linear_benchmark test [isa]                        every format against a plain loop, and bit-equal in any split
//   linear_benchmark bench [isa] [format] [threads]    GB/s and GOP/s beside the machine's measured peaks
//
// Exit status 1 when a check fails. Built by the CMake target `linear_benchmark`.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "kernels/isa/kernels.h"
#include "kernels/ops/linear.h"
#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"
#include "kernels/util/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace tripos::linear;  // NOLINT: a program about this one namespace
using tripos::ChosenKernels;
namespace quant = tripos::quant;

struct Format {
  const char* name;
  WeightFormat format;
};
constexpr Format kFormats[] = {
    {"f32", WeightFormat::kF32},   {"bf16", WeightFormat::kBF16}, {"f16", WeightFormat::kF16},
    {"int8", WeightFormat::kInt8}, {"int4", WeightFormat::kInt4}, {"fp8", WeightFormat::kFp8},
    {"int8g", WeightFormat::kInt8Group},
};

// Memory that frees itself.
class Bytes {
 public:
  explicit Bytes(size_t size) : size_(size), data_(AllocatePacked(size)) {
    if (data_ == nullptr) std::abort();
  }
  ~Bytes() { FreePacked(data_, size_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;
  uint8_t* data() { return data_; }

 private:
  size_t size_;
  uint8_t* data_;
};

std::vector<float> Random(size_t count, unsigned seed, float scale) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(generator);
  return values;
}

// -- Test --------------------------------------------------------------------------------------------------------

// What the format makes of the weights, [n, k].
std::vector<double> Effective(WeightFormat format, const std::vector<float>& w, int64_t n, int64_t k) {
  std::vector<double> out(w.size());
  for (int64_t row = 0; row < n; ++row) {
    const float* x = w.data() + row * k;
    double* y = out.data() + row * k;
    const auto groups = [&](auto each) {
      for (int64_t g = 0; g < k; g += kGroup) {
        float values[kGroup] = {};
        std::copy(x + g, x + std::min(k, g + kGroup), values);
        each(values, y + g, std::min(kGroup, k - g));
      }
    };
    switch (format) {
      case WeightFormat::kF32: std::copy_n(x, k, y); break;
      case WeightFormat::kBF16:
        for (int64_t i = 0; i < k; ++i) y[i] = quant::FromBF16(quant::ToBF16(x[i]));
        break;
      case WeightFormat::kF16:
        for (int64_t i = 0; i < k; ++i) y[i] = quant::FromF16(quant::ToF16(x[i]));
        break;
      case WeightFormat::kInt8: {
        std::vector<int8_t> q(static_cast<size_t>(k));
        const float scale = quant::QuantizeInt8(x, k, q.data());
        for (int64_t i = 0; i < k; ++i) y[i] = double{scale} * q[static_cast<size_t>(i)];
        break;
      }
      case WeightFormat::kFp8: {
        std::vector<uint8_t> q(static_cast<size_t>(k));
        const float scale = quant::QuantizeFp8(x, k, q.data());
        for (int64_t i = 0; i < k; ++i) y[i] = double{scale} * quant::FromFp8(q[static_cast<size_t>(i)]);
        break;
      }
      case WeightFormat::kInt4:
        groups([](const float* in, double* o, int64_t count) {
          quant::Int4Group group;
          quant::QuantizeInt4(in, 1, &group);
          for (int64_t i = 0; i < count; ++i)
            o[i] = double{quant::FromF16(group.scale)} * group.q[i] + quant::FromF16(group.minimum);
        });
        break;
      case WeightFormat::kInt8Group:
        groups([](const float* in, double* o, int64_t count) {
          quant::Int8Group group;
          quant::QuantizeInt8Groups(in, 1, &group);
          for (int64_t i = 0; i < count; ++i) o[i] = double{quant::FromF16(group.scale)} * group.q[i];
        });
        break;
    }
  }
  return out;
}

struct Problem {
  PackedMatrix matrix;
  std::vector<float> x, w, bias;
  int64_t m;
};

double Activated(Epilogue epilogue, double x) {
  if (epilogue == Epilogue::kGluSilu) return x / (1.0 + std::exp(-x));
  if (epilogue == Epilogue::kGelu || epilogue == Epilogue::kGluGelu) return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
  return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
}

// The five-line loop, in double, with what one output may be off by.
void Reference(const Problem& p, bool is_integer, std::vector<double>* y, std::vector<double>* bound) {
  const std::vector<double> w = Effective(p.matrix.format, p.w, p.matrix.n, p.matrix.k);
  const int64_t n = p.matrix.n, k = p.matrix.k;
  y->assign(static_cast<size_t>(p.m * n), 0.0);
  bound->assign(static_cast<size_t>(p.m * n), 0.0);
  for (int64_t r = 0; r < p.m; ++r) {
    std::vector<double> x(p.x.begin() + r * k, p.x.begin() + (r + 1) * k);
    if (is_integer) {
      float absmax = 0.0f;
      for (const double v : x) absmax = std::max(absmax, static_cast<float>(std::fabs(v)));
      const float inverse = absmax > 0.0f ? 127.0f / absmax : 0.0f;
      for (double& v : x) v = std::nearbyint(static_cast<float>(v) * inverse) * double{absmax / 127.0f};
    }
    for (int64_t c = 0; c < n; ++c) {
      double sum = 0.0, size = 0.0;
      for (int64_t i = 0; i < k; ++i) sum += x[i] * w[c * k + i], size += std::fabs(x[i] * w[c * k + i]);
      (*y)[r * n + c] = sum + p.bias[c];
      (*bound)[r * n + c] = 1e-6 * (size * 4.0 + std::fabs(p.bias[c])) + 1e-30;
    }
  }
}

int failures = 0;

void Expect(bool ok, const std::string& what) {
  if (ok) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
}

struct Rows {
  std::vector<uint8_t> bytes;
  const void* data;
  size_t row_bytes;
};

void MakeRows(const ChosenKernels& kernels, const Problem& p, Rows* rows) {
  const RowFormat format = kernels.LinearOf(p.matrix.format).row_format();
  rows->row_bytes = PreparedRowBytes(format, p.matrix.k);
  rows->data = p.x.data();
  if (rows->row_bytes == 0) {
    rows->row_bytes = static_cast<size_t>(p.matrix.k) * 4;
    return;
  }
  rows->bytes.assign(rows->row_bytes * static_cast<size_t>(p.m), 0xEE);
  kernels.PrepareOf(format)(p.x.data(), p.matrix.k, p.m, p.matrix.k, rows->bytes.data());
  rows->data = rows->bytes.data();
}

RunArgs Whole(const Problem& p, const Rows& rows, std::vector<float>* y, int64_t columns) {
  y->assign(static_cast<size_t>(p.m * columns), -7.0f);
  RunArgs args;
  args.rows = rows.data;
  args.row_bytes = rows.row_bytes;
  args.last_row = p.m;
  args.last_panel = p.matrix.num_panels();
  args.y = y->data();
  args.y_stride = columns;
  args.bias = p.bias.data();
  return args;
}

void TestProblem(const ChosenKernels& kernels, const Format& format, int64_t m, int64_t n, int64_t k, bool interleaved) {
  const std::string what = std::string(kernels.isa) + " " + format.name + " m=" + std::to_string(m) +
                           " n=" + std::to_string(n) + " k=" + std::to_string(k) + (interleaved ? " glu" : "");
  Problem p = {{format.format, interleaved, n, k, nullptr},
               Random(static_cast<size_t>(m * k), 1, 1.0f),
               Random(static_cast<size_t>(n * k), 2, 0.05f),
               Random(static_cast<size_t>(n), 3, 1.0f),
               m};
  Bytes packed(p.matrix.bytes());
  const int64_t first = interleaved ? n / 2 : n / 3;
  const SourceMatrix parts[] = {{SourceType::kF32, p.w.data(), first, k},
                                {SourceType::kF32, p.w.data() + first * k, n - first, k}};
  const int64_t panels = p.matrix.num_panels();
  Expect(Pack(p.matrix, parts, 0, panels / 2, packed.data()), what + ": pack");
  Expect(Pack(p.matrix, parts, panels / 2, panels, packed.data()), what + ": pack");
  p.matrix.data = packed.data();

  Rows rows;
  MakeRows(kernels, p, &rows);
  std::vector<double> expected, bound;
  const RowFormat row_format = kernels.LinearOf(format.format).row_format();
  if (row_format == RowFormat::kBF16) {  // what tiles multiply
    for (float& x : p.x) x = quant::FromBF16(quant::ToBF16(x));
    if (format.format == WeightFormat::kF16) {
      for (float& w : p.w) w = quant::FromBF16(quant::ToBF16(quant::FromF16(quant::ToF16(w))));
    }
  }
  Reference(p, row_format == RowFormat::kInt8, &expected, &bound);
  const int64_t columns = interleaved ? n / 2 : n;

  std::vector<float> y;
  RunArgs args = Whole(p, rows, &y, columns);
  for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kAdd, Epilogue::kGelu, Epilogue::kGeluTanh,
                                  Epilogue::kGluSilu, Epilogue::kGluGelu, Epilogue::kGluGeluTanh}) {
    if ((epilogue >= Epilogue::kGluSilu) != interleaved) continue;
    args = Whole(p, rows, &y, columns);
    args.epilogue = epilogue;
    kernels.LinearOf(p.matrix.format)(p.matrix, args);
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const size_t at = static_cast<size_t>(r * n + c);
        double want = expected[at], slack = bound[at];
        if (epilogue == Epilogue::kAdd) want -= 7.0, slack += 1e-6;
        if (interleaved) {
          const size_t up = at + static_cast<size_t>(columns);
          slack = 2.0 * (bound[at] * std::fabs(expected[up]) + (bound[up] + 1e-6) * (std::fabs(want) + 1.0)) + 1e-6;
          want = Activated(epilogue, want) * expected[up];
        } else if (epilogue >= Epilogue::kGelu) {
          want = Activated(epilogue, want);
          slack = 2.0 * slack + 1e-6;
        }
        const double got = y[static_cast<size_t>(r * columns + c)];
        Expect(std::fabs(got - want) <= slack, what + " epilogue " + std::to_string(static_cast<int>(epilogue)) +
                                                   " [" + std::to_string(r) + "," + std::to_string(c) + "] " +
                                                   std::to_string(got) + " want " + std::to_string(want));
      }
    }
  }

  // Any split of rows and panels gives the same bits, one row at a time above all.
  std::vector<float> split;
  for (const int64_t row_step : {int64_t{1}, int64_t{5}, int64_t{17}}) {
    RunArgs part = Whole(p, rows, &split, columns);
    part.epilogue = args.epilogue = interleaved ? Epilogue::kGluSilu : Epilogue::kStore;
    std::fill(y.begin(), y.end(), -7.0f);
    kernels.LinearOf(p.matrix.format)(p.matrix, args);
    const int64_t panel_step = row_step == 1 ? panels : row_step == 5 ? 3 : 5;
    for (int64_t r = 0; r < m; r += row_step) {
      for (int64_t q = 0; q < panels; q += panel_step) {
        part.first_row = r;
        part.last_row = std::min(m, r + row_step);
        part.first_panel = q;
        part.last_panel = std::min(panels, q + panel_step);
        kernels.LinearOf(p.matrix.format)(p.matrix, part);
      }
    }
    Expect(std::memcmp(y.data(), split.data(), y.size() * 4) == 0, what + ": other bits in rows of " +
                                                                       std::to_string(row_step));
  }
}

// Random blocks of a GGUF type whose halves are small and finite.
std::vector<uint8_t> RandomBlocks(SourceType type, int64_t n, int64_t k) {
  const size_t row_bytes = SourceRowBytes(type, k);
  const size_t block = type == SourceType::kQ8_0 || type == SourceType::kQ4_0 ? row_bytes * 32 / static_cast<size_t>(k)
                                                                              : row_bytes * 256 / static_cast<size_t>(k);
  std::vector<uint8_t> blocks(row_bytes * static_cast<size_t>(n));
  std::mt19937 generator(5);
  for (uint8_t& byte : blocks) byte = static_cast<uint8_t>(generator());
  for (size_t at = 0; at < blocks.size(); at += block) {
    const size_t half = at + (type == SourceType::kQ6_K ? 208 : 0);
    for (size_t i = half; i < half + (type == SourceType::kQ4_K || type == SourceType::kQ5_K ? 4 : 2); i += 2) {
      const uint16_t value = quant::ToF16(1e-3f * static_cast<float>(1 + generator() % 1000));
      std::memcpy(&blocks[i], &value, 2);
    }
  }
  return blocks;
}

// A GGUF matrix packed natively is the dequantized one: to float rounding where the levels map (Q8_0, Q4_0), to half
// rounding of the scales (Q4_K), to half a step of int8 (Q5_K, Q6_K).
void TestSource(const ChosenKernels& kernels, const char* name, SourceType type, double step) {
  constexpr int64_t kM = 5, kN = 70, kK = 512;
  const std::vector<uint8_t> blocks = RandomBlocks(type, kN, kK);
  Problem p = {{NativeFormat(type), false, kN, kK, nullptr}, Random(kM * kK, 1, 1.0f), {}, std::vector<float>(kN), kM};
  p.w.resize(kN * kK);
  for (int64_t row = 0; row < kN; ++row)
    DequantizeRow(type, blocks.data() + static_cast<size_t>(row) * SourceRowBytes(type, kK), kK, &p.w[row * kK]);
  Bytes packed(p.matrix.bytes());
  const SourceMatrix part = {type, blocks.data(), kN, kK};
  Expect(Pack(p.matrix, {&part, 1}, 0, p.matrix.num_panels(), packed.data()), std::string(name) + ": pack");
  p.matrix.data = packed.data();
  Rows rows;
  MakeRows(kernels, p, &rows);
  std::vector<float> y;
  kernels.LinearOf(p.matrix.format)(p.matrix, Whole(p, rows, &y, kN));
  for (int64_t r = 0; r < kM; ++r) {
    const uint8_t* row = rows.bytes.data() + static_cast<size_t>(r) * rows.row_bytes;
    float scale;
    std::memcpy(&scale, row, 4);
    for (int64_t c = 0; c < kN; ++c) {
      double want = 0.0, slack = 1e-6;
      for (int64_t g = 0; g < kK; g += kGroup) {
        double largest = 0.0, size = 0.0;
        for (int64_t i = g; i < g + kGroup; ++i) {
          const double x = static_cast<int8_t>(row[64 + i]) * double{scale};
          want += x * p.w[static_cast<size_t>(c * kK + i)];
          size += std::fabs(x);
          largest = std::max(largest, std::fabs(double{p.w[static_cast<size_t>(c * kK + i)]}));
        }
        slack += size * largest * step;
      }
      Expect(std::fabs(y[static_cast<size_t>(r * kN + c)] - want) <= slack,
             std::string(kernels.isa) + " " + name + ": " + std::to_string(y[static_cast<size_t>(r * kN + c)]) +
                 " want " + std::to_string(want));
    }
  }
}

// The worker that ends last has at most a twelfth more than an even share, on any shape of the benchmark.
void TestSplit();

std::vector<std::string> Names(const std::string& text) {
  std::vector<std::string> names;
  std::istringstream in(text);
  for (std::string name; std::getline(in, name, ',');) names.push_back(name);
  return names;
}

int Test(const char* isa) {
  TestSplit();
  for (const std::string& name : Names(tripos::IsaNames(/*only_supported=*/false))) {
    if (isa != nullptr && name != isa) continue;
    const std::vector<std::string> supported = Names(tripos::IsaNames(/*only_supported=*/true));
    if (std::find(supported.begin(), supported.end(), name) == supported.end()) {
      std::printf("%s: not supported by this machine, not tested\n", name.c_str());
      continue;
    }
    const ChosenKernels kernels = tripos::ChooseKernels(name);
    int problems = 0;
    for (const Format& format : kFormats) {
      for (const int64_t m : {1, 2, 3, 7, 12, 13, 25, 70}) {
        for (const int64_t n : {1, 16, 31, 33, 96, 200}) {
          for (const int64_t k : {1, 5, 32, 63, 100, 576}) {
            if (m > 13 && k == 576 && n > 96) continue;
            TestProblem(kernels, format, m, n, k, false);
            ++problems;
          }
        }
        for (const int64_t n : {2, 32, 66, 128}) TestProblem(kernels, format, m, n, 96, true), ++problems;
      }
    }
    TestSource(kernels, "q8_0", SourceType::kQ8_0, 4e-6);
    TestSource(kernels, "q4_0", SourceType::kQ4_0, 4e-6);
    TestSource(kernels, "q4_k", SourceType::kQ4_K, 2.0 / 2048);
    TestSource(kernels, "q5_k", SourceType::kQ5_K, 1.1 / 254);
    TestSource(kernels, "q6_k", SourceType::kQ6_K, 1.1 / 254);
    std::printf("%s: %d problems, %d failures\n", kernels.isa, problems, failures);
  }
  return failures == 0 ? 0 : 1;
}

// -- Bench -------------------------------------------------------------------------------------------------------

// One thread is timed by its own CPU time, which a shared machine does not disturb; several by the wall.
clockid_t bench_clock = CLOCK_MONOTONIC;

double Now() {
  timespec time;
  clock_gettime(bench_clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Runs work(thread) on every thread, spinning between calls.
class Team {
 public:
  explicit Team(int threads) : threads_(threads) {
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { Loop(t); });
  }
  ~Team() {
    work_ = nullptr;
    ticket_.fetch_add(1);
    for (std::thread& worker : workers_) worker.join();
  }
  template <class Work>
  void Run(Work work) {
    context_ = &work;
    work_ = [](void* context, int t) { (*static_cast<Work*>(context))(t); };
    done_.store(0);
    ticket_.fetch_add(1);
    work(0);
    while (done_.load() < threads_ - 1) _mm_pause();
  }

 private:
  void Loop(int t) {
    for (int seen = 0;;) {
      while (ticket_.load() == seen) _mm_pause();
      ++seen;
      if (work_ == nullptr) return;
      work_(context_, t);
      done_.fetch_add(1);
    }
  }
  int threads_;
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::atomic<int> ticket_{0}, done_{0};
  std::vector<std::thread> workers_;
};

// Best of many short runs: the machine may be shared.
template <class Work>
double BestSeconds(Work work, double budget_s) {
  double best = 1e9;
  const double end = Now() + budget_s;
  for (int i = 0; i < 3 || Now() < end; ++i) {
    const double start = Now();
    work();
    best = std::min(best, Now() - start);
  }
  return best;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void ReadAll(const uint8_t* p, size_t bytes) {
  __m256i sum[4] = {};
  for (size_t i = 0; i + 128 <= bytes; i += 128) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 2112), _MM_HINT_T0);
    for (int j = 0; j < 4; ++j)
      sum[j] = _mm256_add_epi64(sum[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32 * j)));
  }
  for (auto& s : sum) asm volatile("" : "+x"(s));
}
#endif

struct Shape {
  const char* name;
  int64_t n, k;
};
constexpr int64_t kColdBytes = int64_t{160} << 20;
constexpr Shape kShapes[] = {
    {"135m qkv", 960, 576},     {"135m o", 576, 576},      {"135m gate/up", 3072, 576}, {"135m down", 576, 1536},
    {"135m head", 49152, 576},  {"0.6b qkv", 4096, 1024},  {"0.6b o", 1024, 2048},      {"0.6b gate/up", 6144, 1024},
    {"0.6b down", 1024, 3072},  {"0.6b head", 151936, 1024},
};

void TestSplit() {
  for (const Shape& shape : kShapes) {
    for (const int64_t m : {1, 2, 8, 16, 64, 100, 512, 2048}) {
      for (const int threads : {1, 2, 3, 4, 8}) {
        const PackedMatrix matrix = {WeightFormat::kInt8, false, shape.n, shape.k, nullptr};
        const Split split = SuggestSplit(matrix, PreparedRowBytes(RowFormat::kInt8, shape.k), m, threads);
        const std::string what = std::string(shape.name) + " m=" + std::to_string(m) + " threads " +
                                 std::to_string(threads) + ": split " + std::to_string(split.row_step) + " x " +
                                 std::to_string(split.panel_step);
        Expect(split.row_step >= 1 && split.panel_step >= 1, what);
        int64_t longest = 0, total = 0;
        for (int t = 0; t < threads; ++t) {
          int64_t work = 0;
          RunArgs args;
          for (int64_t i = 0; split.TaskOf(t, i, &args); ++i)
            work += (args.last_row - args.first_row) * (args.last_panel - args.first_panel);
          longest = std::max(longest, work);
          total += work;
        }
        const int64_t panels = matrix.num_panels();
        Expect(total == m * panels, what + ": not every output once");
        const int64_t even = std::max((panels + threads - 1) / threads * m, (m + threads - 1) / threads * panels);
        Expect(longest * 12 <= even * 13, what + ": longest " + std::to_string(longest) + " of " + std::to_string(even));
      }
    }
  }
}

void BenchShape(const ChosenKernels& kernels, const Format& format, const Shape& shape, Team* team, int threads) {
  PackedMatrix matrix = {format.format, false, shape.n, shape.k, nullptr};
  // As in a model, a matrix comes from memory: copies in turn, more of them than caches hold.
  const int64_t copies = 1 + kColdBytes / static_cast<int64_t>(matrix.bytes());
  Bytes packed(matrix.bytes() * static_cast<size_t>(copies));
  const std::vector<float> rows = Random(static_cast<size_t>(256 * shape.k), 1, 0.05f);
  for (int64_t panel = 0; panel < matrix.num_panels(); ++panel) {  // eight distinct panels, repeated
    if (panel < 8) {
      const SourceMatrix part = {SourceType::kF32, rows.data(), std::min<int64_t>(256, shape.n), shape.k};
      PackedMatrix eight = matrix;
      eight.n = part.rows;
      Pack(eight, {&part, 1}, panel, panel + 1, packed.data());
    } else {
      std::memcpy(packed.data() + static_cast<size_t>(panel) * matrix.panel_bytes(),
                  packed.data() + static_cast<size_t>(panel % 8) * matrix.panel_bytes(), matrix.panel_bytes());
    }
  }
  for (int64_t i = 1; i < copies; ++i)
    std::memcpy(packed.data() + static_cast<size_t>(i) * matrix.bytes(), packed.data(), matrix.bytes());
  matrix.data = packed.data();

  const double read_s = BestSeconds(
      [&] {
        team->Run([&](int t) {
          const size_t part = matrix.bytes() / static_cast<size_t>(threads);
          ReadAll(matrix.data + static_cast<size_t>(t) * part, part);
        });
      },
      0.1);
  std::printf("%-13s %-5s %dt read %5.1f GB/s |", shape.name, format.name, threads, matrix.bytes() / read_s * 1e-9);
  for (const int m : {1, 4, 16, 32, 64, 320, 512}) {
    if (m > 64 && shape.n > 40000) continue;
    Problem p = {matrix, Random(static_cast<size_t>(m * shape.k), 1, 1.0f), {}, {}, m};
    Rows prepared;
    MakeRows(kernels, p, &prepared);
    Bytes y(static_cast<size_t>(m * shape.n) * 4);
    const Split split = SuggestSplit(matrix, prepared.row_bytes, m, threads);
    std::atomic<int64_t> next[64];
    int64_t copy = 0;
    const double seconds = BestSeconds(
        [&] {
          copy = (copy + 1) % copies;
          matrix.data = packed.data() + static_cast<size_t>(copy) * matrix.bytes();
          PackedMatrix following = matrix;
          following.data = packed.data() + static_cast<size_t>((copy + 1) % copies) * matrix.bytes();
          for (int t = 0; t < threads; ++t) next[t] = 0;
          team->Run([&](int thread) {
            RunArgs args;
            args.rows = prepared.data;
            args.row_bytes = prepared.row_bytes;
            args.y = reinterpret_cast<float*>(y.data());
            args.y_stride = shape.n;
            for (int i = 0; i < threads; ++i) {
              const int owner = (thread + i) % threads;
              for (int64_t task; task = next[owner].fetch_add(1), split.TaskOf(owner, task, &args);) {
                args.after = split.PanelsOf(matrix, owner, task + 1);
                if (args.after.empty()) args.after = split.PanelsOf(following, thread, 0);
                kernels.LinearOf(matrix.format)(matrix, args);
              }
            }
          });
        },
        0.1);
    if (m <= 4) std::printf(" m%-2d %5.1f GB/s", m, matrix.bytes() / seconds * 1e-9);
    if (m > 4) std::printf(" m%-3d %6.0f GOP/s", m, 2e-9 * m * shape.n * shape.k / seconds);
  }
  std::printf("\n");
  std::fflush(stdout);
}

// Load time is packing time.
void BenchPack(const Format& format) {
  constexpr int64_t kN = 512, kK = 2048;
  struct Source {
    const char* name;
    SourceType type;
  };
  constexpr Source kSources[] = {{"f32", SourceType::kF32},   {"f16", SourceType::kF16},   {"bf16", SourceType::kBF16},
                                 {"q8_0", SourceType::kQ8_0}, {"q4_0", SourceType::kQ4_0}, {"q4_k", SourceType::kQ4_K},
                                 {"q5_k", SourceType::kQ5_K}, {"q6_k", SourceType::kQ6_K}};
  std::printf("pack to %-5s million weights/s:", format.name);
  const PackedMatrix matrix = {format.format, false, kN, kK, nullptr};
  Bytes packed(matrix.bytes());
  for (const Source& source : kSources) {
    std::vector<uint8_t> weights(SourceRowBytes(source.type, kK) * kN);
    const std::vector<float> values = Random(kN * kK, 1, 0.05f);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = source.type == SourceType::kF16 ? quant::ToF16(values[i]) : quant::ToBF16(values[i]);
      if (source.type == SourceType::kF32) std::memcpy(&weights[4 * i], &values[i], 4);
      if (source.type == SourceType::kF16 || source.type == SourceType::kBF16) std::memcpy(&weights[2 * i], &half, 2);
    }
    if (source.type > SourceType::kBF16) weights = RandomBlocks(source.type, kN, kK);
    const SourceMatrix part = {source.type, weights.data(), kN, kK};
    const double seconds =
        BestSeconds([&] { Pack(matrix, {&part, 1}, 0, matrix.num_panels(), packed.data()); }, 0.05);
    std::printf(" %s %.0f", source.name, kN * kK * 1e-6 / seconds);
  }
  std::printf("\n");
}

void BenchPrepare(const ChosenKernels& kernels) {
  for (const int64_t k : {576, 1024, 3072}) {
    const std::vector<float> x = Random(static_cast<size_t>(64 * k), 1, 1.0f);
    Bytes rows(PreparedRowBytes(RowFormat::kInt8, k) * 64);
    const double seconds = BestSeconds([&] { kernels.PrepareOf(RowFormat::kInt8)(x.data(), k, 64, k, rows.data()); }, 0.05);
    std::printf("prepare k=%ld: %.2f GB/s of float32\n", static_cast<long>(k), 64e-9 * k * 4 / seconds);
  }
}

int Bench(const char* isa, const char* name, int threads, const char* only) {
  const ChosenKernels kernels = tripos::ChooseKernels(isa == nullptr ? "auto" : isa);
  if (threads == 1) bench_clock = CLOCK_THREAD_CPUTIME_ID;
  Team team(threads);
  const auto peak = [&](const auto& loop) {
    std::atomic<int64_t> operations;
    const double seconds = BestSeconds([&] { team.Run([&](int) { operations = loop(); }); }, 0.2);
    return 1e-9 * static_cast<double>(operations * threads) / seconds;
  };
  std::printf("peaks, %d threads: fp32 %.0f GFLOP/s", threads, peak(kernels.peak_fp32));
  if (kernels.peak_int8) std::printf(", int8 %.0f GOP/s", peak(kernels.peak_int8));
  std::printf("\n");
  BenchPrepare(kernels);
  for (const Format& format : kFormats) {
    if (name != nullptr && std::strcmp(name, "all") != 0 && std::strcmp(name, format.name) != 0) continue;
    BenchPack(format);
    for (const Shape& shape : kShapes)
      if (only == nullptr || std::strstr(shape.name, only) != nullptr)
        BenchShape(kernels, format, shape, &team, threads);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const auto arg = [&](int i) -> const char* { return i < argc ? argv[i] : nullptr; };
  try {
    if (arg(1) != nullptr && std::strcmp(arg(1), "test") == 0) return Test(arg(2));
    if (arg(1) != nullptr && std::strcmp(arg(1), "bench") == 0)
      return Bench(arg(2), arg(3), arg(4) != nullptr ? std::atoi(arg(4)) : 1, arg(5));
  } catch (const tripos::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::fprintf(stderr, "usage: linear test [isa] | bench [isa] [format|all] [threads] [shape]\n");
  return 2;
}
