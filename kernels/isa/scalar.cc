// Plain C++: the definition of the vector operations, and what runs where no better instruction set is.
#include "kernels/isa/table-inl.h"

namespace tripos {

extern const Kernels kScalarKernels;
constinit const Kernels kScalarKernels = Table();

}  // namespace tripos
