// The one list of instruction sets.
#include "kernels/isa/kernels.h"

#include <span>
#include <tuple>

#include "kernels/util/amx.h"
#include "kernels/util/error.h"

namespace tripos {

// Each in the file of its name.
extern const Kernels kAmxKernels, kAvx512Kernels, kAvx2Kernels, kTilesKernels, kScalarKernels;

namespace {

struct InstructionSet {
  const char* name;
  const Kernels& kernels;
  bool (*is_supported)();  // here, where no flags are, so that any CPU can ask
  bool is_only_by_name = false;
};

#if defined(__x86_64__)
bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

// Best first; the last one is plain C++ and runs everywhere. __builtin_cpu_supports also asks the operating system
// whether it saves the wide registers.
const InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {"amx", kAmxKernels, [] { return HasAvx512() && __builtin_cpu_supports("avx512bf16") && AmxIsUsable(); }},
    {"avx512", kAvx512Kernels, HasAvx512},
    {"avx2", kAvx2Kernels,
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }},
#endif
    {"tiles", kTilesKernels, [] { return true; }, /*is_only_by_name=*/true},
    {"scalar", kScalarKernels, [] { return true; }},
};

// Every slot, or array of slots.
template <typename AnyKernels>
auto SlotsOf(AnyKernels& k) {
  return std::tie(k.norm, k.rope, k.glu, k.act, k.add, k.scale, k.linears, k.prepares, k.write_kv, k.attends, k.merge,
                  k.finish, k.self_attend, k.mean, k.shrink, k.expand, k.max, k.all_finite, k.exp_sum, k.exp_weights,
                  k.sum, k.at_least, k.peak_read, k.peak_fp32, k.peak_bf16, k.peak_int8, k.peak_tiles_bf16, k.peak_tiles_int8);
}

template <typename... Slots>
constexpr size_t SizeOf(const std::tuple<Slots&...>*) {
  return (sizeof(Slots) + ...);
}
static_assert(SizeOf(static_cast<decltype(SlotsOf(kScalarKernels))*>(nullptr)) == sizeof(Kernels),
              "SlotsOf leaves a slot out, or names one twice");

template <typename AnySlot>
void Take(AnySlot& slot, const AnySlot& other, const char* isa) {
  slot.Take(other, isa);
}
template <typename AnySlot, size_t kCount>
void Take(std::array<AnySlot, kCount>& slots, const std::array<AnySlot, kCount>& others, const char* isa) {
  for (size_t i = 0; i < kCount; ++i) slots[i].Take(others[i], isa);
}

// Takes from a set what no better one has.
void TakeMissing(Kernels& chosen, const InstructionSet& set) {
  std::apply(
      [&](auto&... slots) {
        std::apply([&](const auto&... others) { (Take(slots, others, set.name), ...); }, SlotsOf(set.kernels));
      },
      SlotsOf(chosen));
}

}  // namespace

ChosenKernels ChooseKernels(const std::string& isa) {
  const bool is_auto = isa == "auto" || isa.empty();
  ChosenKernels chosen;
  for (const InstructionSet& set : kInstructionSets) {
    if (set.is_only_by_name && isa != set.name) continue;
    const bool is_named = is_auto || isa == set.name;
    if (chosen.isa == nullptr && !is_named) continue;  // better than what is asked for
    if (set.is_supported()) {
      if (chosen.isa == nullptr) chosen.isa = set.name;
      TakeMissing(chosen, set);
    } else if (!is_auto && is_named) {
      throw Error(Format("this CPU has no %s: use auto or one of %s", isa.c_str(), IsaNames(true, ", ").c_str()));
    }
  }
  if (chosen.isa == nullptr) {
    throw Error(Format("isa \"%s\" is unknown: use auto or one of %s", isa.c_str(), IsaNames(true, ", ").c_str()));
  }
  return chosen;
}

std::string IsaNames(bool only_supported, const char* separator) {
  std::string names;
  for (const InstructionSet& set : kInstructionSets) {
    if (only_supported && !set.is_supported()) continue;
    if (!names.empty()) names += separator;
    names += set.name;
  }
  return names;
}

}  // namespace tripos
