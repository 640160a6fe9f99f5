// Times launches as they run in a decode step: one after the other in a captured graph, where
// neither the host nor the launch queue is waited for.
#ifndef KERNELS_OPS_GRAPH_TIMER_FOR_BENCH_H_
#define KERNELS_OPS_GRAPH_TIMER_FOR_BENCH_H_

#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/quant/device_array_for_test.h"

namespace gguf_offload::cuda {

// The microseconds a launch takes: launch(i, stream) for i in [0, count) is captured into a graph,
// which is run once to warm up and then five times; the best counts. Errors throw.
template <typename Launch>
double GraphMicroseconds(int count, const Launch& launch) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t begin, end;
  CheckCuda(cudaStreamCreate(&stream));
  CheckCuda(cudaEventCreate(&begin));
  CheckCuda(cudaEventCreate(&end));
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < count; ++i) launch(i, stream);
  CheckCuda(cudaGetLastError());
  CheckCuda(cudaStreamEndCapture(stream, &graph));
  CheckCuda(cudaGraphInstantiate(&executable, graph, 0));
  float best = 1e30f;
  for (int run = 0; run < 6; ++run) {
    CheckCuda(cudaEventRecord(begin, stream));
    CheckCuda(cudaGraphLaunch(executable, stream));
    CheckCuda(cudaEventRecord(end, stream));
    CheckCuda(cudaEventSynchronize(end));
    float milliseconds;
    CheckCuda(cudaEventElapsedTime(&milliseconds, begin, end));
    if (run > 0) best = std::min(best, milliseconds);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return 1e3 * best / count;
}

// Bytes read and written a nanosecond (GB/s) by copies within device memory.
inline double CopyBandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  DeviceArray<uint8_t> from(kBytes), to(kBytes);
  const double microseconds = GraphMicroseconds(4, [&](int, cudaStream_t stream) {
    CheckCuda(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream));
  });
  return 2e-3 * kBytes / microseconds;
}

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_GRAPH_TIMER_FOR_BENCH_H_
