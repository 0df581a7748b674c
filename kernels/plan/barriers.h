// Which phases wait for all threads before they begin, and which work every thread does for itself in a step of one row.
#ifndef TRIPOS_PLAN_BARRIERS_H_
#define TRIPOS_PLAN_BARRIERS_H_

#include <memory>
#include <vector>

#include "kernels/plan/phase.h"

namespace tripos {

using Phases = std::vector<std::unique_ptr<Phase>>;

// A step of one row has nothing to share out in row-wise phases, and waiting for the one that does them takes longer than
// doing them. So every thread does those that write nothing but buffers that no other kind of phase writes: marks these
// phases as repeated, and their buffers as private. `output` is the buffer that outlives the step.
void MarkRepeated(Phases& phases, std::vector<Buffer>& buffers, int output);

// Sets where barriers go, and how long buffers live. A barrier goes before a phase that touches what another thread may
// have written (or writes what another may still read) since the last barrier. Buffers live for whole intervals between
// the barriers of a step of one row, which are among those of any other step, so sharing memory adds no hazard.
void PlaceBarriers(Phases& phases, std::vector<Buffer>& buffers, int output);

// Row phases with no barrier between become one, which takes a few rows through all of them.
Phases JoinRowPhases(Phases phases);

// Marks as local the buffers that nothing but one run of joined phases touches. `output` outlives the step.
void MarkLocal(const Phases& joined, std::vector<Buffer>& buffers, int output);

}  // namespace tripos

#endif  // TRIPOS_PLAN_BARRIERS_H_
