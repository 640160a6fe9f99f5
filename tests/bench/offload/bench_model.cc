#include "tests/bench/offload/bench_model.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "tests/bench/offload/measurement.h"
#include "tests/modelgen/synthetic_model.h"

ABSL_FLAG(std::string, folder, "/dev/shm", "Where models are generated; memory, not a disk");
ABSL_FLAG(double, seconds, 3, "How long each row is measured");
ABSL_FLAG(int, r1_layers, 0, "How many layers of DeepSeek-R1 are made; 0: all 61");

namespace gguf_offload {
namespace {

int Threads() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

[[noreturn]] void Exit(const ModelSpec& spec, const absl::Status& status) {
  std::fprintf(stderr, "offload_bench: %s: %s\n", spec.preset,
               std::string(status.message()).c_str());
  std::exit(1);
}

std::vector<float> LogitsOf(const ModelSpec& spec, RunningModel::Options options) {
  options.step_tokens = 128;
  options.max_sequences = 1;
  const std::unique_ptr<RunningModel> model = LoadModel(spec, options);
  std::vector<float> values;
  for (int step = 0; step < 2; ++step) {
    StepBatch batch = step == 0 ? MakeBatch(1, 80, 0) : MakeBatch(1, 1, 80);
    batch.logit_values[0] = true;
    const absl::Status status =
        model->forward->Run(batch, absl::InfiniteFuture(), [&](int, const RowLogits& row) {
          values.insert(values.end(), row.values.begin(), row.values.end());
        });
    if (!status.ok()) Exit(spec, status);
  }
  return values;
}

}  // namespace

ModelSpec DeepSeekR1() { return {"deepseek-r1", "UD-IQ1_S", absl::GetFlag(FLAGS_r1_layers)}; }

std::string ModelSpec::path() const {
  const std::string some = layers > 0 ? absl::StrCat("-", layers, "-layers") : "";
  return absl::StrCat(absl::GetFlag(FLAGS_folder), "/", preset, "-", quantization, some, ".gguf");
}

bool Generate(const ModelSpec& spec) {
  if (access(spec.path().c_str(), R_OK) == 0) return true;
  const auto start = Clock::now();
  SyntheticModelOptions options{.preset = spec.preset, .quantization = spec.quantization};
  if (spec.layers > 0) options.overrides.layers = spec.layers;
  auto plan = SyntheticModel::Plan(options);
  absl::Status status = plan.status();
  const std::string partial = spec.path() + ".partial";
  if (status.ok()) status = plan->Write(partial, Threads()).status();
  if (!status.ok() || rename(partial.c_str(), spec.path().c_str()) != 0) {
    std::fprintf(stderr, "offload_bench: %s: %s\n", spec.preset, status.ToString().c_str());
    return false;
  }
  std::printf("generated %s in %.1f s\n", spec.path().c_str(), SecondsSince(start));
  std::fflush(stdout);
  return true;
}

std::unique_ptr<RunningModel> LoadModel(const ModelSpec& spec, RunningModel::Options options) {
  auto model = RunningModel::Create(spec.path(), options);
  if (!model.ok()) Exit(spec, model.status());
  return *std::move(model);
}

MatrixBytes CountBytes(const ModelSpec& spec) {
  auto source = FileWeightSource::Open(spec.path(), FileWeightSource::Mode::kShared);
  if (!source.ok()) Exit(spec, source.status());
  auto architecture = CreateArchitecture((*source)->manifest());
  auto tensors = ResolveTensors(**architecture, (*source)->manifest());
  MatrixBytes bytes;
  uint64_t slices = 0;
  for (const auto& group : tensors->groups) {
    for (const ModelTensor& tensor : group) {
      const bool is_head =
          tensor.id == kOutput || (tensors->tied_head && tensor.id == kTokenEmbedding);
      if (tensor.is_vector() || (tensor.id == kTokenEmbedding && !is_head)) continue;
      bytes.total += tensor.bytes;
      if (is_head) bytes.head += tensor.bytes;
      if (tensor.id == kExpertGate || tensor.id == kExpertUp || tensor.id == kExpertDown) {
        bytes.experts += tensor.bytes;
        slices += tensor.matrices;
      }
    }
  }
  if (slices > 0) bytes.expert_slice = bytes.experts / slices;
  return bytes;
}

StepBatch MakeBatch(int sequences, int rows, int first, int pages_each) {
  StepBatch batch;
  for (int s = 0; s < sequences; ++s) {
    StepBatch::Sequence sequence{batch.rows(), rows, first, {}};
    for (int page = 0; page < pages_each; ++page) {
      sequence.pages.push_back(s * pages_each + page);
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

void MustRun(RunningModel& model, const StepBatch& batch) {
  const absl::Status status =
      model.forward->Run(batch, absl::InfiniteFuture(), [](int, const RowLogits&) {});
  if (status.ok()) return;
  std::fprintf(stderr, "offload_bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

bool CheckLogits(const ModelSpec& spec) {
  const std::vector<float> cpu =
      LogitsOf(spec, {.activations = ActivationPrecision::kFloat32, .threads = Threads()});
  const MatrixBytes bytes = CountBytes(spec);
  const bool experts = bytes.experts > 0;
  // Of a mixture of experts everything else stays.
  const std::vector<float> gpu = LogitsOf(
      spec, {.cuda = true,
             .activations = ActivationPrecision::kInt8,
             .memory_budget = experts ? bytes.total - bytes.experts + 12288 * kMiB : 2048 * kMiB,
             .resident_weights = experts ? UINT64_MAX : 0,
             .expert_cache = 0});
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
  // One token that goes to another expert changes its row of a random model altogether.
  const double bound = experts ? 0.1 : 5e-3;
  std::printf("%s %s: NMSE against the CPU in float32: %.3g%s\n", spec.preset, spec.quantization,
              worst, worst <= bound ? "" : "  TOO LARGE");
  return worst <= bound;
}

}  // namespace gguf_offload
