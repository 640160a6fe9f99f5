#include "kernels/quant/simd_target_name.h"

#include "kernels/quant/simd_targets.h"
// After the choice of targets.
#include "hwy/highway.h"
#include "hwy/targets.h"

namespace gguf_offload {

const char* SimdTargetName() {
  // Targets are bits, better ones lower.
  const int64_t best = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(best & -best);
}

}  // namespace gguf_offload
