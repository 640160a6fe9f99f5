#include "tests/modelgen/quantize_command.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "kernels/quant/format.h"
#include "tests/modelgen/quantize/quantize_file.h"

ABSL_FLAG(std::string, in, "", "quantize: the file to convert");
ABSL_FLAG(std::string, type, "",
          "quantize: F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q4_K, Q3_K, Q2_K, Q4_0, IQ4_NL, IQ4_XS or "
          "MXFP4, for all tensors of two dimensions or more whose rows are whole blocks");
ABSL_FLAG(std::string, embedding_type, "",
          "quantize: another type for token_embd.weight and output.weight");

namespace gguf_offload {
namespace {

using quant::TensorType;

int Fail(const std::string& message) {
  std::fprintf(stderr, "modelgen: %s\n", message.c_str());
  return 1;
}

std::string NameOf(TensorType type) { return std::string(quant::FormatOf(type).name); }

// Sizes by old and new type, the tensors that kept theirs by reason, and a warning where there were
// quantized tensors before.
void PrintOutcomes(const std::vector<QuantizedTensor>& tensors) {
  struct Total {
    int count = 0;
    uint64_t from = 0, to = 0;
  };
  std::map<std::pair<std::string, std::string>, Total> totals;
  int quantized_before = 0;
  for (const QuantizedTensor& tensor : tensors) {
    Total& total = totals[{NameOf(tensor.from), NameOf(tensor.to)}];
    ++total.count;
    total.from += tensor.from_bytes;
    total.to += tensor.to_bytes;
    quantized_before += tensor.from != tensor.to && quant::FormatOf(tensor.from).block_elements > 1;
  }
  for (const auto& [types, total] : totals) {
    std::printf("  %-7s -> %-7s %5d tensors %14.3f MB -> %14.3f MB\n", types.first.c_str(),
                types.second.c_str(), total.count, static_cast<double>(total.from) / 1e6,
                static_cast<double>(total.to) / 1e6);
  }
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> kept;
  for (const QuantizedTensor& tensor : tensors) {
    if (!tensor.why_kept.empty()) {
      kept[{NameOf(tensor.to), tensor.why_kept}].push_back(tensor.name);
    }
  }
  for (const auto& [type_and_reason, names] : kept) {
    const auto& [type, reason] = type_and_reason;
    std::printf("  %zu stay %s, %s: %s%s\n", names.size(), type.c_str(), reason.c_str(),
                names[0].c_str(), names.size() > 1 ? ", ..." : "");
  }
  if (quantized_before > 0) {
    std::fprintf(
        stderr, "modelgen: warning: %d tensors were quantized already; what that lost stays lost\n",
        quantized_before);
  }
}

// Sets `type` to the one of this name; whether there is one.
bool FindType(const std::string& name, TensorType* type) {
  const quant::Format* format = quant::FindFormatByName(name);
  if (format == nullptr) return false;
  *type = format->type;
  return true;
}

}  // namespace

int RunQuantize(const std::string& out, int threads) {
  QuantizeOptions options;
  options.in = absl::GetFlag(FLAGS_in);
  options.out = out;
  if (options.in.empty()) return Fail("quantize: --in is missing");
  if (options.out.empty()) return Fail("quantize: --out is missing");
  const std::string type = absl::GetFlag(FLAGS_type);
  if (!FindType(type, &options.type)) return Fail("quantize: no type '" + type + "' for --type");
  const std::string embedding = absl::GetFlag(FLAGS_embedding_type);
  if (!embedding.empty() && !FindType(embedding, &options.embedding_type.emplace())) {
    return Fail("quantize: no type '" + embedding + "' for --embedding-type");
  }
  options.threads =
      threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<std::vector<QuantizedTensor>> tensors = QuantizeFile(options);
  if (!tensors.ok()) return Fail(tensors.status().ToString());
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::printf("%s\n", options.out.c_str());
  PrintOutcomes(*tensors);
  std::printf("  converted in %.3f s, %d threads\n", elapsed.count(), options.threads);
  return 0;
}

}  // namespace gguf_offload
