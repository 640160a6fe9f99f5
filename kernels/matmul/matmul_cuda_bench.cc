// Prints how long products with the matrices of two models take on the GPU by each path, the
// bandwidth at which weights are read beside the device's copy bandwidth measured in the same run,
// and from how many activation columns on the half path is faster.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/matmul/matmul_cuda.h"
#include "kernels/quant/device_array_for_test.h"

namespace gguf_offload::cuda {
namespace {

using quant::TensorType;

constexpr size_t kRotatedBytes = size_t{512} << 20;  // weights read in turn: far more than caches
constexpr int kColumns[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
constexpr int kMaxColumns = 512;
constexpr int64_t kMaxCols = 12288;

struct Shape {
  TensorType type;
  int64_t rows;
  int64_t cols;
};

constexpr Shape kShapes[] = {
    {TensorType::kQ4_K, 6144, 4096},   {TensorType::kQ4_K, 4096, 4096},
    {TensorType::kQ4_K, 24576, 4096},  {TensorType::kQ4_K, 4096, 12288},
    {TensorType::kQ4_K, 151936, 4096}, {TensorType::kQ6_K, 1024, 4096},
    {TensorType::kQ6_K, 4096, 12288},  {TensorType::kQ6_K, 151936, 4096},
    {TensorType::kQ8_0, 896, 896},     {TensorType::kQ8_0, 9728, 896},
    {TensorType::kQ8_0, 896, 4864},    {TensorType::kQ8_0, 151936, 896},
    {TensorType::kQ8_0, 24576, 4096},  {TensorType::kQ4_0, 24576, 4096},
    {TensorType::kQ5_K, 24576, 4096},  {TensorType::kQ3_K, 24576, 4096},
    {TensorType::kQ2_K, 24576, 4096},  {TensorType::kIQ4_XS, 24576, 4096},
    {TensorType::kIQ3_S, 24576, 4096}, {TensorType::kIQ2_XXS, 24576, 4096},
    {TensorType::kMXFP4, 24576, 4096}, {TensorType::kF16, 24576, 4096},
    {TensorType::kBF16, 24576, 4096},  {TensorType::kF32, 24576, 4096},
};

// Microseconds of one of the `count` launches, captured together in a graph as a step would be.
double Measure(int count, const std::function<void(int, cudaStream_t)>& launch) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t begin, end;
  CheckCuda(cudaStreamCreate(&stream));
  CheckCuda(cudaEventCreate(&begin));
  CheckCuda(cudaEventCreate(&end));
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) launch(i, stream);
  CheckCuda(cudaStreamEndCapture(stream, &graph));
  CheckCuda(cudaGraphInstantiate(&executable, graph, 0));
  std::vector<double> times;
  for (int run = 0; run < 6; ++run) {
    CheckCuda(cudaEventRecord(begin, stream));
    CheckCuda(cudaGraphLaunch(executable, stream));
    CheckCuda(cudaEventRecord(end, stream));
    CheckCuda(cudaEventSynchronize(end));
    float milliseconds;
    CheckCuda(cudaEventElapsedTime(&milliseconds, begin, end));
    if (run > 0) times.push_back(1000.0 * milliseconds / count);
  }
  CheckCuda(cudaGetLastError());
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Bytes read and written a second by a copy of 512 MiB, in GB.
double CopyBandwidth(DeviceArray<uint8_t>& from) {
  DeviceArray<uint8_t> to(from.size());
  const double microseconds = Measure(10, [&](int, cudaStream_t stream) {
    CheckCuda(
        cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDeviceToDevice, stream));
  });
  return 2e-3 * static_cast<double>(from.size()) / microseconds;
}

// Random bytes, whose scales, where they are binary16, are of moderate size.
std::vector<uint8_t> RandomWeights(size_t bytes) {
  std::mt19937 random(1);
  std::vector<uint8_t> out(bytes);
  for (uint8_t& byte : out) byte = static_cast<uint8_t>(random() & 0x3f);
  return out;
}

class Bench {
 public:
  explicit Bench(const CublasLibrary* cublas)
      : weights_(RandomWeights(kRotatedBytes)),
        x_(std::vector<float>(kMaxColumns * kMaxCols, 0.5f)) {
    copy_ = CopyBandwidth(weights_);
    printf("copy bandwidth %.0f GB/s\n", copy_);
    MatMulConfig config;
    config.max_rows = kMaxColumns;
    config.max_cols = kMaxCols;
    config.crossover = kMaxColumns;
    quantized_ = Make(config);
    if (cublas != nullptr) {
      config.precision = Precision::kHalf;
      config.cublas = cublas;
      for (size_t scratch : {size_t{32} << 20, size_t{256} << 20}) {
        config.weight_scratch_bytes = scratch;
        half_.push_back(Make(config));
      }
    }
  }

  void Run(const Shape& shape) {
    const quant::Format& format = quant::FormatOf(shape.type);
    const size_t bytes = shape.rows * quant::RowBytes(format, shape.cols);
    DeviceArray<float> y(kMaxColumns * shape.rows);
    int crossover = 0;
    for (int n : kColumns) {
      const double quantized = Time(*quantized_, shape, bytes, n, y.data());
      printf("%-8s %6ld x %5ld  n %3d: 8-bit %9.2f us %5.0f GB/s %3.0f %%",
             std::string(format.name).c_str(), shape.rows, shape.cols, n, quantized,
             1e-3 * bytes / quantized, 100 * 1e-3 * bytes / quantized / copy_);
      double best = 1e30;
      for (const auto& half : half_) {
        const double time = Time(*half, shape, bytes, n, y.data());
        best = std::min(best, time);
        printf("  half %9.2f us %4.0f TFLOP/s", time, 2e-6 * n * shape.rows * shape.cols / time);
      }
      printf("\n");
      if (crossover == 0 && best < quantized) crossover = n;
    }
    if (crossover > 0) printf("  half precision is faster from n = %d on\n", crossover);
  }

  // A decode step's products of a model with `layers` layers, in order, in one graph.
  void RunModel(const char* name, int layers, const std::vector<std::vector<Shape>>& layer,
                const Shape& head) {
    std::vector<std::vector<Shape>> all;
    for (int i = 0; i < layers; ++i) all.insert(all.end(), layer.begin(), layer.end());
    all.push_back({head});
    DeviceArray<float> y(head.rows + 65536);
    size_t at = 0, total = 0;
    const double step = Measure(1, [&](int, cudaStream_t stream) {
      for (const auto& together : all) {
        std::vector<MatMulOutput> outputs;
        for (const Shape& shape : together) {
          outputs.push_back(Output(shape, at, y.data()));
          total += outputs.back().rows * quant::RowBytes(quant::FormatOf(shape.type), shape.cols);
        }
        Check(quantized_->Run(x_.data(), kMaxCols, 1, false, outputs, stream));
      }
    });
    printf("%s: products of a step %.0f us, %.0f MB of weights, %.0f GB/s %.0f %%\n", name, step,
           1e-6 * total, 1e-3 * total / step, 100 * 1e-3 * total / step / copy_);
  }

 private:
  std::unique_ptr<MatMul> Make(const MatMulConfig& config) {
    memory_.push_back(std::make_unique<DeviceArray<uint8_t>>(MatMul::WorkspaceBytes(config)));
    std::string error;
    auto matmul = MatMul::Create(config, memory_.back()->data(), error);
    if (matmul == nullptr) throw std::runtime_error(error);
    return matmul;
  }

  static void Check(const char* error) {
    if (error != nullptr) throw std::runtime_error(error);
  }

  // The next piece of the weights, from `at` on.
  MatMulOutput Output(const Shape& shape, size_t& at, float* y) {
    const size_t bytes = shape.rows * quant::RowBytes(quant::FormatOf(shape.type), shape.cols);
    if (bytes > weights_.size()) throw std::runtime_error("a matrix larger than the weights");
    if (at + bytes > weights_.size()) at = 0;
    const uint8_t* weight = weights_.data() + at;
    at += (bytes + 255) / 256 * 256;
    return {shape.type, weight, shape.rows, shape.cols, nullptr, y, shape.rows};
  }

  double Time(MatMul& matmul, const Shape& shape, size_t bytes, int n, float* y) {
    const int count = std::clamp<int>(static_cast<int>(kRotatedBytes / bytes), 4, 64);
    size_t at = 0;
    return Measure(count, [&](int, cudaStream_t stream) {
      const MatMulOutput output = Output(shape, at, y);
      Check(matmul.Run(x_.data(), kMaxCols, n, false, {&output, 1}, stream));
    });
  }

  DeviceArray<uint8_t> weights_;
  DeviceArray<float> x_;
  double copy_ = 0;
  std::vector<std::unique_ptr<DeviceArray<uint8_t>>> memory_;
  std::unique_ptr<MatMul> quantized_;
  std::vector<std::unique_ptr<MatMul>> half_;
};

int Main() {
  std::string error;
  const std::unique_ptr<CublasLibrary> cublas = CublasLibrary::Load(error);
  if (cublas == nullptr) printf("no cuBLAS: %s\n", error.c_str());
  Bench bench(cublas.get());
  constexpr TensorType kQ4 = TensorType::kQ4_K, kQ6 = TensorType::kQ6_K, kQ8 = TensorType::kQ8_0;
  bench.RunModel("Qwen3-8B, all Q4_K", 36,
                 {{{kQ4, 4096, 4096}, {kQ4, 1024, 4096}, {kQ4, 1024, 4096}},
                  {{kQ4, 4096, 4096}},
                  {{kQ4, 12288, 4096}, {kQ4, 12288, 4096}},
                  {{kQ4, 4096, 12288}}},
                 {kQ6, 151936, 4096});
  bench.RunModel("Qwen3-8B, v and down in Q6_K", 36,
                 {{{kQ4, 4096, 4096}, {kQ4, 1024, 4096}, {kQ6, 1024, 4096}},
                  {{kQ4, 4096, 4096}},
                  {{kQ4, 12288, 4096}, {kQ4, 12288, 4096}},
                  {{kQ6, 4096, 12288}}},
                 {kQ6, 151936, 4096});
  bench.RunModel("Qwen2.5-0.5B, Q8_0", 24,
                 {{{kQ8, 896, 896}, {kQ8, 128, 896}, {kQ8, 128, 896}},
                  {{kQ8, 896, 896}},
                  {{kQ8, 4864, 896}, {kQ8, 4864, 896}},
                  {{kQ8, 896, 4864}}},
                 {kQ8, 151936, 896});
  for (const Shape& shape : kShapes) bench.Run(shape);
  return 0;
}

}  // namespace
}  // namespace gguf_offload::cuda

int main() { return gguf_offload::cuda::Main(); }
