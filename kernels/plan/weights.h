// The weights of a plan as phases read them: matrices packed into panels, vectors in float32, tables where they lie.
#ifndef TRIPOS_PLAN_WEIGHTS_H_
#define TRIPOS_PLAN_WEIGHTS_H_

#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops/linear.h"
#include "kernels/plan/plan.h"
#include "kernels/util/thread_pool.h"

namespace tripos {

inline constexpr int32_t kInterleavedPanels = 256;  // in TriposPanels.panel_format

const char* FormatName(linear::WeightFormat format);
// Lines of tripos_about: the names of checkpoint and panel formats with their numbers.
std::string PrintFormats();

// The packed matrices of a plan in one block of huge pages, in the order of their use: small ones share a page, and
// what a step reads next follows what it reads now. A mapped file has small pages, which cost a tenth of a decode step.
struct PackedWeights {
  std::shared_ptr<uint8_t> panels;
  std::map<int, linear::PackedMatrix> matrices;  // by weight of the plan; in `panels`
  size_t bytes = 0;
};

// A weight that a phase reads row by row: the checkpoint's own bytes.
struct Table {
  std::vector<linear::SourceMatrix> parts;
  int64_t rows = 0;
  int64_t cols = 0;

  void Row(int64_t row, float* out) const;
};

class WeightReader {
 public:
  // format: auto, or what matrices are packed as. progress: or nullptr.
  WeightReader(const Plan& plan, std::span<const TriposWeight> table, std::string format, TriposProgress progress,
               ThreadPool& pool);

  const PlanWeight& ShapeInPlan(int weight) const { return plan_.weights[static_cast<size_t>(weight)]; }
  Table TableOf(int weight) const;
  std::vector<float> Vector(int weight) const;  // all its values
  linear::WeightFormat FormatOf(int weight) const { return ShapeOf(weight).format; }
  // Packs it, the first time.
  linear::PackedMatrix Matrix(int weight, bool is_interleaved);
  PackedWeights Finish() { return std::move(packed_); }

 private:
  std::span<const TriposWeight> Parts(int weight) const;
  linear::PackedMatrix ShapeOf(int weight) const;
  void Copy(const linear::PackedMatrix& matrix, uint8_t* bytes);
  void Pack(const linear::PackedMatrix& shape, int weight, uint8_t* bytes);

  const Plan& plan_;
  const std::span<const TriposWeight> table_;
  const std::string format_;
  const TriposProgress progress_;
  ThreadPool& pool_;
  PackedWeights packed_;
  size_t num_bytes_ = 0, num_taken_ = 0;  // of panels
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_WEIGHTS_H_
