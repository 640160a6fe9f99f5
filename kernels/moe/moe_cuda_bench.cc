// Prints the time of a layer's experts on the GPU, in a graph, for the shapes of Qwen3-30B-A3B and
// DeepSeek-R1 with Q4_K experts.
//
// Decoding: the router, the feed-forward with all experts in GPU memory (GB/s of the experts'
// bytes, beside the device's copy bandwidth of the same run), and the cache that finds all, or
// none, of the experts in its slots (GB/s over the link, beside that of pinned copies). Prompts:
// the feed-forward of many tokens, by TFLOP/s and by the time that their bank takes over the link.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/matmul/quantize_rows_cuda.h"
#include "kernels/moe/expert_cache_cuda.h"
#include "kernels/moe/expert_feed_forward_cuda.h"
#include "kernels/moe/router_cuda.h"
#include "kernels/ops/graph_timer_for_bench.h"

namespace gguf_offload::cuda {
namespace {

struct Model {
  const char* name;
  RoutingRule rule;
  int64_t dim, width;
  int layers;  // that are measured, each with a bank of its own
};

const Model kModels[] = {
    {"Qwen3-30B-A3B", {.experts = 128, .used = 8, .normalize = true}, 2048, 768, 8},
    {"DeepSeek-R1",
     {.experts = 256,
      .used = 8,
      .gating = ExpertGating::kSigmoid,
      .normalize = true,
      .scale = 2.5f,
      .groups = 8,
      .used_groups = 4},
     7168,
     2048,
     2}};

constexpr quant::TensorType kType = quant::TensorType::kQ4_K;

// Pinned memory that the GPU reads.
class Mapped {
 public:
  explicit Mapped(size_t bytes) {
    CheckCuda(cudaHostAlloc(&host_, bytes, cudaHostAllocMapped));
    std::memset(host_, 0x11, bytes);
    CheckCuda(cudaHostGetDevicePointer(&device_, host_, 0));
  }
  ~Mapped() { cudaFreeHost(host_); }
  void* host() { return host_; }
  uint8_t* device() { return static_cast<uint8_t*>(device_); }

 private:
  void* host_ = nullptr;
  void* device_ = nullptr;
};

double LinkBandwidth() {
  constexpr size_t kBytes = size_t{256} << 20;
  Mapped from(kBytes);
  DeviceArray<uint8_t> to(kBytes);
  const double microseconds = GraphMicroseconds(4, [&](int, cudaStream_t stream) {
    CheckCuda(cudaMemcpyAsync(to.data(), from.host(), kBytes, cudaMemcpyHostToDevice, stream));
  });
  return 1e-3 * kBytes / microseconds;
}

std::vector<int32_t> RandomChoice(const RoutingRule& rule, int rows, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> all(rule.experts), chosen;
  std::iota(all.begin(), all.end(), 0);
  for (int row = 0; row < rows; ++row) {
    std::shuffle(all.begin(), all.end(), random);
    chosen.insert(chosen.end(), all.begin(), all.begin() + rule.used);
  }
  return chosen;
}

// The banks of some layers and what a feed-forward works on.
class Layers {
 public:
  Layers(const Model& model, int rows)
      : model_(model),
        rows_(rows),
        expert_bytes_(model.width * quant::RowBytes(quant::FormatOf(kType), model.dim)),
        banks_(3 * expert_bytes_ * model.rule.experts * model.layers),
        x_(std::vector<float>(rows * model.dim, 0.1f)),
        out_(std::vector<float>(rows * model.dim, 0.0f)),
        weights_(std::vector<float>(rows * model.rule.used, 0.125f)),
        q_(rows * model.dim),
        scale_(rows * model.dim / 32),
        config_{.experts = model.rule.experts,
                .used = model.rule.used,
                .dim = model.dim,
                .feed_forward = model.width,
                .int8_rows = std::min(rows, 64),
                .chunk_rows = rows},
        memory_(ExpertFeedForward::WorkspaceBytes(config_)),
        feed_forward_(config_, memory_.data()) {
    CheckCuda(cudaMemset(banks_.data(), 0x11, banks_.size()));
    for (int layer = 0; layer < model.layers; ++layer) {
      chosen_.emplace_back(RandomChoice(model.rule, rows, layer));
    }
    QuantizeRows(x_.data(), model.dim, rows, quantized(), nullptr);
    CheckCuda(cudaDeviceSynchronize());
  }

  int64_t expert_bytes() const { return 3 * expert_bytes_; }  // all three matrices
  QuantizedRows quantized() { return {q_.data(), scale_.data(), model_.dim}; }

  double FeedForwardMicroseconds() {
    return GraphMicroseconds(model_.layers, [&](int layer, cudaStream_t stream) {
      uint8_t* bank = banks_.data() + layer * expert_bytes() * model_.rule.experts;
      const int64_t matrix = expert_bytes_ * model_.rule.experts;
      const ExpertFeedForward::Experts experts = {
          .gate = {kType, model_.width, model_.dim, nullptr, bank},
          .up = {kType, model_.width, model_.dim, nullptr, bank + matrix},
          .down = {kType, model_.dim, model_.width, nullptr, bank + 2 * matrix}};
      const ChosenExperts chosen{chosen_[layer].data(), weights_.data(), rows_, model_.rule.used};
      feed_forward_.AddTo(
          out_.data(), model_.dim, x_.data(), model_.dim,
          feed_forward_.WantsQuantized(rows_, experts) ? quantized() : QuantizedRows(), chosen,
          experts, stream);
    });
  }

 private:
  const Model& model_;
  const int rows_;
  const int64_t expert_bytes_;  // of one matrix
  DeviceArray<uint8_t> banks_;
  DeviceArray<float> x_, out_, weights_;
  DeviceArray<int8_t> q_;
  DeviceArray<float2> scale_;
  std::vector<DeviceArray<int32_t>> chosen_;
  const ExpertFeedForwardConfig config_;
  DeviceArray<uint8_t> memory_;
  const ExpertFeedForward feed_forward_;
};

void BenchRouter(const Model& model, int rows) {
  DeviceArray<float> logits(std::vector<float>(rows * model.rule.experts, 0.5f));
  DeviceArray<float> weights(rows * model.rule.used);
  DeviceArray<int32_t> experts(rows * model.rule.used);
  const double microseconds = GraphMicroseconds(50, [&](int, cudaStream_t stream) {
    ChooseExperts({logits.data(), model.rule.experts, nullptr, nullptr, model.rule},
                  {experts.data(), weights.data(), rows, model.rule.used}, stream);
  });
  std::printf("%-14s router, %d rows: %.2f us\n", model.name, rows, microseconds);
}

// A cache of 64 slots, with choices that are all there or none of them.
void BenchCache(const Model& model, int64_t expert_bytes, double link) {
  constexpr int kSlots = 64;
  const int experts = model.rule.experts, used = model.rule.used;
  const int64_t matrix = expert_bytes / 3, part = ExpertSlotBytes(matrix);
  Mapped bank(expert_bytes * experts);
  DeviceArray<uint8_t> slots(3 * part * kSlots);
  DeviceArray<int32_t> owner(std::vector<int32_t>(kSlots, -1));
  DeviceArray<int32_t> slot_of(std::vector<int32_t>(experts, -1)), count(1), begun(kMaxFillParts);
  DeviceArray<unsigned long long> last_use(std::vector<unsigned long long>(kSlots, 0));
  DeviceArray<unsigned long long> clock(std::vector<unsigned long long>(1, 0));
  DeviceArray<ExpertFill> fills(kSlots);
  DeviceArray<ExpertCounts> counts(std::vector<ExpertCounts>(1));
  const ExpertPool pool{kSlots, owner.data(), last_use.data(), clock.data(), slot_of.data()};
  const ExpertSource sources[3] = {{bank.device(), matrix, 0},
                                   {bank.device() + matrix * experts, matrix, part},
                                   {bank.device() + 2 * matrix * experts, matrix, 2 * part}};
  for (const bool hits : {true, false}) {
    // Going round all experts, a few at a time, never meets one that is still there.
    std::vector<int32_t> order(experts);
    for (int i = 0; i < experts; ++i) order[i] = hits ? i % used : i;
    DeviceArray<int32_t> chosen(order);
    const int calls = experts / used;
    const double microseconds = GraphMicroseconds(calls, [&](int call, cudaStream_t stream) {
      const ExpertFills list{fills.data(), count.data(), begun.data()};
      ResolveExperts({chosen.data() + call * used, nullptr, 1, used}, nullptr, pool, 0, experts,
                     list, counts.data(), expert_bytes, stream);
      FillSlots(list, {.end = used}, sources, slots.data(), 3 * part, stream);
    });
    if (hits) {
      std::printf("%-14s cache, all found: %.2f us\n", model.name, microseconds);
    } else {
      const double speed = 1e-3 * used * expert_bytes / microseconds;
      std::printf("%-14s cache, %d of %.2f MB fetched: %.1f us, %.1f GB/s (%.0f %% of the link)\n",
                  model.name, used, 1e-6 * expert_bytes, microseconds, speed, 100 * speed / link);
    }
  }
}

void Bench(const Model& model, double memory, double link) {
  BenchRouter(model, 1);
  BenchRouter(model, 2048);
  int64_t expert_bytes = 0;
  for (int rows : {1, 2, 8, 32, 64, 512, 2048}) {
    Layers layers(model, rows);
    expert_bytes = layers.expert_bytes();
    const double microseconds = layers.FeedForwardMicroseconds();
    if (rows <= 2) {
      const double speed = 1e-3 * rows * model.rule.used * expert_bytes / microseconds;
      std::printf("%-14s experts, %d rows: %.1f us, %.0f GB/s (%.0f %% of copies)\n", model.name,
                  rows, microseconds, speed, 100 * speed / memory);
    } else {
      const double flops = 6.0 * rows * model.rule.used * model.dim * model.width;
      std::printf("%-14s experts, %d rows: %.0f us, %.0f TFLOP/s; the bank's copy %.0f us\n",
                  model.name, rows, microseconds, 1e-6 * flops / microseconds,
                  1e-3 * expert_bytes * model.rule.experts / link);
    }
  }
  BenchCache(model, expert_bytes, link);
}

}  // namespace
}  // namespace gguf_offload::cuda

int main() {
  using namespace gguf_offload::cuda;
  const double memory = CopyBandwidth(), link = LinkBandwidth();
  std::printf("device copies %.0f GB/s, pinned copies to the device %.1f GB/s\n", memory, link);
  for (const Model& model : kModels) Bench(model, memory, link);
}
