// Prints the time of the small operations of a layer, in a graph, for the shapes of Qwen 3 8B and
// Qwen 2.5 0.5B, beside the device's copy bandwidth measured in the same run.
#include <cstdio>
#include <string>

#include "kernels/ops/activation_cuda.h"
#include "kernels/ops/argmax_cuda.h"
#include "kernels/ops/copy_words_cuda.h"
#include "kernels/ops/gather_cuda.h"
#include "kernels/ops/graph_timer_for_bench.h"
#include "kernels/ops/norm_cuda.h"
#include "kernels/ops/rope_cuda.h"

namespace gguf_offload::cuda {
namespace {

constexpr int kLaunches = 72;

struct Model {
  const char* name;
  int hidden, feed_forward, heads, kv_heads, head_dim, vocabulary;
  bool head_norm;
};

constexpr Model kModels[] = {{"Qwen3-8B", 4096, 12288, 32, 8, 128, 151936, true},
                             {"Qwen2.5-0.5B", 896, 4864, 14, 2, 64, 151936, false}};

class Bench {
 public:
  Bench(const Model& model, int rows, double copy_bandwidth)
      : model_(model),
        rows_(rows),
        copy_bandwidth_(copy_bandwidth),
        x_(Zeros(static_cast<size_t>(rows) * 4 * model.feed_forward)),
        y_(Zeros(static_cast<size_t>(rows) * 4 * model.feed_forward)),
        q_(static_cast<size_t>(rows) * model.feed_forward),
        scale_(static_cast<size_t>(rows) * model.feed_forward / 32) {}

  void Run() {
    const int hidden = model_.hidden, ff = model_.feed_forward;
    const QuantizedRows quantized_hidden = {q_.data(), scale_.data(), hidden};
    const QuantizedRows quantized_ff = {q_.data(), scale_.data(), ff};
    float* weight = y_.data() + static_cast<size_t>(rows_) * ff;
    Time("rms_norm + q8", hidden * 9.0, [&](int, cudaStream_t stream) {
      RmsNorm(x_.data(), hidden, weight, 1e-6f, rows_, hidden, y_.data(), hidden, quantized_hidden,
              stream);
    });
    Time("add_rms_norm + q8", hidden * 17.0, [&](int, cudaStream_t stream) {
      AddRmsNorm(x_.data(), hidden, y_.data(), hidden, weight, 1e-6f, rows_, hidden, y_.data(),
                 hidden, quantized_hidden, stream);
    });
    Time("add", hidden * 12.0, [&](int, cudaStream_t stream) {
      Add(x_.data(), hidden, y_.data(), hidden, rows_, hidden, stream);
    });
    Time("swiglu to q8 only", ff * 9.0, [&](int, cudaStream_t stream) {
      SwiGlu(x_.data(), 2 * ff, x_.data() + ff, 2 * ff, rows_, ff, nullptr, 0, quantized_ff,
             stream);
    });
    Time("swiglu", ff * 12.0, [&](int, cudaStream_t stream) {
      SwiGlu(x_.data(), 2 * ff, x_.data() + ff, 2 * ff, rows_, ff, y_.data(), ff, {}, stream);
    });
    RunRope();
    RunSelections();
  }

 private:
  static std::vector<float> Zeros(size_t n) { return std::vector<float>(n); }

  // `bytes`: read and written a row.
  template <typename Launch>
  void Time(const std::string& name, double bytes, const Launch& launch) {
    const double microseconds = GraphMicroseconds(kLaunches, launch);
    const double bandwidth = 1e-3 * bytes * rows_ / microseconds;
    std::printf("%-13s %5d rows  %-20s %8.2f us %8.1f GB/s %6.1f %%\n", model_.name, rows_,
                name.c_str(), microseconds, bandwidth, 100 * bandwidth / copy_bandwidth_);
  }

  void RunRope() {
    const int dim = model_.head_dim, pairs = dim / 2;
    std::vector<int32_t> positions(rows_), row_pages(rows_, 0), pages((rows_ + 31) / 32);
    for (int i = 0; i < rows_; ++i) positions[i] = i;
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    DeviceArray<int32_t> device_positions(positions), device_row_pages(row_pages);
    DeviceArray<int32_t> device_pages(pages);
    DeviceArray<double> radians(std::vector<double>(pairs, 0.1));
    DeviceArray<float2> angles(static_cast<size_t>(rows_) * pairs);
    DeviceArray<__half> keys(pages.size() * 32 * model_.kv_heads * dim);
    DeviceArray<__half> values(pages.size() * 32 * model_.kv_heads * dim);
    Time("rope angles", pairs * 8.0, [&](int, cudaStream_t stream) {
      ComputeRopeAngles(radians.data(), 1.0f, device_positions.data(), rows_, pairs, angles.data(),
                        stream);
    });
    RotateAndStore a;
    const int64_t stride = (model_.heads + 2 * model_.kv_heads) * dim;
    a.q = x_.data();
    a.k = x_.data() + model_.heads * dim;
    a.v = a.k + model_.kv_heads * dim;
    a.q_stride = a.k_stride = a.v_stride = stride;
    a.rows = rows_;
    a.heads = model_.heads;
    a.layer = {keys.data(), values.data(), model_.kv_heads, dim, dim};
    a.normalize = model_.head_norm;
    a.q_norm = a.k_norm = model_.head_norm ? y_.data() : nullptr;
    a.eps = 1e-6f;
    a.style = RopeStyle::kNeox;
    a.pairs = pairs;
    a.angles = angles.data();
    a.positions = device_positions.data();
    a.row_pages = device_row_pages.data();
    a.pages = device_pages.data();
    Time("rotate and store kv", (8.0 * model_.heads + 12.0 * model_.kv_heads) * dim,
         [&](int, cudaStream_t stream) { RotateAndStoreKv(a, stream); });
  }

  void RunSelections() {
    if (rows_ > 64) return;
    DeviceArray<float> logits(Zeros(static_cast<size_t>(rows_) * model_.vocabulary));
    std::vector<int32_t> order(rows_);
    for (int i = 0; i < rows_; ++i) order[i] = i;
    DeviceArray<int32_t> rows(order), best(rows_);
    DeviceArray<ArgMaxCell> cells(std::vector<ArgMaxCell>(rows_, ArgMaxCell()));
    Time("argmax", 4.0 * model_.vocabulary, [&](int, cudaStream_t stream) {
      ArgMax(logits.data(), model_.vocabulary, rows_, model_.vocabulary, best.data(), cells.data(),
             stream);
    });
    Time("gather rows", 8.0 * model_.hidden, [&](int, cudaStream_t stream) {
      GatherRows(x_.data(), model_.hidden, rows.data(), rows_, model_.hidden, y_.data(),
                 model_.hidden, stream);
    });
    constexpr int kWords = 512;
    uint32_t *host = nullptr, *mapped = nullptr;
    CheckCuda(cudaHostAlloc(reinterpret_cast<void**>(&host), 4 * kWords, cudaHostAllocMapped));
    CheckCuda(cudaHostGetDevicePointer(reinterpret_cast<void**>(&mapped), host, 0));
    DeviceArray<uint32_t> words(kWords);
    Time("512 words from host", 8.0 * kWords / rows_,
         [&](int, cudaStream_t stream) { CopyFromHost(mapped, words.data(), kWords, stream); });
    cudaFreeHost(host);
  }

  Model model_;
  int rows_;
  double copy_bandwidth_;
  DeviceArray<float> x_, y_;
  DeviceArray<int8_t> q_;
  DeviceArray<float2> scale_;
};

void Run() {
  const double copy_bandwidth = CopyBandwidth();
  std::printf("copy bandwidth %.1f GB/s\n", copy_bandwidth);
  for (const Model& model : kModels) {
    for (int rows : {1, 8, 512, 2048}) Bench(model, rows, copy_bandwidth).Run();
  }
}

}  // namespace
}  // namespace gguf_offload::cuda

int main() { gguf_offload::cuda::Run(); }
