// Brings experts to slots of a cache before the router has asked for them, on the guess that it
// will: ahead of a call of ResolveExperts, beside what else the GPU does.
#ifndef KERNELS_MOE_EXPERT_PREDICTION_CUDA_H_
#define KERNELS_MOE_EXPERT_PREDICTION_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/moe/expert_cache_cuda.h"

namespace gguf_offload::cuda {

// Finds slots for those experts of `guess` that are in none, at most `most` of them: those with the
// largest weights (of the rows that want an expert, the largest counts), of equals the first. The
// arguments are those of ResolveExperts, in its place and for FillSlots; the pool is the layer's
// own.
//
// The slots unused for the longest time are taken, but none whose expert is in `guess`. They keep
// their age, so that an expert nobody asks for is the first to go again, and a wrong guess costs
// the cache no more than `most` slots. The clock stands still. Must be over before the layer's next
// ResolveExperts begins, and the layer's kernels before this begins.
void ResolveGuess(const ChosenExperts& guess, int most, const ExpertPool& pool, int layer,
                  int experts, const ExpertFills& fills, ExpertCounts* counts, int64_t expert_bytes,
                  cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_PREDICTION_CUDA_H_
