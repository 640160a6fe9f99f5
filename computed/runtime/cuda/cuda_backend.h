// The backend for NVIDIA GPUs.
//
// All memory comes from an arena whose size Plan computes beforehand. Operations go to the device's
// compute stream. In steps in which every sequence has one row (decoding), each stretch is recorded
// as a CUDA graph and replayed from then on; the number of rows is rounded up, so that there are
// few graphs.
#ifndef COMPUTED_RUNTIME_CUDA_CUDA_BACKEND_H_
#define COMPUTED_RUNTIME_CUDA_CUDA_BACKEND_H_

#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "computed/runtime/backend.h"
#include "computed/runtime/cuda/cuda_device.h"
#include "computed/runtime/cuda/device_arena.h"
#include "computed/runtime/cuda/expert_cache.h"
#include "computed/runtime/cuda/expert_predictor.h"
#include "computed/runtime/cuda/lane_clock.h"
#include "computed/runtime/cuda/step_inputs.h"
#include "kernels/attention/attention_cuda.h"
#include "kernels/matmul/head_matmul_cuda.h"
#include "kernels/matmul/matmul_cuda.h"
#include "kernels/moe/expert_feed_forward_cuda.h"
#include "kernels/ops/argmax_cuda.h"
#include "kernels/ops/read_ahead.h"
#include "kernels/ops/rope_cuda.h"

namespace gguf_offload {

struct CudaBackendConfig {
  KvShape kv;
  int kv_pages = 0;
  int heads = 0;
  int64_t max_columns = 0;  // of any matrix
  int max_rows = 0;         // of a step
  int max_logit_rows = 0;
  int max_sequences = 0;
  cuda::Precision precision = cuda::Precision::kInt8;
  uint64_t weight_scratch_bytes = 0;            // where weights are expanded
  const cuda::CublasLibrary* cublas = nullptr;  // may be null in 8-bit precision
  cuda::ExpertFeedForwardConfig experts;        // none if there are no experts
  // Bytes of experts that are fetched early for a layer in a step; 0: none are predicted.
  uint64_t predict_experts = 0;
};

class CudaBackend : public Backend {
 public:
  // Bytes of device memory by purpose, but for those of AllocateMatrix.
  static std::vector<std::pair<std::string, uint64_t>> Plan(const CudaDevice& device,
                                                            const CudaBackendConfig& config);
  static uint64_t MatrixBytes(int rows, int64_t columns);

  // The arguments must outlive the backend.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(const CudaDevice& device,
                                                             const CudaBackendConfig& config,
                                                             DeviceArena& arena);
  ~CudaBackend() override;

  // Called while the host waits for a step anyway.
  void set_idle_work(std::function<void()> work) { idle_work_ = std::move(work); }
  // Counts the uses of experts and has those that weights call cached; needed for models with
  // experts, and must outlive the steps.
  void set_expert_cache(ExpertCache* cache) { expert_cache_ = cache; }
  // Stretches, as they were on the compute stream; detail: the stretch.
  LaneClock& compute_clock() { return compute_clock_; }

  absl::string_view name() const override { return "cuda"; }
  bool asynchronous() const override { return true; }
  absl::StatusOr<Matrix> AllocateMatrix(int rows, int64_t columns,
                                        absl::string_view purpose) override;
  absl::Status AllocateKvCache(const KvShape& shape, int pages) override;
  uint64_t kv_cache_bytes() const override { return kv_bytes_; }
  uint64_t activation_bytes() const override { return activation_bytes_; }
  absl::Status AddRope(const RopeFrequencies& frequencies) override;

  void BeginStep(const StepBatch& batch) override;
  void Run(int index, absl::FunctionRef<void()> operations) override;
  void Embed(const Weight& table, Matrix out) override;
  void RmsNorm(Matrix x, const Weight& weight, float epsilon, Matrix out) override;
  void RmsNormBoth(Matrix first, const Weight& first_weight, Matrix second,
                   const Weight& second_weight, float epsilon) override;
  void AddRmsNorm(Matrix residual, Matrix x, const Weight& weight, float epsilon,
                  Matrix out) override;
  void Add(Matrix residual, Matrix x) override;
  void Project(Matrix input, std::span<const Projection> projections) override;
  void RotateAndStore(int layer, Matrix query, Matrix key, Matrix value,
                      const RotarySpec& spec) override;
  void ProjectHeads(HeadSlice input, const HeadWeights& weight, HeadSlice out) override;
  void ProjectHeadsTransposed(HeadSlice input, const HeadWeights& weight, HeadSlice out) override;
  void RotateAndStoreLatent(int layer, HeadSlice query, HeadSlice rotated, Matrix key,
                            const LatentRotarySpec& spec) override;
  void ReadSoon(const Weight& weight) override;
  void Attention(int layer, Matrix query, const AttentionSpec& spec, Matrix out) override;
  void ProjectGated(Matrix input, const Projection& gate, const Projection& up) override;
  void ChooseExperts(Matrix logits, const Weight& selection_bias, const RoutingRule& rule) override;
  void PredictExperts(const ExpertRoute& route) override;
  void FetchExperts(const ExpertBank& bank) override;
  void ReadAfterExperts(const Weight& weight) override;
  void AddExperts(Matrix residual, Matrix x, const ExpertBank& bank) override;
  void AddGated(Matrix residual, Matrix x, Matrix gate) override;
  void GatherLogitRows(Matrix x, Matrix out) override;
  void ArgMax(Matrix logits) override;
  void FetchLogits(Matrix logits) override;
  absl::Status Synchronize() override;
  int32_t LargestOf(int row) override { return largest_[row]; }
  std::span<float> HostRow(int row) override;

 private:
  // A table of rotations and its angles for the positions of the step.
  struct Rotation {
    const RopeFrequencies* frequencies;
    double* radians;  // (pairs)
    float2* angles;   // (max_rows, pairs)
  };

  CudaBackend(const CudaDevice& device, const CudaBackendConfig& config, DeviceArena& arena)
      : device_(device),
        config_(config),
        arena_(arena),
        stream_(device.compute_stream()),
        compute_clock_(device.compute_stream()) {}
  absl::Status Allocate();
  static cuda::MatMulConfig MatMulConfigOf(const CudaBackendConfig& config);

  // What begins a step on the GPU: its inputs and the angles of its positions.
  void RunPrologue();
  // Rows that an operation on `rows` rows works on: more, if the step's are padded.
  int Padded(int rows) const { return padded_rows_ > 0 ? padded_rows_ : rows; }
  // Where the producer of `out` may write its 8-bit form, for the Project that follows.
  cuda::QuantizedRows QuantizedFormOf(const Matrix& out);
  // Some operations are put off until it is known whether another follows that then does both: a
  // product and an Add of it, an Add and the norm of the sum, a rotation and attention, a choice of
  // experts and their fetch. An operation that is none of the others' followers runs them first.
  void RunPending();
  // The norm of few rows is put off, too: products of 8-bit activations take it from the matmul's
  // memory without its last step, which is theirs. If others want it, it is computed.
  void RunDeferredNorm();
  void PrepareInput(Matrix input, std::span<const Projection> projections);
  bool NormProduct(Matrix residual, Matrix x, const Weight& weight, float epsilon, Matrix out);
  bool CanDeferNorm(const Matrix& out) const {
    return matmul_->CanDeferNorm(Padded(static_cast<int>(out.rows)), out.columns);
  }
  const Rotation& RotationOf(const RopeFrequencies& frequencies) const;
  cuda::HeadMatrices HeadMatricesOf(const HeadWeights& weight, int heads) const;
  void LatentAttention(const cuda::AttentionRows& rows, const cuda::KvLayer& cache,
                       const cuda::AttentionSpec& spec);
  void Check(const char* error);

  const CudaDevice& device_;
  const CudaBackendConfig config_;
  DeviceArena& arena_;
  const cudaStream_t stream_;
  LaneClock compute_clock_;
  std::function<void()> idle_work_;

  std::unique_ptr<StepInputs> inputs_;
  std::unique_ptr<cuda::MatMul> matmul_;
  std::unique_ptr<cuda::ExpertFeedForward> experts_;  // null if there are none
  ExpertCache* expert_cache_ = nullptr;
  std::unique_ptr<ExpertPredictor> predictor_;  // null if none are predicted
  cuda::ChosenExperts chosen_;                  // (max_rows, used); its rows are the last choice's
  std::vector<cuda::KvLayer> kv_layers_;
  uint64_t kv_bytes_ = 0;
  uint64_t activation_bytes_ = 0;
  std::vector<Rotation> rotations_;
  cuda::DecodeWorkspace decode_workspace_;
  cuda::ArgMaxCell* argmax_cells_ = nullptr;  // (max_logit_rows)
  int32_t* largest_ = nullptr;                // (max_logit_rows), mapped host memory
  int32_t* largest_on_device_ = nullptr;      // its device address
  float* host_logits_ = nullptr;              // (max_logit_rows, vocabulary), pinned
  uint64_t host_logits_bytes_ = 0;
  int64_t host_logits_columns_ = 0;

  // A stretch of a shape is run as it is the first time, which loads its kernels, recorded the
  // second time and replayed from then on.
  struct Recording {
    bool seen = false;
    cudaGraphExec_t graph = nullptr;
  };
  std::map<std::pair<int, int>, Recording> recordings_;  // by stretch and rows

  // Of the step in progress.
  const StepBatch* batch_ = nullptr;
  int64_t step_ = 0;
  bool at_start_ = false;  // no stretch has run
  StepShape shape_;
  int padded_rows_ = 0;               // 0: this step is not recorded
  const float* quantized_ = nullptr;  // the matrix whose 8-bit form the matmul has
  bool fetching_ = false;             // FetchExperts has begun what AddExperts needs
  struct {
    Matrix residual;
    Matrix x;
  } pending_add_;  // none if residual.data is null
  struct PendingProduct {
    Matrix input;  // whose 8-bit form the matmul has
    cuda::MatMulOutput product;
  };
  std::optional<PendingProduct> pending_product_;
  std::optional<cuda::RotateAndStore> pending_rotation_;
  std::optional<cuda::RouterScores> pending_choice_;
  cuda::ReadAhead ahead_;                       // what ReadSoon said of the next Attention
  std::vector<cuda::ReadAhead> after_experts_;  // what ReadAfterExperts said
  struct DeferredNorm {
    Matrix residual;
    Matrix x;             // is to be added before; its data may be null
    const float* weight;  // (columns)
    float epsilon;
    Matrix out;      // not written
    bool in_8_bits;  // x has been added, and the matmul holds the norm
  };
  std::optional<DeferredNorm> deferred_norm_;
  std::string error_;  // the first one
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CUDA_CUDA_BACKEND_H_
