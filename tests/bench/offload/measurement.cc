#include "tests/bench/offload/measurement.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "kernels/moe/expert_cache_cuda.h"

namespace gguf_offload {
namespace {

uint64_t FreeBytes() {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  return free;
}

// The fastest of 20 runs of `queue`, which puts work on the default stream: a floor is what is
// possible, whatever else the machine has to do.
double FastestSeconds(const std::function<void()>& queue) {
  cudaEvent_t start, end;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  double fastest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 20; ++i) {
    cudaEventRecord(start);
    queue();
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, start, end);
    fastest = std::min(fastest, milliseconds * 1e-3);
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return fastest;
}

}  // namespace

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double CopyBandwidth(cudaMemcpyKind kind, uint64_t bytes) {
  const bool from_host = kind == cudaMemcpyHostToDevice;
  void *from = nullptr, *to = nullptr;
  cudaMalloc(&to, bytes);
  from_host ? cudaHostAlloc(&from, bytes, cudaHostAllocDefault) : cudaMalloc(&from, bytes);
  const double seconds = FastestSeconds([&] { cudaMemcpyAsync(to, from, bytes, kind); });
  cudaFree(to);
  from_host ? cudaFreeHost(from) : cudaFree(from);
  return (from_host ? 1 : 2) * bytes / seconds;
}

double GatherBandwidth(uint64_t bytes, int slices) {
  constexpr int kPlaces = 4;  // for each slice, of which one is used
  const uint64_t stride = (bytes + 15) / 16 * 16;
  uint8_t *from = nullptr, *to = nullptr;
  cudaHostAlloc(reinterpret_cast<void**>(&from), stride * slices * kPlaces, cudaHostAllocMapped);
  cudaMalloc(reinterpret_cast<void**>(&to), stride * slices);
  const auto place = [&](int slice) { return slice * kPlaces + slice % kPlaces; };

  const double copies = FastestSeconds([&] {
    for (int slice = 0; slice < slices; ++slice) {
      cudaMemcpyAsync(to + slice * stride, from + place(slice) * stride, bytes,
                      cudaMemcpyHostToDevice);
    }
  });

  // Three matrices an expert, as the kernel takes them.
  const int experts = slices / 3;
  std::vector<cuda::ExpertFill> fills;
  for (int i = 0; i < experts; ++i) fills.push_back({place(i), i});
  cuda::ExpertFills on_device;
  cudaMalloc(reinterpret_cast<void**>(&on_device.fills), experts * sizeof(fills[0]));
  cudaMalloc(reinterpret_cast<void**>(&on_device.count), sizeof(int32_t));
  cudaMalloc(reinterpret_cast<void**>(&on_device.begun), cuda::kMaxFillParts * sizeof(int32_t));
  cudaMemcpy(on_device.fills, fills.data(), experts * sizeof(fills[0]), cudaMemcpyHostToDevice);
  cudaMemcpy(on_device.count, &experts, sizeof(int32_t), cudaMemcpyHostToDevice);
  cuda::ExpertSource sources[3];
  for (int i = 0; i < 3; ++i) {
    sources[i] = {.data = from + i * experts * kPlaces * stride,
                  .bytes = static_cast<int64_t>(stride),
                  .offset = static_cast<int64_t>(i * stride)};
  }
  const double kernel = FastestSeconds([&] {
    cudaMemsetAsync(on_device.begun, 0, sizeof(int32_t));
    cuda::FillSlots(on_device, {.end = experts}, sources, to, 3 * stride, nullptr);
  });
  for (void* memory : {static_cast<void*>(on_device.fills), static_cast<void*>(on_device.count),
                       static_cast<void*>(on_device.begun), static_cast<void*>(to)}) {
    cudaFree(memory);
  }
  cudaFreeHost(from);
  return std::max(bytes * slices / copies, 3.0 * experts * stride / kernel);
}

MemoryWatch::MemoryWatch() {
  cudaFree(nullptr);  // makes the context
  free_at_start_ = FreeBytes();
  lowest_free_ = free_at_start_;
  thread_ = std::thread([this] {
    cudaSetDevice(0);
    while (!done_) {
      Sample();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
}

MemoryWatch::~MemoryWatch() {
  done_ = true;
  thread_.join();
}

uint64_t MemoryWatch::Peak() {
  Sample();
  return free_at_start_ - lowest_free_;
}

void MemoryWatch::Sample() {
  const uint64_t free = FreeBytes();
  uint64_t lowest = lowest_free_;
  while (free < lowest && !lowest_free_.compare_exchange_weak(lowest, free)) {
  }
}

}  // namespace gguf_offload
