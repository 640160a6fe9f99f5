// Speed of the CPU backend against what the machine's memory allows.
//
//   bazel run //tests/bench:cpu_bench -- --model=/dev/shm/qwen.gguf
//
// A decode step must read every weight once, so its floor is the weights' size divided by the
// bandwidth of a plain streaming read by all threads, measured in the same run.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "computed/runtime/host_buffer.h"
#include "kernels/threading/thread_pool.h"
#include "tests/bench/median.h"
#include "tests/fixtures/running_model.h"

ABSL_FLAG(std::string, model, "", "GGUF file, best in memory: modelgen --preset=qwen2.5-0.5b");
ABSL_FLAG(int, threads, 0, "Threads; 0: all cores");
ABSL_FLAG(int, repetitions, 15, "Steps of each kind; the median counts");

namespace gguf_offload {
namespace {

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double MedianSeconds(const std::function<void()>& work) {
  work();
  std::vector<double> seconds;
  for (int i = 0; i < absl::GetFlag(FLAGS_repetitions); ++i) seconds.push_back(Seconds(work));
  return Median(seconds);
}

// Sums `bytes` bytes (a multiple of 64).
uint64_t Sum(const uint8_t* data, size_t bytes) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i < bytes; i += 64) {
    const uint64_t* words = reinterpret_cast<const uint64_t*>(data + i);
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[lane];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

// Bytes a second that all threads together read from memory.
double ReadBandwidth(ThreadPool& pool) {
  constexpr size_t kBytes = 1 << 30, kPiece = 1 << 20;
  auto buffer = HostBuffer::Allocate(kBytes);
  if (!buffer.ok()) return 0;
  madvise(buffer->data(), kBytes, MADV_HUGEPAGE);
  std::fill(buffer->data(), buffer->data() + kBytes, uint8_t{1});
  std::atomic<uint64_t> total{0};
  std::vector<double> seconds;
  for (int i = 0; i < 9; ++i) {
    seconds.push_back(Seconds([&] {
      pool.ParallelFor(kBytes / kPiece, [&](size_t piece, int) {
        total += Sum(buffer->data() + piece * kPiece, kPiece);
      });
    }));
  }
  return total == 0 ? 0 : kBytes / Median(seconds);
}

// A step of `sequences` sequences with `rows` rows each, at position `position`.
StepBatch MakeBatch(int sequences, int rows, int position, int pages_each) {
  StepBatch batch;
  for (int s = 0; s < sequences; ++s) {
    StepBatch::Sequence sequence{batch.rows(), rows, position, {}};
    for (int page = 0; page < pages_each; ++page) sequence.pages.push_back(s * pages_each + page);
    for (int row = 0; row < rows; ++row) {
      batch.tokens.push_back((s * 131 + row * 17 + position) % 1000);
      batch.positions.push_back(position + row);
    }
    batch.logit_rows.push_back(batch.rows() - 1);
    batch.logit_values.push_back(false);
    batch.sequences.push_back(std::move(sequence));
  }
  return batch;
}

int Main() {
  const int threads = absl::GetFlag(FLAGS_threads) > 0
                          ? absl::GetFlag(FLAGS_threads)
                          : static_cast<int>(std::thread::hardware_concurrency());
  constexpr int kSequences = 16, kPagesEach = 8;
  auto model =
      RunningModel::Create(absl::GetFlag(FLAGS_model), {.activations = ActivationPrecision::kInt8,
                                                        .threads = threads,
                                                        .kv_pages = kSequences * kPagesEach,
                                                        .step_tokens = 256});
  if (!model.ok()) {
    std::fprintf(stderr, "cpu_bench: %s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  // What a decode step reads: everything but an embedding that is only looked up.
  uint64_t bytes = 0;
  for (const auto& group : (*model)->tensors.groups) {
    for (const ModelTensor& tensor : group) {
      if (tensor.id != kTokenEmbedding || (*model)->tensors.tied_head) bytes += tensor.bytes;
    }
  }
  ThreadPool pool(threads);
  const double bandwidth = ReadBandwidth(pool);
  const auto run = [&](const StepBatch& batch) {
    const absl::Status status =
        (*model)->forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
    if (!status.ok()) std::abort();
  };

  const StepBatch prompt = MakeBatch(1, 128, 0, kPagesEach);
  const double prefill = MedianSeconds([&] { run(prompt); });
  run(MakeBatch(kSequences, 16, 0, kPagesEach));  // fills their caches
  const StepBatch one = MakeBatch(1, 1, 128, kPagesEach);
  const double decode = MedianSeconds([&] { run(one); });
  const StepBatch many = MakeBatch(kSequences, 1, 16, kPagesEach);
  const double together = MedianSeconds([&] { run(many); });

  const double floor = bytes / bandwidth;
  std::printf("model              %s, %.1f MB a step\n", absl::GetFlag(FLAGS_model).c_str(),
              bytes / 1e6);
  std::printf("threads            %d\n", threads);
  std::printf("streaming read     %.1f GB/s\n\n", bandwidth / 1e9);
  std::printf("%-28s %10s %12s %10s  %s\n", "", "ms a step", "tokens/s", "ratio", "of");
  std::printf("%-28s %10.2f %12.1f %10s\n", "floor of a decode step", floor * 1e3, 1 / floor, "");
  std::printf("%-28s %10.2f %12.1f %9.1f%%  the floor's tokens/s\n", "decode, 1 sequence",
              decode * 1e3, 1 / decode, 100 * floor / decode);
  std::printf("%-28s %10.2f %12.1f %9.2fx  one sequence's tokens/s\n", "decode, 16 sequences",
              together * 1e3, kSequences / together, kSequences * decode / together);
  std::printf("%-28s %10.2f %12.1f %9.2fx  one sequence's tokens/s\n", "prefill, 128 tokens",
              prefill * 1e3, 128 / prefill, 128 * decode / prefill);
  return 0;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return gguf_offload::Main();
}
