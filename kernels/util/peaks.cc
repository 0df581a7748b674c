#include "kernels/util/peaks.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "kernels/include/tripos.h"
#include "kernels/util/cpu.h"
#include "kernels/util/error.h"
#include "kernels/util/memory.h"
#include "kernels/util/thread_pool.h"

namespace tripos {

namespace {

using Clock = std::chrono::steady_clock;
constexpr double kSeconds = 0.05;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The sum over threads of amount per second, all running at once.
template <typename F>
double PerSecond(ThreadPool& pool, F&& work) {
  std::vector<double> rates(static_cast<size_t>(pool.num_threads()));
  pool.Run([&](int thread) {
    work(thread);  // warm up
    pool.Barrier();
    const Clock::time_point start = Clock::now();
    double amount = 0.0, seconds = 0.0;
    do {
      amount += static_cast<double>(work(thread));
      seconds = SecondsSince(start);
    } while (seconds < kSeconds);
    rates[static_cast<size_t>(thread)] = amount / seconds;
  });
  double sum = 0.0;
  for (double rate : rates) sum += rate;
  return sum;
}

double MeasureRead(ThreadPool& pool, const Kernels& kernels, int64_t bytes) {
  if (bytes < 4096) throw Error("the working set must be at least 4096 bytes");
  std::vector<Memory> sets;
  for (int i = 0; i < pool.num_threads(); ++i) {
    sets.emplace_back(static_cast<size_t>(bytes));
    std::memset(sets.back().As<void>(), 1, static_cast<size_t>(bytes));
  }
  const int64_t repeats = bytes < (1 << 20) ? (1 << 20) / bytes : 1;  // amortize reading the clock
  return PerSecond(pool, [&](int thread) {
    int64_t done = 0;
    for (int64_t i = 0; i < repeats; ++i) done += kernels.peak_read(sets[static_cast<size_t>(thread)].As<void>(), bytes);
    return done;
  });
}

double MeasureBarriers(ThreadPool& pool) {
  constexpr int kBarriers = 20000;
  double seconds = 0.0;
  pool.Run([&](int thread) {
    pool.Barrier();
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < kBarriers; ++i) pool.Barrier();
    if (thread == 0) seconds = SecondsSince(start);
  });
  return kBarriers / seconds;
}

}  // namespace

double MeasurePeak(int32_t peak, const Kernels& kernels, int threads, int64_t bytes) {
  if (threads < 1 || threads > 1024) throw Error("threads must be 1 to 1024");
  ThreadPool pool(threads);
  const auto rate = [&](const auto& work) { return work ? PerSecond(pool, [&](int) { return work(); }) : -1.0; };
  switch (peak) {
    case TRIPOS_PEAK_READ: return MeasureRead(pool, kernels, bytes);
    case TRIPOS_PEAK_FP32: return rate(kernels.peak_fp32);
    case TRIPOS_PEAK_BF16: return ThisCpu().has_bf16 ? rate(kernels.peak_bf16) : -1.0;
    case TRIPOS_PEAK_INT8: return rate(kernels.peak_int8);
    case TRIPOS_PEAK_AMX_INT8: return rate(kernels.peak_tiles_int8);
    case TRIPOS_PEAK_AMX_BF16: return rate(kernels.peak_tiles_bf16);
    case TRIPOS_PEAK_BARRIERS: return MeasureBarriers(pool);
    default: throw Error("unknown peak");
  }
}

}  // namespace tripos
