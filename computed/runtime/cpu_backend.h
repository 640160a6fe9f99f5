// The backend for machines without a GPU, and the oracle of the others: SIMD kernels on a pool of
// threads, ordinary memory.
//
// Every row's result is bit-identical whatever other rows are in the step and whatever the number
// of threads.
#ifndef COMPUTED_RUNTIME_CPU_BACKEND_H_
#define COMPUTED_RUNTIME_CPU_BACKEND_H_

#include <atomic>
#include <memory>
#include <vector>

#include "computed/prefetch/host_expert_cache.h"
#include "computed/runtime/backend.h"
#include "computed/runtime/host_buffer.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/kv_cache.h"
#include "kernels/matmul/head_matmul.h"
#include "kernels/matmul/matmul.h"
#include "kernels/moe/expert_feed_forward.h"
#include "kernels/moe/router.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

class CpuBackend : public Backend {
 public:
  // `threads` >= 1.
  CpuBackend(int threads, ActivationType activations);

  // Where experts are that weights call cached; must outlive the steps. From then on uses of
  // experts are counted.
  void set_expert_cache(HostExpertCache* cache);
  // (experts) Tokens that went to each of a layer's experts; wraps around. Any thread may ask.
  std::vector<uint32_t> ExpertUses(int layer) const;

  absl::string_view name() const override { return "cpu"; }
  bool asynchronous() const override { return false; }
  absl::StatusOr<Matrix> AllocateMatrix(int rows, int64_t columns,
                                        absl::string_view purpose) override;
  absl::Status AllocateKvCache(const KvShape& shape, int pages) override;
  uint64_t kv_cache_bytes() const override { return kv_memory_.size(); }
  uint64_t activation_bytes() const override { return activation_bytes_; }

  absl::Status AddRope(const RopeFrequencies& frequencies) override { return absl::OkStatus(); }
  void BeginStep(const StepBatch& batch) override;
  void Run(int index, absl::FunctionRef<void()> operations) override { operations(); }
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
  void Attention(int layer, Matrix query, const AttentionSpec& spec, Matrix out) override;
  void ProjectGated(Matrix input, const Projection& gate, const Projection& up) override;
  void ChooseExperts(Matrix logits, const Weight& selection_bias, const RoutingRule& rule) override;
  void AddExperts(Matrix residual, Matrix x, const ExpertBank& bank) override;
  void AddGated(Matrix residual, Matrix x, Matrix gate) override;
  void GatherLogitRows(Matrix x, Matrix out) override;
  void ArgMax(Matrix logits) override { logits_ = logits; }
  void FetchLogits(Matrix logits) override { logits_ = logits; }
  absl::Status Synchronize() override { return status_; }
  int32_t LargestOf(int row) override;
  std::span<float> HostRow(int row) override {
    return {logits_.data + row * logits_.stride, static_cast<size_t>(logits_.columns)};
  }

 private:
  const ActivationType activations_;
  ThreadPool pool_;
  MatMul matmul_;
  HeadMatMul head_matmul_;
  AttentionWorkspace attention_workspace_;
  Router router_;
  ExpertFeedForward experts_;

  std::vector<HostBuffer> activation_memory_;
  uint64_t activation_bytes_ = 0;
  HostBuffer kv_memory_;
  std::vector<KvLayer> kv_layers_;

  HostExpertCache* expert_cache_ = nullptr;
  std::unique_ptr<std::atomic<uint32_t>[]> expert_uses_;  // (layers, experts)

  void CountUses(int layer, const ChosenExperts& chosen);
  // Brings the experts of `chosen`, and points `experts` at them.
  absl::Status FetchExperts(int layer, const ChosenExperts& chosen,
                            ExpertFeedForward::Experts& experts);
  void ComputeAngles(const RopeFrequencies& frequencies);
  void Rotate(Matrix x, const Weight& norm, const RotarySpec& spec);

  // Of the step in progress.
  const StepBatch* batch_ = nullptr;
  std::vector<SequenceRows> sequences_;
  RopeAngles angles_;
  const RopeFrequencies* angles_of_ = nullptr;  // whose angles `angles_` holds
  Matrix logits_;
  std::vector<MatMulOutput> outputs_;  // scratch of Project
  absl::Status status_;                // why experts could not be fetched
  // Scratch of FetchExperts.
  std::vector<int32_t> wanted_;
  std::vector<const uint8_t*> entries_;      // (wanted)
  std::vector<const uint8_t*> matrices_[3];  // (experts) of which those that are wanted are set
};

}  // namespace gguf_offload

#endif  // COMPUTED_RUNTIME_CPU_BACKEND_H_
