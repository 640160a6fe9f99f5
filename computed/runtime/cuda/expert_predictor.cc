#include "computed/runtime/cuda/expert_predictor.h"

#include <cassert>
#include <string>
#include <utility>

#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/moe/expert_slot.h"
#include "kernels/ops/norm_cuda.h"

namespace gguf_offload {
namespace {

// The router's product is small: no weights are expanded for it.
cuda::MatMulConfig MatMulConfigOf(const ExpertPredictorConfig& config) {
  return {.max_rows = config.rows, .max_cols = config.embedding, .cublas = nullptr};
}

int64_t StrideOf(int64_t columns) { return (columns + 15) / 16 * 16; }

}  // namespace

// The parts of the memory, as offsets into it.
struct ExpertPredictor::Workspace : ArenaLayout {
  uint64_t matmul = 0, normed = 0, logits = 0, experts = 0, weights = 0;
  uint64_t fills = 0, fill_count = 0, fills_begun = 0;

  explicit Workspace(const ExpertPredictorConfig& config) {
    const uint64_t rows = config.rows;
    matmul = Add(cuda::MatMul::WorkspaceBytes(MatMulConfigOf(config)));
    normed = Add(rows * StrideOf(config.embedding) * sizeof(float));
    logits = Add(rows * StrideOf(config.experts) * sizeof(float));
    experts = Add(rows * config.used * sizeof(int32_t));
    weights = Add(rows * config.used * sizeof(float));
    fills = Add(kMaxExpertSlots * sizeof(cuda::ExpertFill));
    fill_count = Add(sizeof(int32_t));
    fills_begun = Add(cuda::kMaxFillParts * sizeof(int32_t));
  }
};

uint64_t ExpertPredictor::WorkspaceBytes(const ExpertPredictorConfig& config) {
  return Workspace(config).bytes;
}

absl::StatusOr<std::unique_ptr<ExpertPredictor>> ExpertPredictor::Create(
    const ExpertPredictorConfig& config, uint64_t most_bytes, DeviceArena& arena) {
  std::unique_ptr<ExpertPredictor> predictor(new ExpertPredictor(config, most_bytes));
  if (absl::Status status = predictor->Allocate(arena); !status.ok()) return status;
  return predictor;
}

absl::Status ExpertPredictor::Allocate(DeviceArena& arena) {
  const Workspace layout(config_);
  absl::StatusOr<uint8_t*> memory = arena.Take(layout.bytes, "prediction of experts");
  if (!memory.ok()) return memory.status();
  const auto matrix = [&](uint64_t offset, int64_t columns) {
    return Matrix{reinterpret_cast<float*>(*memory + offset), config_.rows, columns,
                  StrideOf(columns)};
  };
  normed_ = matrix(layout.normed, config_.embedding);
  logits_ = matrix(layout.logits, config_.experts);
  chosen_ = {.experts = reinterpret_cast<int32_t*>(*memory + layout.experts),
             .weights = reinterpret_cast<float*>(*memory + layout.weights),
             .used = config_.used};
  fills_ = {.fills = reinterpret_cast<cuda::ExpertFill*>(*memory + layout.fills),
            .count = reinterpret_cast<int32_t*>(*memory + layout.fill_count),
            .begun = reinterpret_cast<int32_t*>(*memory + layout.fills_begun)};
  std::string error;
  matmul_ = cuda::MatMul::Create(MatMulConfigOf(config_), *memory + layout.matmul, error);
  if (matmul_ == nullptr) return absl::FailedPreconditionError(error);

  absl::Status status =
      CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  for (cudaEvent_t* event : {&known_, &read_, &guessed_at_, &fetched_}) {
    if (!status.ok()) break;
    status = CudaStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "an event");
  }
  return status;
}

ExpertPredictor::~ExpertPredictor() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (cudaEvent_t event : {known_, read_, guessed_at_, fetched_}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

bool ExpertPredictor::Begin(int layer, const Matrix& residual, const int32_t* positions,
                            cudaStream_t compute) {
  guessed_.reset();
  if (expected_.has_value()) guessed_.emplace(*expected_);
  expected_.reset();
  if (!guessed_.has_value() || !guessed_->gate.cached || guessed_->gate.expert_layer != layer + 1 ||
      residual.rows > config_.rows) {
    return false;
  }
  cudaEventRecord(known_, compute);
  cudaStreamWaitEvent(stream_, known_, 0);
  const Matrix normed = normed_.Rows(residual.rows);
  // Kernels write 8-bit rows in whole groups only.
  const bool quantizes = normed.columns % 32 == 0;
  const cuda::QuantizedRows quantized =
      quantizes ? matmul_->PrepareQuantized(normed.rows, normed.columns) : cuda::QuantizedRows{};
  cuda::RmsNorm(residual.data, residual.stride, guessed_->norm.floats(), guessed_->epsilon,
                normed.rows, normed.columns, normed.data, normed.stride, quantized, stream_);
  cudaEventRecord(read_, stream_);
  const Weight& router = guessed_->router;
  const cuda::MatMulOutput output = {.type = router.type,
                                     .weight = router.data,
                                     .rows = router.rows,
                                     .cols = router.columns,
                                     .bias = router.bias,
                                     .y = logits_.data,
                                     .y_stride = logits_.stride,
                                     .scale = router.scale};
  [[maybe_unused]] const char* const error =
      matmul_->Run(normed.data, normed.stride, normed.rows, quantizes, {&output, 1}, stream_);
  assert(error == nullptr);  // the plan has seen the router's type and shape
  chosen_.rows = normed.rows;
  cuda::ChooseExperts(
      {logits_.data, logits_.stride, guessed_->selection_bias.floats(), positions, guessed_->rule},
      chosen_, stream_);
  return true;
}

void ExpertPredictor::Fetch(const ExpertCache& cache, cudaStream_t compute) {
  cudaStreamWaitEvent(compute, read_, 0);
  cudaEventRecord(guessed_at_, stream_);
  cudaStreamWaitEvent(cache.fetch_stream(), guessed_at_, 0);
  cache.FetchEarly(guessed_->gate.expert_layer, chosen_, guessed_->gate, guessed_->up,
                   guessed_->down, fills_, most_bytes_);
  cudaEventRecord(fetched_, cache.fetch_stream());
  guessed_.reset();
  fetching_ = true;
}

void ExpertPredictor::Join(cudaStream_t compute) {
  if (std::exchange(fetching_, false)) cudaStreamWaitEvent(compute, fetched_, 0);
}

}  // namespace gguf_offload
