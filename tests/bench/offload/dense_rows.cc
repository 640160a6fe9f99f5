// Dense models: layers streamed through the ring, or resident.
#include <algorithm>
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "tests/bench/median.h"
#include "tests/bench/offload/measurement.h"
#include "tests/bench/offload/rows.h"

namespace gguf_offload {
namespace {

struct DenseRow {
  const char* name;
  const char* title;
  ModelSpec model;
  uint64_t budget;
  // Of the bytes of all matrices but the embedding; kHeadOnly: the head.
  double resident;
  int tokens;     // of a step and sequence
  int sequences;  // in a step
  double bound;   // the ratio to reach; with everything resident, milliseconds
};
constexpr double kHeadOnly = -1;

const DenseRow kRows[] = {
    {"05b-prefill", "Qwen2.5-0.5B Q8_0, 512-token prefill, nothing resident", kQwen05b, 450 * kMiB,
     0, 512, 1, 1.10},
    {"05b-prefill-head", "the same, head resident", kQwen05b, 600 * kMiB, kHeadOnly, 512, 1, 1.15},
    {"8b-prefill", "Qwen3-8B Q4_K_M, 512-token prefill, nothing resident", kQwen8b, 2048 * kMiB, 0,
     512, 1, 1.05},
    {"8b-decode", "Qwen3-8B Q4_K_M, decode, batch 1, nothing resident", kQwen8b, 2048 * kMiB, 0, 1,
     1, 1.05},
    {"8b-decode-32", "the same, batch 32", kQwen8b, 4608 * kMiB, 0, 1, 32, 1.15},
    {"8b-decode-50", "decode, batch 1, 50 % of the bytes resident", kQwen8b, 5120 * kMiB, 0.5, 1, 1,
     1.10},
    {"8b-decode-75", "the same, 75 %", kQwen8b, 6144 * kMiB, 0.75, 1, 1, 1.10},
    {"8b-decode-90", "the same, 90 %", kQwen8b, 7168 * kMiB, 0.9, 1, 1, 1.10},
    {"8b-resident", "Qwen3-8B Q4_K_M, decode, batch 1, all resident", kQwen8b, 8192 * kMiB, 1, 1, 1,
     2.2},
};

int RunRow(const DenseRow& row) {
  MemoryWatch watch;
  const MatrixBytes bytes = CountBytes(row.model);
  const uint64_t resident = row.resident == kHeadOnly ? bytes.head + kMiB
                            : row.resident == 1       ? UINT64_MAX
                                                : static_cast<uint64_t>(bytes.total * row.resident);
  auto model = LoadModel(row.model, {.cuda = true,
                                     .activations = ActivationPrecision::kInt8,
                                     .kv_pages = row.sequences * kPagesEach,
                                     .step_tokens = std::max(512, row.tokens),
                                     .max_sequences = row.sequences,
                                     .memory_budget = row.budget,
                                     .resident_weights = resident});
  const int first = row.tokens == 1 ? 512 : 0;
  if (first > 0) {
    for (int s = 0; s < row.sequences; ++s) {
      StepBatch prompt = MakeBatch(1, first, 0);
      for (int32_t& page : prompt.sequences[0].pages) page += s * kPagesEach;
      MustRun(*model, prompt);
    }
  }
  std::vector<double> times;
  const auto start = Clock::now();
  // Positions go on, as they do when text is written.
  for (int step = 0; SecondsSince(start) < absl::GetFlag(FLAGS_seconds) || times.size() < 10;
       ++step) {
    const StepBatch batch =
        MakeBatch(row.sequences, row.tokens, first == 0 ? 0 : first + step % 64);
    const auto begin = Clock::now();
    MustRun(*model, batch);
    if (step >= 5) times.push_back(SecondsSince(begin));
  }
  const LinkCounters counters = *model->engine->link_counters();
  RowResult result{.title = row.title,
                   .link_bytes = model->engine->placement().streamed_bytes,
                   .seconds = Median(times),
                   .peak_bytes = watch.Peak(),
                   .budget_bytes = row.budget};
  model.reset();
  const double link = CopyBandwidth(cudaMemcpyHostToDevice, 256 * kMiB);
  const double memory = CopyBandwidth(cudaMemcpyDeviceToDevice, 4096 * kMiB);
  const bool streams = result.link_bytes > 0;
  result.floor = absl::StrFormat("%.1f GB/s", (streams ? link : memory) / 1e9);
  result.floor_seconds = streams ? result.link_bytes / link : bytes.total / memory;
  result.ratio = result.seconds / result.floor_seconds;
  result.bound = absl::StrFormat(streams ? "<= %.2f" : "%.2f ms", row.bound);
  result.reached = (streams ? result.ratio : result.seconds * 1e3) <= row.bound;
  PrintDetails(row.name, times, counters);
  return Print(result);
}

// Not a time: the peak of a run of steps of all sizes. Prompts of 1 to 4096 tokens in pieces,
// decode steps of 1 to 8 sequences between them.
int RunMixed() {
  constexpr uint64_t kBudget = 3072 * kMiB;
  MemoryWatch watch;
  auto model = LoadModel(kQwen8b, {.cuda = true,
                                   .activations = ActivationPrecision::kInt8,
                                   .kv_pages = 4096 / 32 + 8,
                                   .step_tokens = 512,
                                   .max_sequences = 8,
                                   .memory_budget = kBudget});
  uint32_t random = 12345;
  const auto next = [&](uint32_t below) {
    random = random * 1664525 + 1013904223;
    return (random >> 8) % below;
  };
  int steps = 0;
  const auto start = Clock::now();
  for (int round = 0; round < 12 || SecondsSince(start) < 4 * absl::GetFlag(FLAGS_seconds);
       ++round) {
    const int prompt = round == 0 ? 4096 : round == 1 ? 1 : 1 << next(13);
    for (int done = 0; done < prompt; ++steps) {
      const int rows = std::min(512, prompt - done);
      StepBatch batch;
      StepBatch::Sequence sequence{0, rows, done, {}};
      for (int page = 0; page < 128; ++page) sequence.pages.push_back(page);
      for (int i = 0; i < rows; ++i) {
        batch.tokens.push_back(next(1000));
        batch.positions.push_back(done + i);
      }
      done += rows;
      if (done == prompt) {
        batch.logit_rows.push_back(rows - 1);
        batch.logit_values.push_back(next(2) == 0);
      }
      batch.sequences.push_back(sequence);
      MustRun(*model, batch);
    }
    const int sequences = 1 + next(8);
    for (int step = 0; step < 4; ++step, ++steps) {
      StepBatch batch = MakeBatch(sequences, 1, step);
      for (int s = 0; s < sequences; ++s) batch.sequences[s].pages = {128 + s};
      MustRun(*model, batch);
    }
  }
  const uint64_t peak = watch.Peak();
  std::printf(
      "| Qwen3-8B Q4_K_M, %d steps: prompts of 1 to 4096 tokens, decode of 1 to 8 sequences | "
      "| | | | | %.0f MiB of %.0f | %s |\n",
      steps, peak / 1048576.0, kBudget / 1048576.0, peak <= kBudget ? "yes" : "NO");
  return peak <= kBudget ? 0 : 2;
}

}  // namespace

std::vector<Row> DenseRows() {
  std::vector<Row> rows;
  for (const DenseRow& row : kRows)
    rows.push_back({row.name, row.model, [&] { return RunRow(row); }});
  rows.push_back({"8b-mixed", kQwen8b, RunMixed});
  return rows;
}

}  // namespace gguf_offload
