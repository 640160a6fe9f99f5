// Mixtures of experts: decoding with a cache of experts in GPU memory, prompts with whole banks of
// experts streamed.
#include <algorithm>
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/median.h"
#include "tests/bench/offload/measurement.h"
#include "tests/bench/offload/rows.h"

namespace gguf_offload {
namespace {

// Beyond weights and cache: the ring of three banks, activations, the KV cache, libraries.
constexpr uint64_t kQwen30bRest = 2560 * kMiB;
constexpr uint64_t kR1Rest = 9216 * kMiB;

struct ExpertRow {
  std::string name;
  std::string title;
  ModelSpec model;
  uint64_t rest;        // of the budget, see above
  uint64_t cache;       // bytes for experts
  int tokens;           // of a step
  double base_seconds;  // what a decode step takes with all experts there; part of the floor
  double bound;
  int warm_up;  // steps
};

// What the engine has fetched into its cache, or copied, since the start.
uint64_t FetchedBytes(Engine& engine) {
  uint64_t bytes = 0;
  const auto layers = engine.expert_counters();
  if (!layers.ok()) return 0;
  for (const ExpertCounters& layer : *layers) bytes += layer.bytes;
  return bytes;
}

struct Steps {
  std::vector<double> seconds;
  std::vector<double> bytes;  // over the link
};

Steps MeasureDecode(RunningModel& model, int warm_up) {
  MustRun(model, MakeBatch(1, 512, 0));
  Steps steps;
  const auto start = Clock::now();
  uint64_t before = 0;
  for (int step = 0; SecondsSince(start) < absl::GetFlag(FLAGS_seconds) ||
                     static_cast<int>(steps.seconds.size()) < 20;
       ++step) {
    const StepBatch batch = MakeBatch(1, 1, 512 + step % 64);
    const auto begin = Clock::now();
    MustRun(model, batch);
    const double seconds = SecondsSince(begin);
    const uint64_t fetched = FetchedBytes(*model.engine);
    if (step >= warm_up) {
      steps.seconds.push_back(seconds);
      steps.bytes.push_back(fetched - before);
    }
    before = fetched;
  }
  return steps;
}

Steps MeasurePrefill(RunningModel& model, int tokens) {
  Steps steps;
  const auto start = Clock::now();
  for (int step = 0; SecondsSince(start) < absl::GetFlag(FLAGS_seconds) || steps.seconds.size() < 3;
       ++step) {
    const StepBatch batch = MakeBatch(1, tokens, 0, tokens / 32 + 1);
    const auto begin = Clock::now();
    MustRun(model, batch);
    if (step < 1) continue;
    steps.seconds.push_back(SecondsSince(begin));
    steps.bytes.push_back(model.engine->placement().cached_bytes +
                          model.engine->placement().streamed_bytes);
  }
  return steps;
}

std::unique_ptr<RunningModel> Load(const ExpertRow& row, uint64_t budget) {
  const int tokens = std::max(512, row.tokens);
  return LoadModel(row.model, {.cuda = true,
                               .activations = ActivationPrecision::kInt8,
                               .kv_pages = tokens / 32 + 4,
                               .step_tokens = tokens,
                               .max_sequences = 1,
                               .memory_budget = budget,
                               .expert_cache = row.cache,
                               .transport = Transport::kRegistered});
}

uint64_t BudgetOf(const ExpertRow& row, const MatrixBytes& bytes) {
  return bytes.total - bytes.experts + row.rest + row.cache;
}

int RunRow(const ExpertRow& row) {
  MemoryWatch watch;
  const MatrixBytes bytes = CountBytes(row.model);
  const uint64_t budget = BudgetOf(row, bytes);
  auto model = Load(row, budget);
  const bool decode = row.tokens == 1;
  const Steps steps =
      decode ? MeasureDecode(*model, row.warm_up) : MeasurePrefill(*model, row.tokens);
  const LinkCounters counters = *model->engine->link_counters();
  RowResult result{.title = row.title,
                   .link_bytes = static_cast<uint64_t>(Median(steps.bytes)),
                   .seconds = Median(steps.seconds),
                   .bound = absl::StrFormat("<= %.2f", row.bound),
                   .peak_bytes = watch.Peak(),
                   .budget_bytes = budget};
  model.reset();
  const double link = decode ? GatherBandwidth(bytes.expert_slice, 24)
                             : CopyBandwidth(cudaMemcpyHostToDevice, 256 * kMiB);
  // Each step by its own bytes: how many it fetches varies.
  std::vector<double> ratios;
  for (size_t i = 0; i < steps.seconds.size(); ++i) {
    ratios.push_back(steps.seconds[i] / (row.base_seconds + steps.bytes[i] / link));
  }
  result.floor = absl::StrFormat("%.1f GB/s", link / 1e9);
  if (row.base_seconds > 0) {
    absl::StrAppend(&result.floor, absl::StrFormat(" + %.0f ms", row.base_seconds * 1e3));
  }
  result.floor_seconds = row.base_seconds + result.link_bytes / link;
  result.ratio = Median(ratios);
  result.reached = result.ratio <= row.bound;
  PrintDetails(row.name, steps.seconds, counters);
  return Print(result);
}

// DeepSeek-R1's decode steps with caches of several sizes: comma-separated values, for a picture.
int RunCurve() {
  const MatrixBytes bytes = CountBytes(DeepSeekR1());
  std::printf("cache_bytes,step_ms,fetched_bytes,miss_rate\n");
  for (const uint64_t gigabytes : {0, 5, 10, 20, 40, 60}) {
    ExpertRow row{
        .model = DeepSeekR1(), .rest = kR1Rest, .cache = gigabytes * 1000000000, .tokens = 1};
    size_t free = 0, all = 0;
    cudaMemGetInfo(&free, &all);
    const uint64_t budget = BudgetOf(row, bytes);
    if (budget > free) break;
    auto model = Load(row, budget);
    const int warm_up = static_cast<int>(gigabytes) * 2 + 5;
    const Steps steps = MeasureDecode(*model, warm_up);
    uint64_t hits = 0, misses = 0;
    const auto layers = model->engine->expert_counters();
    if (!layers.ok()) return 1;
    for (const ExpertCounters& layer : *layers) {
      hits += layer.hits;
      misses += layer.misses;
    }
    std::printf("%llu,%.2f,%.0f,%.4f\n", static_cast<unsigned long long>(row.cache),
                Median(steps.seconds) * 1e3, Median(steps.bytes),
                static_cast<double>(misses) / (hits + misses));
    std::fflush(stdout);
  }
  return 0;
}

std::vector<ExpertRow> TimedRows() {
  std::vector<ExpertRow> rows;
  for (const int tenths : {0, 11, 33, 67}) {
    const bool first = tenths == 0;
    rows.push_back({.name = absl::StrFormat("30b-decode-%.1f", tenths / 10.0),
                    .title = first ? "Qwen3-30B-A3B Q4_K_M, decode, no expert cached"
                                   : absl::StrFormat("the same, cache of %.1f GB", tenths / 10.0),
                    .model = kQwen30b,
                    .rest = kQwen30bRest,
                    .cache = static_cast<uint64_t>(tenths) * 100000000,
                    .tokens = 1,
                    .base_seconds = 3e-3,
                    .bound = 1.15,
                    .warm_up = tenths + 5});
  }
  rows.push_back({.name = "30b-prefill",
                  .title = "Qwen3-30B-A3B Q4_K_M, 2048-token prefill, experts streamed",
                  .model = kQwen30b,
                  .rest = kQwen30bRest + 1536 * kMiB,
                  .cache = 0,
                  .tokens = 2048,
                  .bound = 1.05});
  const ModelSpec r1 = DeepSeekR1();
  const std::string title =
      r1.layers == 0 ? "DeepSeek-R1 671B UD-IQ1_S"
                     : absl::StrCat("DeepSeek-R1 UD-IQ1_S, ", r1.layers, " of its 61 layers");
  rows.push_back({.name = "r1-prefill",
                  .title = title + ", 512-token prefill, experts streamed",
                  .model = r1,
                  .rest = kR1Rest,
                  .cache = 0,
                  .tokens = 512,
                  .bound = 1.10});
  rows.push_back({.name = "r1-decode",
                  .title = title + ", decode, no expert cached, all else resident",
                  .model = r1,
                  .rest = kR1Rest,
                  .cache = 0,
                  .tokens = 1,
                  .bound = 1.10,
                  .warm_up = 5});
  return rows;
}

}  // namespace

std::vector<Row> ExpertRows() {
  std::vector<Row> rows;
  for (const ExpertRow& row : TimedRows()) {
    rows.push_back({row.name, row.model, [row] { return RunRow(row); }});
  }
  rows.push_back({"r1-curve", DeepSeekR1(), RunCurve, /*by_default=*/false});
  return rows;
}

}  // namespace gguf_offload
