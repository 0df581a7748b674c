#include "kernels/plan/barriers.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "kernels/plan/phases.h"

namespace tripos {
namespace {

Buffer& At(std::vector<Buffer>& buffers, int index) { return buffers[static_cast<size_t>(index)]; }

// What was touched since the last barrier, in steps of one row or in all others.
class Interval {
 public:
  Interval(const std::vector<Buffer>& buffers, bool is_single) : buffers_(buffers), is_single_(is_single) {}

  bool Conflicts(const Phase& phase) const {
    const auto any = [&](const std::vector<int>& touched, const Touched& earlier) {
      return std::any_of(touched.begin(), touched.end(), [&](int buffer) { return Conflicts(phase, buffer, earlier); });
    };
    return any(phase.reads, writers_) || any(phase.writes, writers_) || any(phase.writes, readers_);
  }

  void Note(const Phase& phase) {
    for (const int buffer : phase.reads) readers_[buffer].push_back(&phase);
    for (const int buffer : phase.writes) writers_[buffer].push_back(&phase);
  }

  void Clear() {
    readers_.clear();
    writers_.clear();
  }

 private:
  using Touched = std::map<int, std::vector<const Phase*>>;

  bool Conflicts(const Phase& phase, int buffer, const Touched& earlier) const {
    const bool is_private = buffers_[static_cast<size_t>(buffer)].is_private;
    if (is_single_ && is_private) return false;
    const auto found = earlier.find(buffer);
    if (found == earlier.end()) return false;
    return !std::all_of(found->second.begin(), found->second.end(), [&](const Phase* other) {  // the same thread?
      return phase.is_row_wise && other->is_row_wise && phase.rows == other->rows &&
             (is_private || phase.is_repeated == other->is_repeated);
    });
  }

  const std::vector<Buffer>& buffers_;
  const bool is_single_;
  Touched readers_, writers_;
};

}  // namespace

void MarkRepeated(Phases& phases, std::vector<Buffer>& buffers, int output) {
  for (Buffer& buffer : buffers) buffer.is_private = buffer.row_bytes > 0;
  At(buffers, output).is_private = false;
  for (auto& phase : phases) phase->is_repeated = phase->is_row_wise;
  for (bool has_changed = true; has_changed;) {
    has_changed = false;
    for (auto& phase : phases) {
      const auto is_private = [&](int buffer) { return At(buffers, buffer).is_private; };
      if (phase->is_repeated && std::all_of(phase->writes.begin(), phase->writes.end(), is_private)) continue;
      has_changed |= std::any_of(phase->writes.begin(), phase->writes.end(), is_private);
      phase->is_repeated = false;
      for (const int buffer : phase->writes) At(buffers, buffer).is_private = false;
    }
  }
}

void PlaceBarriers(Phases& phases, std::vector<Buffer>& buffers, int output) {
  Interval many(buffers, false), single(buffers, true);
  int interval = 0;
  for (auto& phase : phases) {
    // A barrier of a step of one row is one of every step: joined phases and the arena rely on it.
    phase->needs_barrier_single = !phase->is_idle_single && single.Conflicts(*phase);
    phase->needs_barrier = phase->needs_barrier_single || many.Conflicts(*phase);
    if (phase->needs_barrier) many.Clear();
    if (phase->needs_barrier_single) {
      single.Clear();
      ++interval;
    }
    many.Note(*phase);
    if (!phase->is_idle_single) single.Note(*phase);
    for (const std::vector<int>* touched : {&phase->reads, &phase->writes}) {
      for (const int index : *touched) {
        Buffer& buffer = At(buffers, index);
        if (buffer.first < 0) buffer.first = interval;
        buffer.last = std::max(buffer.last, interval);
      }
    }
  }
  At(buffers, output).last = interval + 1;
}

Phases JoinRowPhases(Phases phases) {
  Phases joined;
  for (auto& phase : phases) {
    if (!phase->is_row_wise) {
      joined.push_back(std::move(phase));
      continue;
    }
    auto* run = joined.empty() ? nullptr : dynamic_cast<RowRunPhase*>(joined.back().get());
    if (run == nullptr || phase->needs_barrier || run->rows != phase->rows) {
      auto fresh = std::make_unique<RowRunPhase>();
      fresh->rows = phase->rows;
      fresh->needs_barrier = phase->needs_barrier;
      fresh->needs_barrier_single = phase->needs_barrier_single;
      run = fresh.get();
      joined.push_back(std::move(fresh));
    }
    run->phases.emplace_back(static_cast<RowPhase*>(phase.release()));
  }
  for (size_t i = 0; i < joined.size(); ++i) joined[i]->counter = static_cast<int>(i);
  return joined;
}

void MarkLocal(const Phases& joined, std::vector<Buffer>& buffers, int output) {
  std::map<int, std::set<const Phase*>> users;
  const auto note = [&users](const Phase& phase, const Phase* user) {
    for (const std::vector<int>* touched : {&phase.reads, &phase.writes}) {
      for (const int buffer : *touched) users[buffer].insert(user);
    }
  };
  for (const auto& phase : joined) {
    const auto* run = dynamic_cast<const RowRunPhase*>(phase.get());
    if (run == nullptr) {
      note(*phase, nullptr);
    } else {
      for (const auto& each : run->phases) note(*each, run);
    }
  }
  for (const auto& [buffer, phases] : users) {
    At(buffers, buffer).is_local = buffer != output && phases.size() == 1 && *phases.begin() != nullptr;
  }
}

}  // namespace tripos
