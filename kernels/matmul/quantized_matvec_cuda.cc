#include "kernels/matmul/quantized_matvec_cuda.h"

#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/matmul/paired_matvec_cuda.h"
#include "kernels/quant/visit_type.h"

namespace gguf_offload::cuda {

// Instantiated in quantized_matvec_*.cu.
template <quant::TensorType kType>
void LaunchQuantizedMatVec(const MatVecLaunch& launch, int64_t blocks, const QuantizedRows& x,
                           cudaStream_t stream);

namespace {

using quant::TensorType;
using Launcher = void (*)(const MatVecLaunch&, int64_t, const QuantizedRows&, cudaStream_t);

// Elements of a row that a warp of the kernel takes at a time.
constexpr int kChunkElements = 1024;

Launcher FindLauncher(TensorType type) {
  Launcher launcher = nullptr;
  quant::VisitQuantizedType(
      type, [&]<class Type>(Type) { launcher = &LaunchQuantizedMatVec<Type::kType>; });
  return launcher;
}

}  // namespace

bool IsQuantizedMatVecType(TensorType type) { return FindLauncher(type) != nullptr; }

void QuantizedMatVec(TensorType type, std::span<const MatVecMatrix> matrices, int64_t cols,
                     const QuantizedRows& x, int n, cudaStream_t stream) {
  if (IsPairedMatVec(type, matrices, cols)) return PairedMatVec(type, matrices, cols, x, n, stream);
  MatVecLaunch launch{};
  const int64_t blocks = PlanMatVec(matrices, cols, n, kChunkElements, launch);
  if (blocks > 0) FindLauncher(type)(launch, blocks, x, stream);
}

}  // namespace gguf_offload::cuda
