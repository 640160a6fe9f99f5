#include "kernels/moe/expert_product_cuda.h"

#include "kernels/matmul/matvec_launch.cuh"
#include "kernels/moe/expert_launch.h"
#include "kernels/quant/visit_type.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;
using MatVecLauncher = void (*)(const ExpertMatVecLaunch&, int, const QuantizedRows&, cudaStream_t);
using MatMulLauncher = void (*)(const ExpertMatMulLaunch&, int, cudaStream_t);

MatVecLauncher FindMatVec(TensorType type) {
  MatVecLauncher launcher = nullptr;
  quant::VisitQuantizedType(type,
                            [&]<class Type>(Type) { launcher = &LaunchExpertMatVec<Type::kType>; });
  return launcher;
}

MatMulLauncher FindMatMul(TensorType type) {
  MatMulLauncher launcher = nullptr;
  quant::VisitQuantizedType(
      type, [&]<class Type>(Type) { launcher = &LaunchExpertMatMul<Type::kType, false>; });
  switch (type) {
    case TensorType::kF32:
      return &LaunchExpertMatMul<TensorType::kF32, true>;
    case TensorType::kF16:
      return &LaunchExpertMatMul<TensorType::kF16, true>;
    case TensorType::kBF16:
      return &LaunchExpertMatMul<TensorType::kBF16, true>;
    default:
      return launcher;
  }
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

bool CanMultiplyExpertsInt8(TensorType type) { return FindMatVec(type) != nullptr; }
bool CanMultiplyExpertsHalf(TensorType type) { return FindMatMul(type) != nullptr; }

void MultiplyExpertsInt8(const ExpertProducts& products, const QuantizedRows& x,
                         const ChosenExperts& chosen, const ExpertOrder& order, int tiles,
                         cudaStream_t stream) {
  const ExpertMatrices& first = products.matrices[0];
  const ExpertSum& sum = products.sum;
  const int64_t rows = sum.out != nullptr ? sum.end_row - sum.first_row : first.rows;
  if (tiles <= 0 || rows <= 0) return;
  constexpr int kChunkElements = 1024;
  ExpertMatVecLaunch launch{.products = products, .experts = chosen.experts, .order = order};
  // Not by the number of rows of x, on which results must not depend.
  launch.split = 1 << ChooseSplitBits(first.rows * products.count * chosen.used,
                                      CeilDiv(first.cols, kChunkElements));
  launch.row_blocks = static_cast<int>(CeilDiv(rows, kMatVecRows * (kMatVecWarps / launch.split)));
  launch.matrix_bytes = first.matrix_bytes();
  FindMatVec(first.type)(launch, tiles, x, stream);
}

void MultiplyExpertsHalf(const ExpertProducts& products, const __half* x, const float* row_scale,
                         const ExpertOrder& order, int tiles, cudaStream_t stream) {
  const ExpertMatrices& first = products.matrices[0];
  if (tiles <= 0 || first.rows <= 0) return;
  ExpertMatMulLaunch launch{.products = products,
                            .order = order,
                            .x = x,
                            .row_scale = row_scale,
                            .x_columns = CeilDiv(first.cols, 8) * 8};
  launch.row_blocks = static_cast<int>(CeilDiv(first.rows, kExpertMatMulRows));
  launch.row_bytes = static_cast<int64_t>(quant::RowBytes(quant::FormatOf(first.type), first.cols));
  FindMatMul(first.type)(launch, tiles, stream);
}

}  // namespace gguf_offload::cuda
