// Persistent threads that run one function together and meet at barriers inside it.
//
// A step is one Run: every thread walks the whole plan, so that an op boundary costs one barrier (some 100 ns) and
// not one wake-up. Waiting threads spin for a few microseconds and then sleep; an idle pool uses no CPU.
#ifndef TRIPOS_UTIL_THREAD_POOL_H_
#define TRIPOS_UTIL_THREAD_POOL_H_

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace tripos {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // the caller of Run is thread 0
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Calls work(thread) on every thread and returns when all have returned. `work` must not throw.
  void Run(const std::function<void(int)>& work);

  // Called by every thread of a Run, equally often: returns once all have called it. Meanwhile calls `idle`, which does
  // some useful little thing and returns true, or has nothing to do and returns false.
  template <typename Idle>
  void Barrier(Idle&& idle) {
    if (num_threads_ == 1) return;
    const uint32_t epoch = barrier_epoch_.load(std::memory_order_relaxed);
    if (IsLastToArrive(epoch)) return;
    WaitWhile(barrier_epoch_, epoch, kBarrierYields, idle);
  }
  void Barrier() {
    Barrier([] { return false; });
  }

 private:
  void Loop(int thread);
  bool IsLastToArrive(uint32_t epoch);  // then it lets the others go
  static void Pause();

  template <typename Idle>
  static void WaitWhile(const std::atomic<uint32_t>& value, uint32_t old, int yields, Idle&& idle) {
    const auto is_over = [&] { return value.load(std::memory_order_acquire) != old; };
    for (int i = 0; i < kSpins; ++i) {
      if (is_over()) return;
      if (!idle()) Pause();
    }
    for (int i = 0; i < yields; ++i) {
      if (is_over()) return;
      std::this_thread::yield();
    }
    value.wait(old, std::memory_order_acquire);
  }

  // A thread that sleeps is awake again 50 µs after it could be, and then the others have gone to sleep waiting for it.
  // So it spins for some 20 µs, which is longer than an even split's imbalance, then offers its core to whoever else wants
  // it, and sleeps only after about 2 ms within a step and 0.5 ms between steps.
  static constexpr int kSpins = 500;
  static constexpr int kBarrierYields = 4000;
  static constexpr int kStartYields = 1000;

  const int num_threads_;
  const std::function<void(int)>* work_ = nullptr;
  bool is_stopping_ = false;
  // Each on its own cache line: the counter is written by all, the epochs are read by spinning threads.
  alignas(64) std::atomic<uint32_t> start_epoch_{0};
  alignas(64) std::atomic<uint32_t> num_arrived_{0};
  alignas(64) std::atomic<uint32_t> barrier_epoch_{0};
  std::vector<std::thread> threads_;
};

}  // namespace tripos

#endif  // TRIPOS_UTIL_THREAD_POOL_H_
