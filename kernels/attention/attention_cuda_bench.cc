// Prints the time of attention on the GPU, in a graph, for the shapes of Qwen 3 8B and Qwen 2.5
// 0.5B.
//
// Every launch of a decode graph has a cache of its own, as every layer has, so that it is read
// from memory: gigabytes a second, beside the device's copy bandwidth measured in the same run.
// Prompts are measured by what their products would take: TFLOP/s over the causal half of them.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "kernels/attention/attention_cuda.h"
#include "kernels/attention/prefill_arguments.h"
#include "kernels/ops/graph_timer_for_bench.h"

namespace gguf_offload::cuda {
namespace {

struct Model {
  const char* name;
  int layers, heads, kv_heads, head_dim;
};

constexpr Model kModels[] = {{"Qwen3-8B", 36, 32, 8, 128}, {"Qwen2.5-0.5B", 24, 14, 2, 64}};
constexpr int kMultiprocessors = 132;

// The caches of all layers for `sequences` of `positions`, one page table for all layers.
class Caches {
 public:
  Caches(const Model& model, int sequences, int positions)
      : model_(model),
        pages_((positions + kPageTokens - 1) / kPageTokens),
        layer_elements_(static_cast<size_t>(sequences) * pages_ * kPageTokens * model.kv_heads *
                        model.head_dim),
        keys_(layer_elements_ * model.layers),
        values_(layer_elements_ * model.layers),
        page_table_(Numbers(sequences * pages_)) {
    CheckCuda(cudaMemset(keys_.data(), 0x11, keys_.size() * sizeof(__half)));
    CheckCuda(cudaMemset(values_.data(), 0x11, values_.size() * sizeof(__half)));
  }

  KvLayer Layer(int layer) {
    return {keys_.data() + layer * layer_elements_, values_.data() + layer * layer_elements_,
            model_.kv_heads, model_.head_dim, model_.head_dim};
  }
  const int32_t* page_table() { return page_table_.data(); }
  int sequence_pages() const { return pages_; }

 private:
  static std::vector<int32_t> Numbers(int n) {
    std::vector<int32_t> numbers(n);
    for (int i = 0; i < n; ++i) numbers[i] = static_cast<int32_t>(i * 7919ll % n);
    return numbers;
  }

  Model model_;
  int pages_;
  size_t layer_elements_;
  DeviceArray<__half> keys_, values_;
  DeviceArray<int32_t> page_table_;
};

// Queries, results and their 8-bit form.
class Tensors {
 public:
  Tensors(const Model& model, int n)
      : columns_(model.heads * model.head_dim),
        q_(std::vector<float>(static_cast<size_t>(n) * columns_, 0.25f)),
        out_(static_cast<size_t>(n) * columns_),
        quantized_(static_cast<size_t>(n) * columns_),
        scale_(static_cast<size_t>(n) * columns_ / 32) {}

  AttentionRows rows() {
    return {
        q_.data(), columns_, out_.data(), columns_, {quantized_.data(), scale_.data(), columns_}};
  }

 private:
  int64_t columns_;
  DeviceArray<float> q_, out_;
  DeviceArray<int8_t> quantized_;
  DeviceArray<float2> scale_;
};

AttentionSpec Spec(const Model& model) { return {model.heads, 0.1f, 0, nullptr}; }

void BenchDecode(const Model& model, int sequences, int positions, double copy_bandwidth) {
  Caches caches(model, sequences, positions);
  Tensors tensors(model, sequences);
  std::vector<DecodeRow> rows;
  for (int i = 0; i < sequences; ++i) {
    rows.push_back({i, positions - 1, i * caches.sequence_pages()});
  }
  DeviceArray<DecodeRow> device_rows(rows);
  const DecodeSplits splits =
      ChooseDecodeSplits(sequences, model.heads, model.kv_heads, kMultiprocessors);
  DeviceArray<float> partials(DecodePartialFloats(sequences, model.heads, model.head_dim, splits));
  DeviceArray<unsigned int> counters(std::vector<unsigned int>(sequences * model.heads, 0));
  const double microseconds = GraphMicroseconds(2 * model.layers, [&](int i, cudaStream_t stream) {
    DecodeAttention(tensors.rows(), device_rows.data(), sequences, caches.page_table(),
                    caches.Layer(i % model.layers), Spec(model), splits,
                    {partials.data(), counters.data()}, nullptr, stream);
  });
  const double bytes = 4.0 * sequences * positions * model.kv_heads * model.head_dim;
  const double bandwidth = 1e-3 * bytes / microseconds;
  std::printf("%-13s decode %3d x %5d  %2d splits %9.2f us %8.1f GB/s %6.1f %%\n", model.name,
              sequences, positions, splits.splits, microseconds, bandwidth,
              100 * bandwidth / copy_bandwidth);
}

void BenchPrefill(const Model& model, int first_position, int n, int block_heads) {
  Caches caches(model, 1, first_position + n);
  Tensors tensors(model, n);
  std::vector<PrefillTile> tiles;
  for (int row = 0; row < n; row += kPrefillTileRows) {
    tiles.push_back({row, std::min(kPrefillTileRows, n - row), first_position + row, 0});
  }
  DeviceArray<PrefillTile> device_tiles(tiles);
  const int n_tiles = static_cast<int>(tiles.size());
  const double microseconds = GraphMicroseconds(model.layers, [&](int i, cudaStream_t stream) {
    const PrefillArguments arguments = {tensors.rows(),  device_tiles.data(), caches.page_table(),
                                        caches.Layer(i), Spec(model),         true,
                                        block_heads};
    if (model.head_dim == 64) {
      LaunchPrefillFor<64>(arguments, n_tiles, stream);
    } else {
      LaunchPrefillFor<128>(arguments, n_tiles, stream);
    }
  });
  const double pairs = static_cast<double>(n) * first_position + 0.5 * n * (n + 1.0);
  const double operations = 4.0 * pairs * model.heads * model.head_dim;
  std::printf(
      "%-13s prefill %4d rows from %5d, %d heads a block %9.2f us "
      "%8.1f TFLOP/s\n",
      model.name, n, first_position, block_heads, microseconds, 1e-6 * operations / microseconds);
}

void Run() {
  const double copy_bandwidth = CopyBandwidth();
  std::printf("copy bandwidth %.1f GB/s\n", copy_bandwidth);
  for (const Model& model : kModels) {
    for (int positions : {64, 512, 4096, 16384}) {
      BenchDecode(model, 1, positions, copy_bandwidth);
    }
    for (int positions : {512, 4096}) {
      BenchDecode(model, 8, positions, copy_bandwidth);
      BenchDecode(model, 32, positions, copy_bandwidth);
    }
    const int most_heads = model.heads / model.kv_heads % 2 == 0 ? 2 : 1;
    for (int block_heads = 1; block_heads <= most_heads; ++block_heads) {
      BenchPrefill(model, 0, 512, block_heads);
      BenchPrefill(model, 0, 2048, block_heads);
      BenchPrefill(model, 8192, 2048, block_heads);
    }
  }
}

}  // namespace
}  // namespace gguf_offload::cuda

int main() { gguf_offload::cuda::Run(); }
