#include "kernels/moe/choose_experts.cuh"
#include "kernels/moe/router_cuda.h"
#include "kernels/ops/dependent_launch.cuh"

namespace gguf_offload::cuda {
namespace {

// A warp a row.
template <int kPerLane>
__global__ void __launch_bounds__(32)
    ChooseExpertsKernel(const __grid_constant__ RouterScores scores,
                        const __grid_constant__ ChosenExperts chosen) {
  LetLaterKernelsBegin();
  extern __shared__ float scratch[];
  const int64_t row = blockIdx.x;
  const ExpertChooser<kPerLane> chooser(scores, row, scratch);
  chooser.LoadBias(scores.selection_bias);
  AwaitEarlierKernels();
  chooser.Choose(chosen.experts + row * chosen.used, chosen.weights + row * chosen.used);
}

template <int kPerLane>
void Launch(const RouterScores& scores, const ChosenExperts& chosen, cudaStream_t stream) {
  const size_t bytes = ExpertChooser<kPerLane>::ScratchFloats(scores.rule) * sizeof(float);
  LaunchDependent(ChooseExpertsKernel<kPerLane>, chosen.rows, 32, bytes, stream, scores, chosen);
}

}  // namespace

void ChooseExperts(const RouterScores& scores, const ChosenExperts& chosen, cudaStream_t stream) {
  if (chosen.rows <= 0) return;
  const int experts = scores.rule.experts;
  if (experts <= 64) {
    Launch<2>(scores, chosen, stream);
  } else if (experts <= 128) {
    Launch<4>(scores, chosen, stream);
  } else if (experts <= 256) {
    Launch<8>(scores, chosen, stream);
  } else if (experts <= 512) {
    Launch<16>(scores, chosen, stream);
  } else {
    Launch<kMaxExperts / 32>(scores, chosen, stream);
  }
}

}  // namespace gguf_offload::cuda
