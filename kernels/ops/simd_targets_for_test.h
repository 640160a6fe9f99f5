// Runs a test body once for each instruction set that the kernels are compiled for and this machine
// has.
#ifndef KERNELS_OPS_SIMD_TARGETS_FOR_TEST_H_
#define KERNELS_OPS_SIMD_TARGETS_FOR_TEST_H_

#include <cstdint>

#include "hwy/targets.h"

namespace gguf_offload {

// Calls body(target_name) with run-time dispatch fixed to one target at a time.
template <typename Body>
void ForEachSimdTarget(const Body& body) {
  const int64_t supported = hwy::SupportedTargets();
  for (const int64_t target : {HWY_SSE4, HWY_AVX2, HWY_AVX3}) {
    if ((supported & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    body(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace gguf_offload

#endif  // KERNELS_OPS_SIMD_TARGETS_FOR_TEST_H_
