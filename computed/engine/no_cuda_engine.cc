// Stands in for cuda_engine.cc where there is no CUDA toolkit to build it with.
#include "computed/engine/engine.h"

namespace gguf_offload {

absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(WeightSource&, const Architecture&,
                                                         const ModelTensors&, const EngineOptions&,
                                                         Trace*) {
  return absl::FailedPreconditionError("this program was built without the CUDA backend");
}

bool CudaAvailable() { return false; }
bool BuiltWithCuda() { return false; }

}  // namespace gguf_offload
