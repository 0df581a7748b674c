// The C interface: turns exceptions into a status and a message.
#include <new>
#include <string>

#include "kernels/include/tripos.h"
#include "kernels/isa/kernels.h"
#include "kernels/ops/linear.h"
#include "kernels/plan/executor.h"
#include "kernels/util/amx.h"
#include "kernels/util/cpu.h"
#include "kernels/util/error.h"
#include "kernels/util/guard.h"
#include "kernels/util/peaks.h"

struct TriposExecutor {
  explicit TriposExecutor(const TriposOptions& options) : executor(options) {}
  tripos::Executor executor;
};

namespace {

thread_local std::string last_error;

template <typename F>
int Guard(F&& body) {
  try {
    body();
    return 0;
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown failure. This is a bug in Tripos";
  }
  return -1;
}

}  // namespace

extern "C" {

const char* tripos_about(void) {
  static const std::string about = [] {
    const tripos::Cpu& cpu = tripos::ThisCpu();
    const std::string isas = tripos::IsaNames(/*only_supported=*/true), known = tripos::IsaNames(false);
    return tripos::Format("abi=%d\ncpu=%s\nisas=%s\nknown_isas=%s\nbf16=%d\namx_problem=%s\ncores=%d\npanel_layout=%d\n", TRIPOS_ABI,
                          cpu.name.c_str(), isas.c_str(), known.c_str(), cpu.has_bf16 ? 1 : 0,
                          tripos::AmxProblem().c_str(), cpu.num_cores, tripos::linear::kPanelLayout) +
           tripos::PrintFormats();
  }();
  return about.c_str();
}

const char* tripos_ops(void) {
  static const std::string ops = tripos::PrintOps();
  return ops.c_str();
}

const char* tripos_error(void) { return last_error.c_str(); }

int tripos_create(const TriposOptions* options, TriposExecutor** executor) {
  return Guard([&] { *executor = new TriposExecutor(*options); });
}

void tripos_destroy(TriposExecutor* executor) { delete executor; }

int tripos_load(TriposExecutor* executor, const void* plan, size_t plan_bytes, const TriposWeight* weights,
                size_t num_weights, TriposProgress progress) {
  return Guard([&] { executor->executor.Load(plan, plan_bytes, {weights, num_weights}, progress); });
}

int tripos_guard(int32_t change) {
  return Guard([&] { change > 0 ? tripos::BeginGuard() : tripos::EndGuard(); });
}

int tripos_panels(TriposExecutor* executor, int32_t weight, TriposPanels* panels) {
  return Guard([&] { *panels = executor->executor.Panels(weight); });
}

int tripos_reserve(TriposExecutor* executor, int64_t num_blocks) {
  return Guard([&] { executor->executor.Reserve(num_blocks); });
}

int tripos_set_adapter(TriposExecutor* executor, int32_t slot, const TriposLowRank* modules, size_t num_modules) {
  return Guard([&] { executor->executor.SetAdapter(slot, {modules, num_modules}); });
}

int tripos_run(TriposExecutor* executor, const TriposStep* step, const TriposOutput* output) {
  return Guard([&] { executor->executor.Run(*step, *output); });
}

const char* tripos_describe(TriposExecutor* executor) {
  const char* text = "";
  return Guard([&] { text = executor->executor.Describe().c_str(); }) == 0 ? text : "";
}

int tripos_dequantize(int32_t format, const void* blocks, int64_t count, float* values) {
  return Guard([&] {
    if (format < TRIPOS_F32 || format >= TRIPOS_NUM_FORMATS) throw tripos::Error("dequantize: unknown format");
    const auto type = static_cast<tripos::linear::SourceType>(format);
    if (count < 0 || !tripos::linear::DequantizeRow(type, blocks, count, values)) {
      throw tripos::Error("dequantize: count is not a multiple of the format's block");
    }
  });
}

int tripos_measure(int32_t peak, const char* isa, int32_t threads, int64_t bytes, double* per_second) {
  return Guard([&] { *per_second = tripos::MeasurePeak(peak, tripos::ChooseKernels(isa), threads, bytes); });
}

}  // extern "C"
