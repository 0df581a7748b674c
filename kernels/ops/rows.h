// What the kernels of rows are asked for.
#ifndef TRIPOS_OPS_ROWS_H_
#define TRIPOS_OPS_ROWS_H_

#include "kernels/plan/plan.h"

namespace tripos {

struct NormArgs {
  const float* weight;
  const float* bias;  // or nullptr
  int cols;           // of the row
  int group;          // columns normalized together; divides cols
  NormKind kind;
  float eps;
};

}  // namespace tripos

#endif  // TRIPOS_OPS_ROWS_H_
