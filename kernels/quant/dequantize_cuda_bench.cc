// Prints how fast each type is dequantized, in bytes read and written, beside the device's copy
// bandwidth measured in the same run.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/quant/dequantize_cuda.h"
#include "kernels/quant/device_array_for_test.h"
#include "kernels/quant/format.h"

namespace gguf_offload::cuda {
namespace {

constexpr size_t kElements = size_t{1} << 27;  // far more than the caches hold
constexpr int kRuns = 20;

// The microseconds of a run of `launch`.
double Measure(const std::function<void()>& launch) {
  cudaEvent_t begin, end;
  CheckCuda(cudaEventCreate(&begin));
  CheckCuda(cudaEventCreate(&end));
  for (int i = 0; i < 3; ++i) launch();
  CheckCuda(cudaEventRecord(begin));
  for (int i = 0; i < kRuns; ++i) launch();
  CheckCuda(cudaEventRecord(end));
  CheckCuda(cudaEventSynchronize(end));
  CheckCuda(cudaGetLastError());
  float milliseconds;
  CheckCuda(cudaEventElapsedTime(&milliseconds, begin, end));
  CheckCuda(cudaEventDestroy(begin));
  CheckCuda(cudaEventDestroy(end));
  return 1e3 * milliseconds / kRuns;
}

// Random bytes, so that lookups in grids are as scattered as with real weights.
void FillRandomly(DeviceArray<uint8_t>& array) {
  std::mt19937_64 random(1);
  std::vector<uint64_t> words(size_t{1} << 20);
  for (uint64_t& word : words) word = random();
  const size_t bytes = words.size() * sizeof(uint64_t);
  for (size_t at = 0; at < array.size(); at += bytes) {
    CheckCuda(cudaMemcpy(array.data() + at, words.data(), std::min(bytes, array.size() - at),
                         cudaMemcpyHostToDevice));
  }
}

void Print(const std::string& name, double microseconds, double bytes, double copy_bandwidth) {
  const double bandwidth = bytes / microseconds * 1e-3;
  std::printf("%-16s %9.1f us %8.1f GB/s %6.1f %%\n", name.c_str(), microseconds, bandwidth,
              100 * bandwidth / copy_bandwidth);
}

void Run() {
  DeviceArray<uint8_t> in(kElements * sizeof(double));
  DeviceArray<uint8_t> out(kElements * sizeof(float));
  FillRandomly(in);
  const double copy_bytes = 2.0 * static_cast<double>(out.size());
  const double copy_time = Measure([&] {
    CheckCuda(cudaMemcpyAsync(out.data(), in.data(), out.size(), cudaMemcpyDeviceToDevice));
  });
  const double copy_bandwidth = copy_bytes / copy_time * 1e-3;
  std::printf("%zu elements; bytes read and written\n", kElements);
  Print("copy", copy_time, copy_bytes, copy_bandwidth);
  for (uint32_t number = 0; number < 64; ++number) {
    const quant::Format* format = quant::FindFormat(number);
    if (format == nullptr || !format->dequantizable) continue;
    const double bytes = static_cast<double>(quant::RowBytes(*format, kElements));
    const std::string name(format->name);
    Print(name + " half", Measure([&] {
            DequantizeToHalf(format->type, in.data(), kElements,
                             reinterpret_cast<__half*>(out.data()), nullptr);
          }),
          bytes + sizeof(__half) * kElements, copy_bandwidth);
    Print(name + " float", Measure([&] {
            DequantizeToFloat(format->type, in.data(), kElements,
                              reinterpret_cast<float*>(out.data()), nullptr);
          }),
          bytes + sizeof(float) * kElements, copy_bandwidth);
  }
}

}  // namespace
}  // namespace gguf_offload::cuda

int main() { gguf_offload::cuda::Run(); }
