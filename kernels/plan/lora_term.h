// What adapters add to a linear, in the linear's own tasks.
#ifndef TRIPOS_PLAN_LORA_TERM_H_
#define TRIPOS_PLAN_LORA_TERM_H_

#include "kernels/plan/phase.h"

namespace tripos {

inline constexpr size_t kAddendFloats = size_t{1} << 18;  // per thread: the addends of one task

// What a linear adds to rows with an adapter: B h, computed for the rows and panels of a task just before it runs.
struct LoraTerm {
  const Kernels* kernels = nullptr;  // nullptr: the linear carries no adapters
  int site = 0;
  Operand shrunk;

  bool IsIdle(const StepState& state, Rows rows) const;  // no adapter of the step adds here
  // Panels so few that the addends of a task fit.
  static linear::Split Bound(linear::Split split);
  // Sets args.addend and args.has_addend for the task's rows and panels.
  void Expand(const StepState& state, Rows rows, int thread, linear::RunArgs& args) const;
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_LORA_TERM_H_
