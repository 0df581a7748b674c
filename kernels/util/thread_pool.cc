#include "kernels/util/thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tripos {

void ThreadPool::Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads < 1 ? 1 : num_threads) {
  for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { Loop(i); });
}

ThreadPool::~ThreadPool() {
  is_stopping_ = true;
  start_epoch_.fetch_add(1, std::memory_order_release);
  start_epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
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
    WaitWhile(start_epoch_, seen, kStartYields, [] { return false; });
    ++seen;
    if (is_stopping_) return;
    (*work_)(thread);
    Barrier();
  }
}

bool ThreadPool::IsLastToArrive(uint32_t epoch) {
  if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 != static_cast<uint32_t>(num_threads_)) return false;
  num_arrived_.store(0, std::memory_order_relaxed);
  barrier_epoch_.store(epoch + 1, std::memory_order_release);
  barrier_epoch_.notify_all();
  return true;
}

}  // namespace tripos
