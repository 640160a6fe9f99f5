// Whether it pays to predict experts: decode steps of a mixture of experts that does not fit,
// without prediction and with several caps of what is fetched early.
//
//   prediction_bench [--folder=/dev/shm] [--preset=qwen3-30b-a3b] [--layers=12] [--cached=0.25]
//
// Two models of the same shapes are generated in `folder`:
//   random: random weights, the routers' too.
//   exact:  the same, but what attention and experts add to the residual stream is zero. Every
//           layer's router sees the same state, so that every guess is right: the most that
//           prediction can gain.
// For each, prints a row a cap and whether the best one pays. Fails if prediction changes results.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "tests/bench/median.h"
#include "tests/fixtures/running_model.h"
#include "tests/modelgen/synthetic_model.h"

ABSL_FLAG(std::string, folder, "/dev/shm", "Where models are generated; memory, not a disk");
ABSL_FLAG(std::string, preset, "qwen3-30b-a3b", "Which model; one with experts");
ABSL_FLAG(std::string, quantization, "Q4_K_M", "Its types of weights");
ABSL_FLAG(int, layers, 12, "Its layers: times are proportional to them");
ABSL_FLAG(double, cached, 0.25, "Share of the experts that the cache has room for");
ABSL_FLAG(int, steps, 300, "Steps that are measured for each cap, at most 500");

namespace gguf_offload {
namespace {

// Steps before those that are measured: they fill the cache and record the graph.
constexpr int kWarmUp = 40;
constexpr int kPages = 18;  // of 32 positions
// Times that differ by less are the same.
constexpr double kMargin = 0.02;

using Clock = std::chrono::steady_clock;

template <typename T>
T ValueOrExit(absl::StatusOr<T> value) {
  if (value.ok()) return *std::move(value);
  std::fprintf(stderr, "prediction_bench: %s\n", std::string(value.status().message()).c_str());
  std::exit(1);
}

ModelTensors TensorsOf(const std::string& path) {
  const auto source = ValueOrExit(FileWeightSource::Open(path, FileWeightSource::Mode::kShared));
  const auto architecture = ValueOrExit(CreateArchitecture(source->manifest()));
  return ValueOrExit(ResolveTensors(*architecture, source->manifest()));
}

// Makes the tensors zero that add to the residual stream: in all formats, zero bytes are zeros.
void SilenceLayers(const std::string& path) {
  const int file = open(path.c_str(), O_WRONLY);
  for (const auto& group : TensorsOf(path).groups) {
    for (const ModelTensor& tensor : group) {
      if (tensor.id != kAttentionOutput && tensor.id != kExpertDown) continue;
      const std::vector<uint8_t> zeros(tensor.bytes);
      if (pwrite(file, zeros.data(), zeros.size(), static_cast<off_t>(tensor.offset)) !=
          static_cast<ssize_t>(zeros.size())) {
        std::perror("prediction_bench");
        std::exit(1);
      }
    }
  }
  close(file);
}

std::string Generate(bool exact) {
  const std::string path =
      absl::StrCat(absl::GetFlag(FLAGS_folder), "/prediction-", exact ? "exact" : "random", "-",
                   absl::GetFlag(FLAGS_preset), ".gguf");
  const auto plan = ValueOrExit(SyntheticModel::Plan(
      {.preset = absl::GetFlag(FLAGS_preset),
       .quantization = absl::GetFlag(FLAGS_quantization),
       .overrides = {.layers = static_cast<uint32_t>(absl::GetFlag(FLAGS_layers))}}));
  ValueOrExit(
      plan.Write(path, static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))));
  if (exact) SilenceLayers(path);
  return path;
}

// Of the measured steps, a step.
struct Measurement {
  double seconds = 0;  // median
  double hits = 0, misses = 0, early = 0, early_used = 0;
  double bytes = 0, early_bytes = 0;
  std::vector<int32_t> largest;  // of each step's logits

  double hit_rate() const { return hits / (hits + misses); }
};

// One sequence, a token a step.
StepBatch MakeBatch(int position) {
  StepBatch batch{.tokens = {(position * 7919 + 3) % 500},
                  .positions = {position},
                  .logit_rows = {0},
                  .logit_values = {false}};
  StepBatch::Sequence sequence{0, 1, position, {}};
  for (int page = 0; page < kPages; ++page) sequence.pages.push_back(page);
  batch.sequences.push_back(std::move(sequence));
  return batch;
}

void AddCounters(Engine& engine, double factor, Measurement& sum) {
  for (const ExpertCounters& layer : ValueOrExit(engine.expert_counters())) {
    sum.hits += factor * layer.hits;
    sum.misses += factor * layer.misses;
    sum.early += factor * layer.early;
    sum.early_used += factor * layer.early_used;
    sum.bytes += factor * layer.bytes;
    sum.early_bytes += factor * layer.early_bytes;
  }
}

Measurement Measure(const std::string& path, uint64_t cache_bytes, uint64_t most_bytes) {
  const auto model =
      ValueOrExit(RunningModel::Create(path, {.cuda = true,
                                              .activations = ActivationPrecision::kInt8,
                                              .kv_pages = kPages,
                                              .step_tokens = 64,
                                              .max_sequences = 1,
                                              .expert_cache = cache_bytes,
                                              .predict_experts = most_bytes}));
  for (const std::string& note : model->engine->Fallbacks()) {
    std::fprintf(stderr, "prediction_bench: %s\n", note.c_str());
  }
  const int steps = std::clamp(absl::GetFlag(FLAGS_steps), 1, 500);
  Measurement result;
  std::vector<double> times;
  for (int step = 0; step < kWarmUp + steps; ++step) {
    if (step == kWarmUp) AddCounters(*model->engine, -1.0 / steps, result);
    const StepBatch batch = MakeBatch(step);
    const auto start = Clock::now();
    const absl::Status status = model->forward->Run(
        batch, absl::InfiniteFuture(),
        [&](int, const RowLogits& row) { result.largest.push_back(row.largest); });
    if (!status.ok()) {
      std::fprintf(stderr, "prediction_bench: %s\n", std::string(status.message()).c_str());
      std::exit(1);
    }
    if (step < kWarmUp) continue;
    times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  AddCounters(*model->engine, 1.0 / steps, result);
  result.seconds = Median(times);
  return result;
}

// Prints the rows of one model and the verdict; false if results depend on prediction.
bool RunModel(const char* name, const std::string& path) {
  uint64_t banks = 0, expert = 0;
  int used = 0;
  {
    const auto source = ValueOrExit(FileWeightSource::Open(path, FileWeightSource::Mode::kShared));
    const auto architecture = ValueOrExit(CreateArchitecture(source->manifest()));
    const RoutingRule& routing = architecture->shape().experts.routing;
    used = routing.used;
    for (const auto& group : TensorsOf(path).groups) {
      uint64_t layer = 0;
      for (const ModelTensor& tensor : group) {
        const bool bank =
            tensor.id == kExpertGate || tensor.id == kExpertUp || tensor.id == kExpertDown;
        if (bank) layer += tensor.bytes;
      }
      banks += layer;
      expert = std::max(expert, layer / routing.experts);
    }
  }
  const auto cache = static_cast<uint64_t>(banks * absl::GetFlag(FLAGS_cached));
  std::printf(
      "\n%s: %.1f MB an expert, cache for %.0f %% of them\n"
      "| cap, experts a layer | ms a step | without: 1 | hits | fetched when needed | early | "
      "early, then needed |\n|---|---|---|---|---|---|---|\n",
      name, expert / 1e6, 100 * absl::GetFlag(FLAGS_cached));
  Measurement without, best;
  int best_cap = 0;
  bool same = true;
  for (int cap = 0; cap <= used; cap = cap == 0 ? 1 : 2 * cap) {
    const Measurement m = Measure(path, cache, cap * expert);
    if (cap == 0) without = m;
    if (cap == 1 || (cap > 0 && m.seconds < best.seconds)) {
      best = m;
      best_cap = cap;
    }
    same &= m.largest == without.largest;
    std::printf("| %d | %.3f | %.3f | %.1f %% | %.1f MB | %.1f MB | %.1f %% |\n", cap,
                m.seconds * 1e3, m.seconds / without.seconds, 100 * m.hit_rate(), m.bytes / 1e6,
                m.early_bytes / 1e6, m.early > 0 ? 100 * m.early_used / m.early : 0.0);
    std::fflush(stdout);
  }
  const double ratio = best.seconds / without.seconds;
  std::printf("%s: prediction %s: with the best cap, %d, a step takes %.3f x the time\n", name,
              ratio < 1 - kMargin   ? "PAYS"
              : ratio > 1 + kMargin ? "DOES NOT PAY"
                                    : "MAKES NO DIFFERENCE",
              best_cap, ratio);
  if (!same) std::printf("%s: RESULTS DIFFER WITH PREDICTION\n", name);
  return same;
}

int Main() {
  bool same = true;
  for (bool exact : {false, true}) {
    const std::string path = Generate(exact);
    same &= RunModel(exact ? "exact" : "random", path);
    unlink(path.c_str());
  }
  std::printf(
      "\nThe weights, routers included, are random numbers. How often a guess is right in "
      "\"random\" "
      "says nothing about text;\n\"exact\" shows what prediction would gain if every guess were "
      "right. Measure a trained model with\n`offloadctl experts` and real prompts before turning "
      "--predict-experts on.\n");
  return same ? 0 : 2;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return gguf_offload::Main();
}
