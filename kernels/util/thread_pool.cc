#include "kernels/util/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tripos {
namespace {

// About 20 µs between ops and 50 µs between steps: longer than an even split's imbalance, short enough that a
// neighbour on a shared core loses little. After that the thread sleeps in the kernel.
constexpr int kBarrierSpins = 500;
constexpr int kStartSpins = 1200;

inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads < 1 ? 1 : num_threads) {
  for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { Loop(i); });
}

ThreadPool::~ThreadPool() {
  is_stopping_ = true;
  start_epoch_.fetch_add(1, std::memory_order_release);
  start_epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::WaitWhile(const std::atomic<uint32_t>& value, uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  value.wait(old, std::memory_order_acquire);
}

void ThreadPool::Run(const std::function<void(int)>& work) {
  if (num_threads_ == 1) return work(0);
  work_ = &work;
  start_epoch_.fetch_add(1, std::memory_order_release);
  start_epoch_.notify_all();
  work(0);
  Barrier();
}

void ThreadPool::Loop(int thread) {
  uint32_t seen = 0;
  for (;;) {
    WaitWhile(start_epoch_, seen, kStartSpins);
    ++seen;
    if (is_stopping_) return;
    (*work_)(thread);
    Barrier();
  }
}

void ThreadPool::Barrier() {
  if (num_threads_ == 1) return;
  const uint32_t epoch = barrier_epoch_.load(std::memory_order_relaxed);
  if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(num_threads_)) {
    num_arrived_.store(0, std::memory_order_relaxed);
    barrier_epoch_.store(epoch + 1, std::memory_order_release);
    barrier_epoch_.notify_all();
  } else {
    WaitWhile(barrier_epoch_, epoch, kBarrierSpins);
  }
}

}  // namespace tripos
