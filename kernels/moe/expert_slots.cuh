// How slots of a cache of experts change hands: for kernels of one block.
#ifndef KERNELS_MOE_EXPERT_SLOTS_CUH_
#define KERNELS_MOE_EXPERT_SLOTS_CUH_

#include <cstdint>

#include "kernels/moe/expert_cache_cuda.h"

namespace gguf_offload::cuda {

// Chooses the slots of `count` missing experts: those unused for the longest time, of equals the
// first, and none whose time is `kept`, which is later than all others. last_use: (slots) of the
// pool, in shared memory; missing: (count) experts; fills: (count), of which the i-th is that of
// missing[i]. All threads of the block call it, and those of a later barrier see the result.
__device__ __forceinline__ void ChooseSlots(const unsigned long long* last_use, int slots,
                                            unsigned long long kept, const int32_t* missing,
                                            int count, ExpertFill* fills) {
  if (count == 0) return;
  for (int slot = threadIdx.x; slot < slots; slot += blockDim.x) {
    const unsigned long long used = last_use[slot];
    if (used == kept) continue;
    int older = 0;
#pragma unroll 8
    for (int i = 0; i < slots; ++i) {
      older += last_use[i] < used || (last_use[i] == used && i < slot);
    }
    if (older < count) fills[older] = {missing[older], slot};
  }
}

// Takes a slot from its owner, which may be -1, and gives it to another expert, of the layer whose
// experts begin at `first_owner`.
__device__ __forceinline__ void PassSlot(const ExpertPool& pool, int owner, int first_owner,
                                         const ExpertFill& fill) {
  if (owner >= 0) pool.slot_of[owner] = -1;
  pool.owner[fill.slot] = first_owner + fill.expert;
  pool.slot_of[first_owner + fill.expert] = fill.slot;
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_SLOTS_CUH_
