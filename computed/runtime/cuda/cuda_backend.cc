#include "computed/runtime/cuda/cuda_backend.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/attention/latent_attention_cuda.h"
#include "kernels/ops/rope_cuda.h"

namespace gguf_offload {
namespace {

// Tables of rotations that a model may have.
constexpr int kMaxRotations = 2;

StepInputs::Limits LimitsOf(const CudaBackendConfig& config) {
  return {.rows = config.max_rows,
          .logit_rows = config.max_logit_rows,
          .sequences = config.max_sequences,
          .kv_pages = config.kv_pages};
}

uint64_t LayerKeyBytes(const KvShape& shape, int pages) {
  return DeviceArena::Rounded(uint64_t{2} * pages * shape.kv_heads * cuda::kPageTokens *
                              shape.key_dim);
}
uint64_t LayerValueBytes(const KvShape& shape, int pages) {
  if (shape.values_in_keys) return 0;
  return DeviceArena::Rounded(uint64_t{2} * pages * shape.kv_heads * cuda::kPageTokens *
                              shape.value_dim);
}

// The largest that any number of decoding sequences needs.
uint64_t PartialBytes(const CudaDevice& device, const CudaBackendConfig& config) {
  size_t floats = 0;
  for (int rows = 1; rows <= config.max_sequences; ++rows) {
    if (config.kv.values_in_keys) {
      const cuda::DecodeSplits splits =
          cuda::ChooseLatentSplits(rows, config.heads, device.multiprocessors());
      floats = std::max(floats,
                        cuda::LatentPartialFloats(rows, config.heads, config.kv.value_dim, splits));
      continue;
    }
    const cuda::DecodeSplits splits =
        cuda::ChooseDecodeSplits(rows, config.heads, config.kv.kv_heads, device.multiprocessors());
    floats = std::max(floats,
                      cuda::DecodePartialFloats(rows, config.heads, config.kv.value_dim, splits));
  }
  return DeviceArena::Rounded(floats * sizeof(float));
}

uint64_t CounterBytes(const CudaBackendConfig& config) {
  return DeviceArena::Rounded(sizeof(unsigned int) * config.max_sequences * config.heads);
}
uint64_t ArgMaxBytes(const CudaBackendConfig& config) {
  return DeviceArena::Rounded(sizeof(cuda::ArgMaxCell) * config.max_logit_rows);
}
uint64_t ChoiceBytes(const CudaBackendConfig& config) {
  return DeviceArena::Rounded(sizeof(int32_t) * config.max_rows * config.experts.used);
}
uint64_t ExpertBytes(const CudaBackendConfig& config) {
  return DeviceArena::Rounded(cuda::ExpertFeedForward::WorkspaceBytes(config.experts)) +
         2 * ChoiceBytes(config);
}
// Experts are predicted for steps that the cache takes.
ExpertPredictorConfig PredictorConfigOf(const CudaBackendConfig& config) {
  return {.rows = std::min(config.max_rows, kMostSingleExpertTokens),
          .embedding = config.experts.dim,
          .experts = config.experts.experts,
          .used = config.experts.used};
}
uint64_t RadiansBytes(const CudaBackendConfig& config) {
  return DeviceArena::Rounded(sizeof(double) * config.kv.key_dim / 2);
}
uint64_t AnglesBytes(const CudaBackendConfig& config) {
  return DeviceArena::Rounded(sizeof(float2) * config.max_rows * config.kv.key_dim / 2);
}

}  // namespace

cuda::MatMulConfig CudaBackend::MatMulConfigOf(const CudaBackendConfig& config) {
  return {.precision = config.precision,
          .max_rows = config.max_rows,
          .max_cols = config.max_columns,
          .weight_scratch_bytes = config.weight_scratch_bytes,
          .cublas = config.cublas};
}

std::vector<std::pair<std::string, uint64_t>> CudaBackend::Plan(const CudaDevice& device,
                                                                const CudaBackendConfig& config) {
  std::vector<std::pair<std::string, uint64_t>> plan = {
      {"kv cache", config.kv.layers * (LayerKeyBytes(config.kv, config.kv_pages) +
                                       LayerValueBytes(config.kv, config.kv_pages))},
      {"matrix products",
       DeviceArena::Rounded(cuda::MatMul::WorkspaceBytes(MatMulConfigOf(config)))},
      {"attention", PartialBytes(device, config) + CounterBytes(config)},
      {"step inputs", StepInputs::DeviceBytes(LimitsOf(config)) + ArgMaxBytes(config) +
                          kMaxRotations * (RadiansBytes(config) + AnglesBytes(config))},
  };
  if (config.experts.experts > 0) plan.emplace_back("products of experts", ExpertBytes(config));
  if (config.predict_experts > 0) {
    plan.emplace_back("prediction of experts",
                      ExpertPredictor::WorkspaceBytes(PredictorConfigOf(config)));
  }
  return plan;
}

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(const CudaDevice& device,
                                                                 const CudaBackendConfig& config,
                                                                 DeviceArena& arena) {
  std::unique_ptr<CudaBackend> backend(new CudaBackend(device, config, arena));
  absl::Status status = backend->Allocate();
  if (status.ok()) status = backend->AllocateKvCache(config.kv, config.kv_pages);
  if (!status.ok()) return status;
  return backend;
}

absl::Status CudaBackend::Allocate() {
  absl::StatusOr<std::unique_ptr<StepInputs>> inputs =
      StepInputs::Create(LimitsOf(config_), arena_);
  if (!inputs.ok()) return inputs.status();
  inputs_ = *std::move(inputs);

  const cuda::MatMulConfig matmul = MatMulConfigOf(config_);
  absl::StatusOr<uint8_t*> memory =
      arena_.Take(cuda::MatMul::WorkspaceBytes(matmul), "matrix products");
  if (!memory.ok()) return memory.status();
  std::string error;
  matmul_ = cuda::MatMul::Create(matmul, *memory, error);
  if (matmul_ == nullptr) return absl::FailedPreconditionError(error);

  if (config_.experts.experts > 0) {
    memory = arena_.Take(ExpertBytes(config_), "products of experts");
    if (!memory.ok()) return memory.status();
    chosen_ = {.experts = reinterpret_cast<int32_t*>(*memory),
               .weights = reinterpret_cast<float*>(*memory + ChoiceBytes(config_)),
               .used = config_.experts.used};
    experts_ = std::make_unique<cuda::ExpertFeedForward>(config_.experts,
                                                         *memory + 2 * ChoiceBytes(config_));
  }
  if (config_.predict_experts > 0) {
    absl::StatusOr<std::unique_ptr<ExpertPredictor>> predictor =
        ExpertPredictor::Create(PredictorConfigOf(config_), config_.predict_experts, arena_);
    if (!predictor.ok()) return predictor.status();
    predictor_ = *std::move(predictor);
  }

  const uint64_t partial_bytes = PartialBytes(device_, config_);
  const uint64_t zero_bytes = CounterBytes(config_) + ArgMaxBytes(config_);
  memory = arena_.Take(partial_bytes + zero_bytes, "attention");
  if (!memory.ok()) return memory.status();
  decode_workspace_.partials = reinterpret_cast<float*>(*memory);
  uint8_t* const zeros = *memory + partial_bytes;
  decode_workspace_.counters = reinterpret_cast<unsigned int*>(zeros);
  argmax_cells_ = reinterpret_cast<cuda::ArgMaxCell*>(zeros + CounterBytes(config_));
  absl::Status status =
      CudaStatus(cudaMemsetAsync(zeros, 0, zero_bytes, stream_), "clearing counters");
  if (!status.ok()) return status;

  void* largest = nullptr;
  status = CudaStatus(
      cudaHostAlloc(&largest, config_.max_logit_rows * sizeof(int32_t), cudaHostAllocMapped),
      "pinned memory for results");
  if (!status.ok()) return status;
  largest_ = static_cast<int32_t*>(largest);
  void* mapped = nullptr;
  status = CudaStatus(cudaHostGetDevicePointer(&mapped, largest, 0), "a device address");
  largest_on_device_ = static_cast<int32_t*>(mapped);
  return status;
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(stream_);
  for (auto& [key, recording] : recordings_) {
    if (recording.graph != nullptr) cudaGraphExecDestroy(recording.graph);
  }
  if (largest_ != nullptr) cudaFreeHost(largest_);
  if (host_logits_ != nullptr) cudaFreeHost(host_logits_);
}

uint64_t CudaBackend::MatrixBytes(int rows, int64_t columns) {
  return DeviceArena::Rounded(rows * ((columns + 15) / 16 * 16) * sizeof(float));
}

absl::StatusOr<Matrix> CudaBackend::AllocateMatrix(int rows, int64_t columns,
                                                   absl::string_view purpose) {
  absl::StatusOr<uint8_t*> memory = arena_.Take(MatrixBytes(rows, columns), purpose);
  if (!memory.ok()) return memory.status();
  activation_bytes_ += MatrixBytes(rows, columns);
  return Matrix{reinterpret_cast<float*>(*memory), rows, columns, (columns + 15) / 16 * 16};
}

absl::Status CudaBackend::AllocateKvCache(const KvShape& shape, int pages) {
  const uint64_t key_bytes = LayerKeyBytes(shape, pages);
  const uint64_t layer_bytes = key_bytes + LayerValueBytes(shape, pages);
  kv_bytes_ = shape.layers * layer_bytes;
  absl::StatusOr<uint8_t*> memory = arena_.Take(kv_bytes_, "kv cache");
  if (!memory.ok()) return memory.status();
  for (int layer = 0; layer < shape.layers; ++layer) {
    uint8_t* const keys = *memory + layer * layer_bytes;
    kv_layers_.push_back(
        {.keys = reinterpret_cast<__half*>(keys),
         .values = shape.values_in_keys ? nullptr : reinterpret_cast<__half*>(keys + key_bytes),
         .kv_heads = shape.kv_heads,
         .key_dim = static_cast<int>(shape.key_dim),
         .value_dim = static_cast<int>(shape.value_dim)});
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::AddRope(const RopeFrequencies& frequencies) {
  if (rotations_.size() == kMaxRotations) {
    return absl::UnimplementedError("more tables of rotations than the CUDA backend has room for");
  }
  absl::StatusOr<uint8_t*> memory =
      arena_.Take(RadiansBytes(config_) + AnglesBytes(config_), "rotations");
  if (!memory.ok()) return memory.status();
  Rotation rotation{.frequencies = &frequencies,
                    .radians = reinterpret_cast<double*>(*memory),
                    .angles = reinterpret_cast<float2*>(*memory + RadiansBytes(config_))};
  std::vector<double> radians;
  for (int pair = 0; pair < frequencies.pairs(); ++pair) {
    radians.push_back(frequencies.radians(pair));
  }
  rotations_.push_back(rotation);
  return CudaStatus(cudaMemcpy(rotation.radians, radians.data(), radians.size() * sizeof(double),
                               cudaMemcpyHostToDevice),
                    "copying rotations to the GPU");
}

void CudaBackend::Check(const char* error) {
  if (error_.empty() && error != nullptr) error_ = error;
}

void CudaBackend::BeginStep(const StepBatch& batch) {
  batch_ = &batch;
  ++step_;
  error_.clear();
  at_start_ = true;
  quantized_ = nullptr;
  pending_add_ = {};
  pending_product_.reset();
  pending_rotation_.reset();
  deferred_norm_.reset();
  pending_choice_.reset();
  ahead_ = {};
  after_experts_.clear();
  if (predictor_ != nullptr) predictor_->Forget();
  // Steps in which every sequence has one row and every row's logits are wanted are recorded.
  const int rows = batch.rows();
  const bool decode = rows == static_cast<int>(batch.sequences.size()) &&
                      rows == static_cast<int>(batch.logit_rows.size());
  padded_rows_ = 0;
  if (decode && rows <= config_.max_sequences) {
    padded_rows_ = 1;
    while (padded_rows_ < rows) padded_rows_ *= 2;
    padded_rows_ = std::min(padded_rows_, config_.max_sequences);
  }
  shape_ = StepInputs::ShapeOf(batch, padded_rows_);
  inputs_->Write(batch, shape_);
}

void CudaBackend::RunPrologue() {
  inputs_->Copy(stream_);
  for (const Rotation& rotation : rotations_) {
    cuda::ComputeRopeAngles(rotation.radians, rotation.frequencies->magnitude(),
                            inputs_->positions(), shape_.rows, rotation.frequencies->pairs(),
                            rotation.angles, stream_);
  }
}

void CudaBackend::Run(int index, absl::FunctionRef<void()> operations) {
  const bool first = std::exchange(at_start_, false);
  const auto run = [&] {
    if (first) RunPrologue();
    operations();
    RunPending();
    RunDeferredNorm();
    if (predictor_ != nullptr) predictor_->Join(stream_);
    quantized_ = nullptr;
  };
  Recording* const recording = padded_rows_ == 0 ? nullptr : &recordings_[{index, padded_rows_}];
  if (recording == nullptr || !recording->seen) {
    if (recording != nullptr) recording->seen = true;
    compute_clock_.Begin(step_, index);
    run();
    compute_clock_.End();
    return;
  }
  cudaGraphExec_t& graph = recording->graph;
  if (graph == nullptr) {
    cudaGraph_t recorded = nullptr;
    cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    run();
    cudaError_t error = cudaStreamEndCapture(stream_, &recorded);
    if (error == cudaSuccess) {
      error = cudaGraphInstantiate(&graph, recorded, cudaGraphInstantiateFlagUseNodePriority);
    }
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    if (error != cudaSuccess) {
      graph = nullptr;
      return Check(cudaGetErrorString(error));
    }
  }
  compute_clock_.Begin(step_, index);
  cudaGraphLaunch(graph, stream_);
  compute_clock_.End();
}

void CudaBackend::FetchLogits(Matrix logits) {
  host_logits_columns_ = logits.columns;
  for (int row = 0; row < logits.rows; ++row) {
    if (!batch_->logit_values[row]) continue;
    const uint64_t bytes = config_.max_logit_rows * logits.columns * sizeof(float);
    if (host_logits_bytes_ < bytes) {
      if (host_logits_ != nullptr) cudaFreeHost(host_logits_);
      void* memory = nullptr;
      const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
      host_logits_ = static_cast<float*>(memory);
      host_logits_bytes_ = error == cudaSuccess ? bytes : 0;
      if (error != cudaSuccess) return Check(cudaGetErrorString(error));
    }
    cudaMemcpyAsync(host_logits_ + row * logits.columns, logits.data + row * logits.stride,
                    logits.columns * sizeof(float), cudaMemcpyDeviceToHost, stream_);
  }
}

absl::Status CudaBackend::Synchronize() {
  if (idle_work_ != nullptr) idle_work_();
  absl::Status status = CudaStatus(cudaStreamSynchronize(stream_), "a step on the GPU");
  if (status.ok()) status = CudaStatus(cudaGetLastError(), "a step on the GPU");
  if (status.ok() && !error_.empty()) {
    status = absl::InternalError(absl::StrCat("a step on the GPU: ", error_));
  }
  if (expert_cache_ != nullptr) status.Update(expert_cache_->Settle(stream_));
  return status;
}

std::span<float> CudaBackend::HostRow(int row) {
  return {host_logits_ + row * host_logits_columns_, static_cast<size_t>(host_logits_columns_)};
}

}  // namespace gguf_offload
