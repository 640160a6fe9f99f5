// modelgen --preset=NAME --quantization=MIX --out=PATH: writes a synthetic model as GGUF.
// modelgen quantize --in=FILE --out=PATH --type=TYPE: converts a model, whatever types it has, to
// another type of weights.
//
// Flags may be spelled with hyphens or underscores. --dry-run prints the sizes and writes nothing.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "tests/modelgen/quantize_command.h"
#include "tests/modelgen/synthetic_model.h"

ABSL_FLAG(std::string, preset, "",
          "qwen2.5-0.5b, qwen3-8b, llama-3-8b, qwen3-30b-a3b, deepseek-r1, tiny-llama, tiny-qwen2, "
          "tiny-qwen3, tiny-qwen3moe, tiny-deepseek2 or tiny-deepseek2-lite");
ABSL_FLAG(std::string, quantization, "Q8_0", "Q4_K_M, Q5_K_M, UD-IQ1_S or a type: F32 ... Q2_0");
ABSL_FLAG(std::string, out, "", "path of the file; shards are named after it");
ABSL_FLAG(uint64_t, seed, 1, "another seed, other weights");
ABSL_FLAG(int, threads, 0, "threads that write; 0: one a core. The bytes do not depend on it");
ABSL_FLAG(uint64_t, shard_bytes, 0,
          "split into shards of at most so many bytes of data; 0: one file");
ABSL_FLAG(bool, metadata_shard, false, "with --shard-bytes: the first shard holds no tensors");
ABSL_FLAG(bool, dry_run, false, "only print the sizes");
ABSL_FLAG(uint32_t, layers, 0, "instead of the preset's; also the following ones");
ABSL_FLAG(uint32_t, vocab, 0, "tokens in the vocabulary");
ABSL_FLAG(uint32_t, dim, 0, "embedding length");
ABSL_FLAG(uint32_t, feed_forward, 0, "units of a dense layer");
ABSL_FLAG(uint32_t, heads, 0, "query heads");
ABSL_FLAG(uint32_t, kv_heads, 0, "key/value heads");
ABSL_FLAG(uint32_t, experts, 0, "routed experts");

namespace gguf_offload {
namespace {

std::optional<uint32_t> UnlessZero(uint32_t value) {
  return value == 0 ? std::nullopt : std::optional<uint32_t>(value);
}

SyntheticModelOptions OptionsFromFlags() {
  SyntheticModelOptions options;
  options.preset = absl::GetFlag(FLAGS_preset);
  options.quantization = absl::GetFlag(FLAGS_quantization);
  options.seed = absl::GetFlag(FLAGS_seed);
  options.shard_bytes = absl::GetFlag(FLAGS_shard_bytes);
  options.metadata_shard = absl::GetFlag(FLAGS_metadata_shard);
  options.overrides.layers = UnlessZero(absl::GetFlag(FLAGS_layers));
  options.overrides.vocabulary = UnlessZero(absl::GetFlag(FLAGS_vocab));
  options.overrides.dim = UnlessZero(absl::GetFlag(FLAGS_dim));
  options.overrides.feed_forward = UnlessZero(absl::GetFlag(FLAGS_feed_forward));
  options.overrides.heads = UnlessZero(absl::GetFlag(FLAGS_heads));
  options.overrides.kv_heads = UnlessZero(absl::GetFlag(FLAGS_kv_heads));
  options.overrides.experts = UnlessZero(absl::GetFlag(FLAGS_experts));
  return options;
}

void PrintSize(const char* what, uint64_t bytes) {
  std::printf("  %-44s %14.3f MB %10.3f GiB\n", what, static_cast<double>(bytes) / 1e6,
              static_cast<double>(bytes) / (1 << 30));
}

void PrintSizes(const SyntheticModel& model) {
  const ModelBytes bytes = model.Bytes();
  std::printf("%s: %zu tensors in %zu file(s)\n", model.plan().name.c_str(),
              model.layout().tensors.size(), model.layout().shards.size());
  for (const auto& [type, total] : bytes.types) {
    std::printf("  %-8s %5zu tensors %28s %14.3f MB\n", type.c_str(), total.first, "",
                static_cast<double>(total.second) / 1e6);
  }
  PrintSize("files", bytes.file);
  PrintSize("tensors", bytes.tensors);
  PrintSize("layers", bytes.layers);
  PrintSize("layers and head (a step, all streamed)", bytes.layers + bytes.head);
  if (bytes.experts == 0) return;
  PrintSize("routed experts", bytes.experts);
  PrintSize("routed experts of one token", bytes.experts_a_token);
  PrintSize("all but routed experts", bytes.tensors - bytes.experts);
  PrintSize("largest expert bank (a layer)", bytes.largest_expert_bank);
}

int Run() {
  const absl::StatusOr<SyntheticModel> model = SyntheticModel::Plan(OptionsFromFlags());
  if (!model.ok()) {
    std::fprintf(stderr, "modelgen: %s\n", model.status().ToString().c_str());
    return 1;
  }
  PrintSizes(*model);
  if (absl::GetFlag(FLAGS_dry_run)) return 0;
  const std::string out = absl::GetFlag(FLAGS_out);
  if (out.empty()) {
    std::fprintf(stderr, "modelgen: --out is missing\n");
    return 1;
  }
  int threads = absl::GetFlag(FLAGS_threads);
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<std::vector<std::string>> paths = model->Write(out, threads);
  if (!paths.ok()) {
    std::fprintf(stderr, "modelgen: %s\n", paths.status().ToString().c_str());
    return 1;
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  for (const std::string& path : *paths) std::printf("%s\n", path.c_str());
  std::printf("  written in %.3f s, %.2f GB/s, %d threads\n", elapsed.count(),
              static_cast<double>(model->layout().file_bytes()) / 1e9 / elapsed.count(), threads);
  return 0;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  const bool quantize = argc > 1 && std::string_view(argv[1]) == "quantize";
  // Abseil knows flags with underscores only.
  std::vector<std::string> spelled(argv, argv + argc);
  std::vector<char*> arguments;
  for (std::string& argument : spelled) {
    if (argument.starts_with("--")) {
      const size_t end = std::min(argument.find('='), argument.size());
      std::replace(argument.begin() + 2, argument.begin() + static_cast<std::ptrdiff_t>(end), '-',
                   '_');
    }
    arguments.push_back(argument.data());
  }
  absl::SetProgramUsageMessage(
      "writes synthetic GGUF models and converts models\n"
      "modelgen --preset=qwen3-8b --quantization=Q4_K_M --out=PATH\n"
      "modelgen quantize --in=FILE --out=PATH --type=Q4_K");
  absl::ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
  if (!quantize) return gguf_offload::Run();
  return gguf_offload::RunQuantize(absl::GetFlag(FLAGS_out), absl::GetFlag(FLAGS_threads));
}
