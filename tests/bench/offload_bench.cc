// Models larger than the GPU's budget against the limits of the link and of the GPU's memory.
//
//   offload_bench [--folder=/dev/shm] [--rows=all] [--out=RESULTS.md]
//
// Generates the models it needs in `folder`, checks their logits against the CPU backend, then runs
// each row in a process of its own, so that the driver's count of memory is the row's alone.
// Prints, for each, the floor measured in the same run, the median time of a step, their ratio, and
// the peak of GPU memory beyond the CUDA context.
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tests/fixtures/running_model.h"
#include "tests/modelgen/synthetic_model.h"

ABSL_FLAG(std::string, folder, "/dev/shm", "Where models are generated; memory, not a disk");
ABSL_FLAG(std::string, rows, "all", "Names of rows, separated by commas");
ABSL_FLAG(std::string, out, "", "Also writes the table here");
ABSL_FLAG(bool, check, true, "Compare logits with the CPU backend first");
ABSL_FLAG(double, seconds, 3, "How long each row is measured");
ABSL_FLAG(std::string, row, "", "For the processes that run one row");

namespace gguf_offload {
namespace {

constexpr uint64_t kMiB = 1 << 20;

struct ModelSpec {
  const char* preset;
  const char* quantization;
};
constexpr ModelSpec kQwen05b = {"qwen2.5-0.5b", "Q8_0"};
constexpr ModelSpec kQwen8b = {"qwen3-8b", "Q4_K_M"};

struct Row {
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

const Row kRows[] = {
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
// Not a time: the peak of a run of steps of all sizes.
constexpr char kMixed[] = "8b-mixed";

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

std::string PathOf(const ModelSpec& model) {
  return absl::StrCat(absl::GetFlag(FLAGS_folder), "/", model.preset, "-", model.quantization,
                      ".gguf");
}

bool Generate(const ModelSpec& model) {
  if (access(PathOf(model).c_str(), R_OK) == 0) return true;
  const auto start = Clock::now();
  auto plan = SyntheticModel::Plan({.preset = model.preset, .quantization = model.quantization});
  absl::Status status = plan.status();
  const std::string partial = PathOf(model) + ".partial";
  if (status.ok()) {
    status = plan->Write(partial, std::max(1u, std::thread::hardware_concurrency())).status();
  }
  if (!status.ok() || rename(partial.c_str(), PathOf(model).c_str()) != 0) {
    std::fprintf(stderr, "offload_bench: %s: %s\n", model.preset, status.ToString().c_str());
    return false;
  }
  std::printf("generated %s in %.1f s\n", PathOf(model).c_str(), SecondsSince(start));
  return true;
}

// The driver's count of memory taken since the context was made, and its peak.
class MemoryWatch {
 public:
  MemoryWatch() {
    cudaFree(nullptr);
    free_at_start_ = lowest_free_ = Free();
    thread_ = std::thread([this] {
      cudaSetDevice(0);
      while (!done_) {
        Sample();
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    });
  }
  ~MemoryWatch() {
    done_ = true;
    thread_.join();
  }
  uint64_t Peak() {
    Sample();
    return free_at_start_ - lowest_free_;
  }

 private:
  static uint64_t Free() {
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return free;
  }
  void Sample() {
    const uint64_t free = Free();
    uint64_t lowest = lowest_free_;
    while (free < lowest && !lowest_free_.compare_exchange_weak(lowest, free)) {
    }
  }

  uint64_t free_at_start_ = 0;
  std::atomic<uint64_t> lowest_free_{0};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Bytes a second of copies of `bytes` within the GPU (read and written) or to it.
double Bandwidth(cudaMemcpyKind kind, uint64_t bytes) {
  void *from = nullptr, *to = nullptr;
  cudaMalloc(&to, bytes);
  if (kind == cudaMemcpyHostToDevice) {
    cudaHostAlloc(&from, bytes, cudaHostAllocDefault);
  } else {
    cudaMalloc(&from, bytes);
  }
  cudaEvent_t start, end;
  cudaEventCreate(&start);
  cudaEventCreate(&end);
  std::vector<double> rates;
  for (int i = 0; i < 12; ++i) {
    cudaEventRecord(start);
    cudaMemcpyAsync(to, from, bytes, kind);
    cudaEventRecord(end);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, start, end);
    if (i >= 2) rates.push_back(bytes / (milliseconds * 1e-3));
  }
  cudaFree(to);
  kind == cudaMemcpyHostToDevice ? cudaFreeHost(from) : cudaFree(from);
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return Median(rates) * (kind == cudaMemcpyHostToDevice ? 1 : 2);
}

constexpr int kPagesEach = 18;  // 576 positions a sequence

// `sequences` sequences of `rows` new tokens each, from position `first` on; greedy.
StepBatch MakeBatch(int sequences, int rows, int first) {
  StepBatch batch;
  for (int s = 0; s < sequences; ++s) {
    StepBatch::Sequence sequence{batch.rows(), rows, first, {}};
    for (int page = 0; page < kPagesEach; ++page) {
      sequence.pages.push_back(s * kPagesEach + page);
    }
    for (int row = 0; row < rows; ++row) {
      batch.tokens.push_back((s * 131 + row * 17 + first) % 1000);
      batch.positions.push_back(first + row);
    }
    batch.logit_rows.push_back(batch.rows() - 1);
    batch.logit_values.push_back(false);
    batch.sequences.push_back(std::move(sequence));
  }
  return batch;
}

std::unique_ptr<RunningModel> LoadModel(const ModelSpec& spec, RunningModel::Options options) {
  auto model = RunningModel::Create(PathOf(spec), options);
  if (!model.ok()) {
    std::fprintf(stderr, "offload_bench: %s\n", std::string(model.status().message()).c_str());
    std::exit(1);
  }
  return *std::move(model);
}

// Bytes of the matrices that a step reads, and of the head among them.
void CountBytes(const ModelSpec& spec, uint64_t& total, uint64_t& head) {
  auto source = FileWeightSource::Open(PathOf(spec), FileWeightSource::Mode::kShared);
  auto architecture = CreateArchitecture((*source)->manifest());
  auto tensors = ResolveTensors(**architecture, (*source)->manifest());
  total = head = 0;
  for (const auto& group : tensors->groups) {
    for (const ModelTensor& tensor : group) {
      const bool is_head =
          tensor.id == kOutput || (tensors->tied_head && tensor.id == kTokenEmbedding);
      if (tensor.is_vector() || (tensor.id == kTokenEmbedding && !is_head)) continue;
      total += tensor.bytes;
      if (is_head) head += tensor.bytes;
    }
  }
}

void MustRun(RunningModel& model, const StepBatch& batch) {
  const absl::Status status =
      model.forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
  if (!status.ok()) {
    std::fprintf(stderr, "offload_bench: %s\n", std::string(status.message()).c_str());
    std::exit(1);
  }
}

// Logits of the last of 80 tokens (through cuBLAS) and of the token after them, from the GPU with
// everything streamed and from the CPU.
bool CheckLogits(const ModelSpec& spec) {
  const auto logits = [&](RunningModel::Options options) {
    options.step_tokens = 128;
    options.max_sequences = 1;
    auto model = LoadModel(spec, options);
    std::vector<float> values;
    for (int step = 0; step < 2; ++step) {
      StepBatch batch = step == 0 ? MakeBatch(1, 80, 0) : MakeBatch(1, 1, 80);
      batch.logit_values[0] = true;
      const absl::Status status =
          model->forward->Run(batch, absl::InfiniteFuture(), [&](int, const RowLogits& row) {
            values.insert(values.end(), row.values.begin(), row.values.end());
          });
      if (!status.ok()) std::exit(1);
    }
    return values;
  };
  const std::vector<float> cpu =
      logits({.activations = ActivationPrecision::kFloat32,
              .threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))});
  const std::vector<float> gpu = logits({.cuda = true,
                                         .activations = ActivationPrecision::kInt8,
                                         .memory_budget = 2048 * kMiB,
                                         .resident_weights = 0});
  double worst = 0;
  const size_t half = cpu.size() / 2;
  for (size_t begin : {size_t{0}, half}) {
    double error = 0, norm = 0;
    for (size_t i = begin; i < begin + half; ++i) {
      error += std::pow(double{gpu[i]} - cpu[i], 2);
      norm += std::pow(double{cpu[i]}, 2);
    }
    const double nmse = error / norm;
    worst = nmse <= worst ? worst : nmse;  // NaN stays
  }
  std::printf("%s %s: NMSE against the CPU in float32: %.3g%s\n", spec.preset, spec.quantization,
              worst, worst <= 5e-3 ? "" : "  TOO LARGE");
  return worst <= 5e-3;
}

// Runs one row and prints its line of the table.
int RunRow(const Row& row) {
  MemoryWatch watch;
  uint64_t total = 0, head = 0;
  CountBytes(row.model, total, head);
  const uint64_t resident = row.resident == kHeadOnly ? head + kMiB
                            : row.resident == 1       ? UINT64_MAX
                                                      : static_cast<uint64_t>(total * row.resident);
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
  const uint64_t streamed = model->engine->placement().streamed_bytes;
  const uint64_t peak = watch.Peak();
  model.reset();
  const double link = Bandwidth(cudaMemcpyHostToDevice, 256 * kMiB);
  const double memory = Bandwidth(cudaMemcpyDeviceToDevice, 4096 * kMiB);
  const double time = Median(times);
  const double floor = streamed > 0 ? streamed / link : total / memory;
  const double ratio = time / floor;
  const bool reached = streamed > 0 ? ratio <= row.bound : time * 1e3 <= row.bound;
  std::printf(
      "| %s | %.0f MB | %.2f ms (%s) | %.2f ms | %.3f | %s%.2f%s | %.0f MiB of %.0f | %s |\n",
      row.title, streamed / 1e6, floor * 1e3,
      absl::StrFormat("%.1f GB/s", (streamed > 0 ? link : memory) / 1e9).c_str(), time * 1e3, ratio,
      streamed > 0 ? "<= " : "", row.bound, streamed > 0 ? "" : " ms", peak / 1048576.0,
      row.budget / 1048576.0, reached && peak <= row.budget ? "yes" : "NO");
  std::fprintf(
      stderr,
      "%s: %zu steps, fastest %.2f ms, slowest %.2f ms; copy lane busy %.2f s, idle %.2f s; "
      "compute lane busy %.2f s, idle %.2f s, stalls %lu\n",
      row.name, times.size(), *std::min_element(times.begin(), times.end()) * 1e3,
      *std::max_element(times.begin(), times.end()) * 1e3, counters.copy_busy_seconds,
      counters.copy_idle_seconds, counters.compute_busy_seconds, counters.compute_idle_seconds,
      static_cast<unsigned long>(counters.ring_stalls));
  return reached && peak <= row.budget ? 0 : 2;
}

// Prompts of 1 to 4096 tokens in pieces, decode steps of 1 to 8 sequences between them.
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

// Runs `row` in a process of its own and returns what it printed.
std::string RunInProcess(const std::string& program, const std::string& row, int& failures) {
  const std::string command =
      absl::StrCat(program, " --row=", row, " --folder=", absl::GetFlag(FLAGS_folder),
                   " --seconds=", absl::GetFlag(FLAGS_seconds));
  FILE* const pipe = popen(command.c_str(), "r");
  std::string output;
  char buffer[4096];
  while (pipe != nullptr && std::fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  if (pipe == nullptr || pclose(pipe) != 0) ++failures;
  return output;
}

int RunAll(const std::string& program) {
  const std::vector<std::string> wanted = absl::StrSplit(absl::GetFlag(FLAGS_rows), ',');
  const auto is_wanted = [&](const char* name) {
    return wanted.front() == "all" || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
  };
  int failures = 0;
  for (const ModelSpec& model : {kQwen05b, kQwen8b}) {
    bool used = model.preset == kQwen8b.preset && is_wanted(kMixed);
    for (const Row& row : kRows) used |= row.model.preset == model.preset && is_wanted(row.name);
    if (!used) continue;
    if (!Generate(model)) return 1;
    if (!absl::GetFlag(FLAGS_check)) continue;
    const std::string checked =
        RunInProcess(program, absl::StrCat("check-", model.preset), failures);
    std::printf("%s", checked.c_str());
  }
  std::string table =
      "| workload | over the link a step | floor | time | ratio | to reach | peak GPU memory | "
      "reached |\n|---|---|---|---|---|---|---|---|\n";
  for (const Row& row : kRows) {
    if (is_wanted(row.name)) table += RunInProcess(program, row.name, failures);
  }
  if (is_wanted(kMixed)) table += RunInProcess(program, kMixed, failures);
  std::printf("\n%s", table.c_str());
  if (!absl::GetFlag(FLAGS_out).empty()) std::ofstream(absl::GetFlag(FLAGS_out)) << table;
  return failures == 0 ? 0 : 2;
}

int Main(const std::string& program) {
  const std::string name = absl::GetFlag(FLAGS_row);
  if (name.empty()) return RunAll(program);
  if (name == kMixed) return RunMixed();
  for (const ModelSpec& model : {kQwen05b, kQwen8b}) {
    if (name == absl::StrCat("check-", model.preset)) return CheckLogits(model) ? 0 : 2;
  }
  for (const Row& row : kRows) {
    if (name == row.name) return RunRow(row);
  }
  std::fprintf(stderr, "offload_bench: there is no row %s\n", name.c_str());
  return 1;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return gguf_offload::Main(argv[0]);
}
