// Synthetic models for the benchmarks, and steps for them.
#ifndef TESTS_BENCH_OFFLOAD_BENCH_MODEL_H_
#define TESTS_BENCH_OFFLOAD_BENCH_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/flags/declare.h"
#include "tests/fixtures/running_model.h"

ABSL_DECLARE_FLAG(std::string, folder);
ABSL_DECLARE_FLAG(double, seconds);
ABSL_DECLARE_FLAG(int, r1_layers);

namespace gguf_offload {

constexpr uint64_t kMiB = 1 << 20;

struct ModelSpec {
  const char* preset;
  const char* quantization;
  int layers = 0;  // 0: all

  std::string path() const;  // in --folder
};
constexpr ModelSpec kQwen05b = {"qwen2.5-0.5b", "Q8_0"};
constexpr ModelSpec kQwen8b = {"qwen3-8b", "Q4_K_M"};
constexpr ModelSpec kQwen30b = {"qwen3-30b-a3b", "Q4_K_M"};
// All of DeepSeek-R1, or its first --r1-layers.
ModelSpec DeepSeekR1();
constexpr int kR1Layers = 61;

// Writes the model's file unless it is there. Says on standard error what goes wrong.
bool Generate(const ModelSpec& spec);

// Ends the program if the model cannot be loaded.
std::unique_ptr<RunningModel> LoadModel(const ModelSpec& spec, RunningModel::Options options);

// Bytes of the matrices of a model.
struct MatrixBytes {
  uint64_t total = 0;         // but for an embedding that is only looked up
  uint64_t head = 0;          // of these, of the head
  uint64_t experts = 0;       // of these, of routed experts
  uint64_t expert_slice = 0;  // one matrix of one expert, on average
};
MatrixBytes CountBytes(const ModelSpec& spec);

constexpr int kPagesEach = 18;  // of the KV cache: 576 positions a sequence

// `sequences` sequences of `rows` new tokens each, from position `first` on; greedy. Sequence s has
// the pages from s * pages_each on.
StepBatch MakeBatch(int sequences, int rows, int first, int pages_each = kPagesEach);

// Ends the program if the step fails.
void MustRun(RunningModel& model, const StepBatch& batch);

// Compares the logits of the last of 80 tokens (through cuBLAS) and of the token after them, from
// the GPU with nothing but what has to be there, with those of the CPU in float32. Prints the
// error; whether it is small enough.
bool CheckLogits(const ModelSpec& spec);

}  // namespace gguf_offload

#endif  // TESTS_BENCH_OFFLOAD_BENCH_MODEL_H_
