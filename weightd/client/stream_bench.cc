// Measures how fast bytes come from a running weight daemon.
//
//   stream_bench --address=127.0.0.1:50051 --model=demo [--streams=2] [--rounds=8]
//
// Reads all files of the model into memory, again and again, and prints GB/s (10^9 bytes a second)
// of each round and of the best.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "weightd/client/weight_source.h"

ABSL_FLAG(std::string, address, "127.0.0.1:50051", "The daemon: unix:PATH or HOST:PORT.");
ABSL_FLAG(std::string, model, "", "Name of the model.");
ABSL_FLAG(int, streams, 1, "Sources that share the work.");
ABSL_FLAG(int, rounds, 5, "How often to read everything.");
ABSL_FLAG(uint64_t, credit_mib, 16, "Bytes that may be on their way, a source.");
ABSL_FLAG(bool, checksums, true, "Whether to check each chunk.");

namespace gguf_offload {
namespace {

int Main() {
  std::vector<std::unique_ptr<WeightSource>> sources;
  for (int i = 0; i < absl::GetFlag(FLAGS_streams); ++i) {
    auto source = WeightSource::Attach({.address = absl::GetFlag(FLAGS_address),
                                        .model = absl::GetFlag(FLAGS_model),
                                        .worker = absl::StrCat("stream_bench-", i),
                                        .credit_bytes = absl::GetFlag(FLAGS_credit_mib) << 20,
                                        .checksums = absl::GetFlag(FLAGS_checksums)});
    if (!source.ok()) {
      std::fprintf(stderr, "stream_bench: %s\n", source.status().ToString().c_str());
      return 1;
    }
    sources.push_back(*std::move(source));
  }
  const v1::Manifest& manifest = sources[0]->manifest();
  uint64_t total = 0;
  for (const v1::ShardInfo& shard : manifest.shards()) total += shard.bytes();
  std::vector<uint8_t> memory(total, 1);

  double best = 0;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    std::vector<std::vector<WeightSource::Range>> work(sources.size());
    uint64_t at = 0;
    for (int s = 0; s < manifest.shards_size(); ++s) {
      const uint64_t bytes = manifest.shards(s).bytes();
      const uint64_t part = bytes / sources.size() + 1;
      for (size_t i = 0; i < sources.size(); ++i) {
        const uint64_t begin = std::min(bytes, i * part), end = std::min(bytes, begin + part);
        work[i].push_back(
            {static_cast<uint32_t>(s), begin, end - begin, memory.data() + at + begin});
      }
      at += bytes;
    }
    absl::BlockingCounter left(static_cast<int>(sources.size()));
    bool failed = false;
    const absl::Time start = absl::Now();
    for (size_t i = 0; i < sources.size(); ++i) {
      sources[i]->ReadAsync(std::move(work[i]), absl::InfiniteFuture(), [&](absl::Status status) {
        if (!status.ok()) {
          std::fprintf(stderr, "stream_bench: %s\n", status.ToString().c_str());
          failed = true;
        }
        left.DecrementCount();
      });
    }
    left.Wait();
    if (failed) return 1;
    const double rate =
        static_cast<double>(total) / absl::ToDoubleSeconds(absl::Now() - start) / 1e9;
    best = std::max(best, rate);
    std::printf("round %d: %.2f GB/s\n", round, rate);
  }
  std::printf("best: %.2f GB/s, %zu stream(s), %.2f GB a round\n", best, sources.size(),
              static_cast<double>(total) / 1e9);
  return 0;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  return gguf_offload::Main();
}
