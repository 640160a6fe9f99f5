#include "weightd/metrics/weight_metrics.h"

#include <array>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>

#include "common/metrics/samples.h"
#include "gguf_offload/v1/diagnostics.pb.h"
#include "weightd/store/resident_pages.h"

namespace gguf_offload {
namespace {

// Pages of all models that a scrape looks at: 1 GiB exactly, more by an estimate, in some 25 ms.
constexpr size_t kMaxPages = 256 << 10;

// Opening and parsing: milliseconds, or seconds from a slow disk.
const prometheus::Histogram::BucketBoundaries kLoadBuckets = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5,
                                                              1,     5,     10,   30,   60};
// A block of up to 3 MiB: from memory tens of microseconds, from a disk a hundred times as long.
const prometheus::Histogram::BucketBoundaries kReadBuckets = {
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025,
    0.005,   0.01,     0.025,   0.05,   0.1,     0.25,   0.5,   1};

constexpr std::array<const char*, 2> kMethods = {"stream", "read_blocks"};
constexpr std::array<const char*, 5> kLeaseEnds = {"detached", "broken", "timed_out", "drained",
                                                   "failed"};
constexpr std::array<const char*, 5> kHandoffResults = {"ok", "bad_ticket", "not_shareable",
                                                        "aborted", "wrong_user"};

prometheus::Counter& AddCounter(prometheus::Registry& registry, const char* name,
                                const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

std::string StateName(store::ModelState state) {
  switch (state) {
    case store::ModelState::kLoading:
      return "loading";
    case store::ModelState::kReady:
      return "ready";
    case store::ModelState::kFailed:
      return "failed";
    case store::ModelState::kQuarantined:
      return "quarantined";
  }
  return "unknown";
}

// Bytes that mlock(2) holds, by the kernel's count.
double LockedBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmLck:")) {
      return 1024.0 * std::strtod(line.c_str() + sizeof("VmLck:"), nullptr);
    }
  }
  return 0;
}

uint64_t ResidentBytesOf(const store::Model& model, size_t max_pages) {
  uint64_t bytes = 0;
  for (const store::Model::Shard& shard : model.shards()) {
    const std::optional<uint64_t> there =
        store::ResidentBytes(*shard.file, max_pages / model.shards().size());
    // What has been brought in on request is the least that is known then.
    if (!there.has_value()) return model.populated_bytes();
    bytes += *there;
  }
  return bytes;
}

void CollectModels(const store::ModelStore& store, std::vector<prometheus::MetricFamily>& out) {
  std::map<std::string, int> states = {
      {"loading", 0}, {"ready", 0}, {"failed", 0}, {"quarantined", 0}};
  for (const store::ModelStatus& status : store.List()) ++states[StateName(status.state)];
  prometheus::MetricFamily models = GaugeFamily("gguf_offload_weightd_models", "Models by state.");
  for (const auto& [state, count] : states) AddSample(models, count, {{"state", state}});
  prometheus::MetricFamily mapped =
      GaugeFamily("gguf_offload_weightd_mapped_bytes", "Size of a model's mapped files.");
  prometheus::MetricFamily resident =
      GaugeFamily("gguf_offload_weightd_resident_bytes",
                  "Bytes of a model's files that are in memory; of large models an estimate.");
  prometheus::MetricFamily populated =
      GaugeFamily("gguf_offload_weightd_populated_bytes",
                  "Bytes of a model that were brought into memory because residency asks for it.");
  const std::vector<std::shared_ptr<const store::Model>> all = store.Models();
  for (const std::shared_ptr<const store::Model>& model : all) {
    const MetricLabels labels = {{"model", model->name()}};
    AddSample(mapped, static_cast<double>(model->total_bytes()), labels);
    AddSample(resident, static_cast<double>(ResidentBytesOf(*model, kMaxPages / all.size())),
              labels);
    AddSample(populated, static_cast<double>(model->populated_bytes()), labels);
  }
  for (auto* family : {&models, &mapped, &resident, &populated}) out.push_back(std::move(*family));
}

void CollectSessions(SessionBook& sessions, std::vector<prometheus::MetricFamily>& out) {
  std::map<std::string, int> leases = {{"shared_memory", 0}, {"stream", 0}};
  int streams = 0;
  double in_flight = 0;
  for (const v1::Session& session : sessions.List()) {
    if (session.kind() == "lease") {
      // One that has no model yet is none yet.
      if (!session.model().empty()) ++leases[session.transport()];
    } else {
      ++streams;
      in_flight += static_cast<double>(session.bytes_in_flight());
    }
  }
  prometheus::MetricFamily active =
      GaugeFamily("gguf_offload_weightd_leases", "Leases that workers hold, by their transport.");
  for (const auto& [transport, count] : leases) {
    AddSample(active, count, {{"transport", transport}});
  }
  out.push_back(std::move(active));
  out.push_back(
      Gauge("gguf_offload_weightd_streams", "StreamBlocks and ReadBlocks calls running.", streams));
  out.push_back(Gauge("gguf_offload_weightd_stream_bytes_in_flight",
                      "Bytes sent in running calls that their clients have not taken yet.",
                      in_flight));
}

}  // namespace

WeightMetrics::WeightMetrics(prometheus::Registry& registry)
    : load_seconds_(prometheus::BuildHistogram()
                        .Name("gguf_offload_weightd_model_load_seconds")
                        .Help("Time that a load that went well took to open, map and parse.")
                        .Register(registry)
                        .Add({}, kLoadBuckets)),
      load_failures_(prometheus::BuildCounter()
                         .Name("gguf_offload_weightd_model_load_failures_total")
                         .Help("Loads that failed, by status code.")
                         .Register(registry)),
      quarantines_(AddCounter(registry, "gguf_offload_weightd_quarantines_total",
                              "Generations of models whose files were found damaged.")),
      changed_tensors_(AddCounter(
          registry, "gguf_offload_weightd_checksum_failures_total",
          "Tensors whose bytes were found to differ from those that were hashed first.")),
      descriptors_(AddCounter(registry, "gguf_offload_weightd_handoff_descriptors_total",
                              "Descriptors handed to workers over the Unix socket.")) {
  // Those that rates should begin with zero for.
  for (const char* code : {"DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND",
                           "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}) {
    load_failures_.Add({{"code", code}});
  }
  auto& blocks = prometheus::BuildCounter()
                     .Name("gguf_offload_weightd_read_blocks_total")
                     .Help("Blocks of files read to be sent, by transport.")
                     .Register(registry);
  auto& bytes = prometheus::BuildCounter()
                    .Name("gguf_offload_weightd_read_bytes_total")
                    .Help("Bytes of these blocks.")
                    .Register(registry);
  auto& seconds = prometheus::BuildHistogram()
                      .Name("gguf_offload_weightd_read_seconds")
                      .Help("Time to read a block from its file and, in streams, to hash it.")
                      .Register(registry);
  for (size_t i = 0; i < kMethods.size(); ++i) {
    const prometheus::Labels labels = {{"transport", kMethods[i]}};
    transfers_[i] = {&blocks.Add(labels), &bytes.Add(labels), &seconds.Add(labels, kReadBuckets)};
  }
  auto& ends = prometheus::BuildCounter()
                   .Name("gguf_offload_weightd_leases_ended_total")
                   .Help("Leases that have ended, by how.")
                   .Register(registry);
  for (size_t i = 0; i < kLeaseEnds.size(); ++i) {
    lease_ends_[i] = &ends.Add({{"reason", kLeaseEnds[i]}});
  }
  auto& handoffs = prometheus::BuildCounter()
                       .Name("gguf_offload_weightd_handoffs_total")
                       .Help("Handoffs of descriptors over the Unix socket, by result.")
                       .Register(registry);
  for (size_t i = 0; i < kHandoffResults.size(); ++i) {
    handoffs_[i] = &handoffs.Add({{"result", kHandoffResults[i]}});
  }
}

void WeightMetrics::Watch(ServiceCore* core) {
  absl::MutexLock lock(&mutex_);
  core_ = core;
}

void WeightMetrics::OnLoad(const absl::Status& status, absl::Duration took) {
  if (status.ok()) {
    load_seconds_.Observe(absl::ToDoubleSeconds(took));
  } else {
    load_failures_.Add({{"code", absl::StatusCodeToString(status.code())}}).Increment();
  }
}

void WeightMetrics::OnQuarantine() { quarantines_.Increment(); }
void WeightMetrics::OnTensorChanged() { changed_tensors_.Increment(); }

void WeightMetrics::OnBlockRead(Method method, uint64_t bytes, absl::Duration took) {
  const Transfer& transfer = transfers_[static_cast<size_t>(method)];
  transfer.blocks->Increment();
  transfer.bytes->Increment(static_cast<double>(bytes));
  transfer.seconds->Observe(absl::ToDoubleSeconds(took));
}

void WeightMetrics::OnLeaseEnd(LeaseEnd how) { lease_ends_[static_cast<size_t>(how)]->Increment(); }

void WeightMetrics::OnHandoff(shm::HandoffResult result, size_t descriptors) {
  handoffs_[static_cast<size_t>(result)]->Increment();
  descriptors_.Increment(static_cast<double>(descriptors));
}

std::vector<prometheus::MetricFamily> WeightMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  families.push_back(Gauge("gguf_offload_weightd_locked_bytes",
                           "Bytes that are locked in memory (mlock).", LockedBytes()));
  // Held while collecting, so that nothing is read that is being destroyed.
  absl::MutexLock lock(&mutex_);
  if (core_ == nullptr) return families;
  CollectModels(*core_->store, families);
  CollectSessions(core_->sessions, families);
  return families;
}

}  // namespace gguf_offload
