// Guesses which experts the next layer will be asked for and has the cache fetch them early: that
// layer's router is applied to the residual stream before the chosen experts of this layer and the
// attention of the next, which change it a little only.
//
//   compute stream  Join | Begin | Fetch | experts, next attention, next router | Join ...
//   its own stream          `- norm, router, choice -.                          |
//   cache's stream  fetch of the experts ------------'- fetch of the guess -----'
//
// The guess is fetched behind what this layer has to wait for, never beside it, and as much of it
// as `most_bytes` allow, the most likely first.
#ifndef COMPUTED_RUNTIME_CUDA_EXPERT_PREDICTOR_H_
#define COMPUTED_RUNTIME_CUDA_EXPERT_PREDICTOR_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "computed/runtime/backend.h"
#include "computed/runtime/cuda/device_arena.h"
#include "computed/runtime/cuda/expert_cache.h"
#include "computed/runtime/tensor.h"
#include "kernels/matmul/matmul_cuda.h"
#include "kernels/moe/expert_cache_cuda.h"
#include "kernels/moe/router_cuda.h"

namespace gguf_offload {

struct ExpertPredictorConfig {
  int rows = 0;  // most rows of a step that experts are guessed for
  int64_t embedding = 0;
  int experts = 0;  // of a layer
  int used = 0;     // by a token
};

// What it queues is captured along with the compute stream, if that is from Begin to the Join
// behind it. Not thread safe.
class ExpertPredictor {
 public:
  // Bytes of device memory.
  static uint64_t WorkspaceBytes(const ExpertPredictorConfig& config);
  // At most `most_bytes` of experts are fetched early for a layer in a step.
  static absl::StatusOr<std::unique_ptr<ExpertPredictor>> Create(
      const ExpertPredictorConfig& config, uint64_t most_bytes, DeviceArena& arena);
  ~ExpertPredictor();
  ExpertPredictor(const ExpertPredictor&) = delete;
  ExpertPredictor& operator=(const ExpertPredictor&) = delete;

  // How the layer behind the next one that calls Begin chooses its experts.
  void Expect(const ExpertRoute& route) { expected_.emplace(route); }
  // Forgets what was expected, at the beginning of a step.
  void Forget() { expected_.reset(); }

  // Begins to guess the experts of the layer behind `layer`, from `residual` (rows, embedding),
  // which must not change before Fetch. False, and there must be no Fetch, if they are not in the
  // cache, nothing is known about them or the rows are too many.
  // positions: (rows) device memory; negative: a row without a token.
  bool Begin(int layer, const Matrix& residual, const int32_t* positions, cudaStream_t compute);
  // Fetches the guess behind what `cache` has begun to fetch.
  void Fetch(const ExpertCache& cache, cudaStream_t compute);
  // What is queued on `compute` from here on finds what was guessed in its slots.
  void Join(cudaStream_t compute);

 private:
  struct Workspace;

  ExpertPredictor(const ExpertPredictorConfig& config, uint64_t most_bytes)
      : config_(config), most_bytes_(most_bytes) {}
  absl::Status Allocate(DeviceArena& arena);

  const ExpertPredictorConfig config_;
  const uint64_t most_bytes_;
  // Null where Create failed half way.
  cudaStream_t stream_ = nullptr;
  cudaEvent_t known_ = nullptr;       // on the compute stream: the residual stream is
  cudaEvent_t read_ = nullptr;        // on stream_: it has been read
  cudaEvent_t guessed_at_ = nullptr;  // on stream_: the guess is known
  cudaEvent_t fetched_ = nullptr;     // on the cache's stream: the guess is there

  std::unique_ptr<cuda::MatMul> matmul_;
  Matrix normed_;               // (rows, embedding)
  Matrix logits_;               // (rows, experts)
  cuda::ChosenExperts chosen_;  // (rows, used); its rows are the last guess's
  cuda::ExpertFills fills_;

  std::optional<ExpertRoute> expected_;
  std::optional<ExpertRoute> guessed_;  // between Begin and Fetch
  bool fetching_ = false;               // between Fetch and Join
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_EXPERT_PREDICTOR_H_
