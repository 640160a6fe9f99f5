// Sorts the choices of all tokens by expert, on the GPU, so that an expert's weights are read once
// for several tokens.
#ifndef KERNELS_MOE_EXPERT_ORDER_CUDA_H_
#define KERNELS_MOE_EXPERT_ORDER_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/moe/router_cuda.h"

namespace gguf_offload::cuda {

// Some pairs (of a row and an expert chosen for it; router_cuda.h numbers them) of one expert.
struct ExpertTile {
  int32_t expert;
  int32_t first;  // in ExpertOrder::pairs
  int32_t count;  // 0: nothing to do
};

// Device memory.
struct ExpertOrder {
  int32_t* pairs = nullptr;     // (chosen.pairs()) those of expert 0, then those of expert 1...
  ExpertTile* tiles = nullptr;  // (MostExpertTiles(...)), unused ones behind the others
};

// Tiles of at most `tile_pairs` pairs that any choice of that many pairs may need.
inline int MostExpertTiles(int pairs, int experts, int tile_pairs) {
  const int begun = experts < pairs ? experts : pairs;
  const int tiles = pairs / tile_pairs + begun;
  return tiles < pairs ? tiles : pairs;
}

// Pairs without an expert are in no tile. The order of an expert's pairs is arbitrary.
void OrderByExpert(const ChosenExperts& chosen, int experts, int tile_pairs,
                   const ExpertOrder& order, cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_ORDER_CUDA_H_
