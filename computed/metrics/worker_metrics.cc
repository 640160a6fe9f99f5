#include "computed/metrics/worker_metrics.h"

#include <array>
#include <optional>
#include <string>
#include <utility>

#include "common/metrics/samples.h"

namespace gguf_offload {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;

// Steps range from a millisecond (all resident, small) to a minute (streamed from a disk), requests
// to many minutes.
const Buckets kStepBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                              0.5,   1,      2.5,   5,    10,    30,   60};
const Buckets kRequestBuckets = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,
                                 5,    10,    25,   50,  100,  250, 500, 1000};
const Buckets kTokenBuckets = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};

constexpr std::array<const char*, 5> kRejections = {"invalid", "too_long", "queue_full",
                                                    "client_limit", "draining"};
constexpr std::array<const char*, 2> kKinds = {"generate", "evaluate"};

prometheus::Counter& AddCounter(prometheus::Registry& registry, const char* name,
                                const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Family<prometheus::Histogram>& HistogramFamily(prometheus::Registry& registry,
                                                           const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

const char* ReasonOf(const absl::Status& status, FinishReason reason) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      break;
    case absl::StatusCode::kCancelled:
      return "cancelled";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    case absl::StatusCode::kUnavailable:
      return "weights_unavailable";
    default:
      return "failed";
  }
  switch (reason) {
    case FinishReason::kEndOfText:
      return "end_of_text";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kNone:
      break;
  }
  return "evaluated";
}

void CollectSession(const InferenceSession* session, std::vector<prometheus::MetricFamily>& out) {
  const InferenceSession::Load load =
      session != nullptr ? session->load() : InferenceSession::Load{};
  out.push_back(Gauge("gguf_offload_computed_requests_running", "Requests that take part in steps.",
                      load.running));
  out.push_back(
      Gauge("gguf_offload_computed_requests_waiting", "Requests in the queue.", load.waiting));
  out.push_back(Gauge("gguf_offload_computed_kv_pages_used",
                      "Pages of the KV cache that requests hold.", load.kv_pages_used));
  out.push_back(Gauge("gguf_offload_computed_kv_pages", "Pages of the KV cache.",
                      session != nullptr ? session->kv_pages_total() : 0));
}

void CollectMemory(Engine& engine, std::vector<prometheus::MetricFamily>& out) {
  prometheus::MetricFamily memory = GaugeFamily("gguf_offload_computed_memory_bytes",
                                                "Memory that the engine has reserved, by purpose.");
  for (const MemoryItem& item : engine.Memory()) {
    AddSample(memory, static_cast<double>(item.bytes), {{"purpose", item.purpose}});
  }
  out.push_back(std::move(memory));
  out.push_back(Gauge("gguf_offload_computed_memory_budget_bytes",
                      "The most memory that the engine may use of the processor that computes.",
                      static_cast<double>(engine.memory_budget())));
  out.push_back(Gauge("gguf_offload_computed_device_memory_bytes",
                      "GPU memory of this process by the driver's count; 0 without a GPU.",
                      static_cast<double>(engine.device_bytes())));
  const Placement& placement = engine.placement();
  prometheus::MetricFamily weights = GaugeFamily("gguf_offload_computed_weight_bytes",
                                                 "Bytes of the model's weights by placement.");
  AddSample(weights, static_cast<double>(placement.shared_bytes), {{"place", "shared"}});
  AddSample(weights, static_cast<double>(placement.resident_bytes), {{"place", "resident"}});
  AddSample(weights, static_cast<double>(placement.streamed_bytes), {{"place", "streamed"}});
  AddSample(weights, static_cast<double>(placement.cached_bytes), {{"place", "cached"}});
  out.push_back(std::move(weights));
}

// Of the link to a GPU; without one, of the fetches into the host's memory, of which less is known.
void CollectLink(Engine& engine, std::vector<prometheus::MetricFamily>& out) {
  prometheus::MetricFamily bytes =
      CounterFamily("gguf_offload_computed_link_bytes_total",
                    "Bytes of weights brought to where they are computed with.");
  prometheus::MetricFamily busy = CounterFamily("gguf_offload_computed_lane_busy_seconds_total",
                                                "Time that a lane, copy or compute, was at work.");
  prometheus::MetricFamily idle =
      CounterFamily("gguf_offload_computed_lane_idle_seconds_total",
                    "Time within steps that a lane waited for the other.");
  double stalls = 0;
  if (const std::optional<LinkCounters> link = engine.link_counters()) {
    AddSample(bytes, static_cast<double>(link->bytes), {{"transport", link->transport}});
    AddSample(busy, link->copy_busy_seconds, {{"lane", "copy"}});
    AddSample(busy, link->compute_busy_seconds, {{"lane", "compute"}});
    AddSample(idle, link->copy_idle_seconds, {{"lane", "copy"}});
    AddSample(idle, link->compute_idle_seconds, {{"lane", "compute"}});
    stalls = static_cast<double>(link->ring_stalls);
  } else {
    const FetchCounters fetch = engine.loader().fetch_counters();
    AddSample(bytes, static_cast<double>(fetch.bytes), {{"transport", "host"}});
    AddSample(busy, fetch.busy_seconds, {{"lane", "copy"}});
    AddSample(idle, fetch.wait_seconds, {{"lane", "compute"}});
    stalls = static_cast<double>(fetch.waits);
  }
  for (auto* family : {&bytes, &busy, &idle}) out.push_back(std::move(*family));
  out.push_back(Counter("gguf_offload_computed_ring_stalls_total",
                        "Times that computing waited for weights.", stalls));
}

// Adds whole numbers to `out` as counters.
auto CounterInto(std::vector<prometheus::MetricFamily>& out) {
  return [&out](const char* name, const char* help, uint64_t value) {
    out.push_back(Counter(name, help, static_cast<double>(value)));
  };
}

void CollectExperts(Engine& engine, std::vector<prometheus::MetricFamily>& out) {
  uint64_t hits = 0, misses = 0, host_hits = 0, host_misses = 0, host_bytes = 0, early = 0,
           early_used = 0, early_bytes = 0;
  if (const auto layers = engine.expert_counters(); layers.ok()) {
    for (const ExpertCounters& layer : *layers) {
      hits += layer.hits;
      misses += layer.misses;
      host_hits += layer.host_hits;
      host_misses += layer.host_misses;
      host_bytes += layer.host_bytes;
      early += layer.early;
      early_used += layer.early_used;
      early_bytes += layer.early_bytes;
    }
  }
  const auto count = CounterInto(out);
  count("gguf_offload_computed_expert_hits_total",
        "Experts that were where they are computed with when they were needed.", hits);
  count("gguf_offload_computed_expert_misses_total", "Experts that had to be brought first.",
        misses);
  count("gguf_offload_computed_host_expert_hits_total",
        "Experts that were in the host's cache when they were needed.", host_hits);
  count("gguf_offload_computed_host_expert_misses_total",
        "Experts that had to be fetched into the host's cache.", host_misses);
  count("gguf_offload_computed_host_expert_bytes_total",
        "Bytes of experts that were fetched into the host's cache.", host_bytes);
  count("gguf_offload_computed_expert_predicted_total",
        "Experts that were brought before it was known that they are needed.", early);
  count("gguf_offload_computed_expert_predicted_used_total",
        "Of these, those that the same step needed.", early_used);
  count("gguf_offload_computed_expert_predicted_bytes_total",
        "Bytes of experts that were brought early.", early_bytes);
}

void CollectSource(const WeightSource* source, const SourceCounters& counters,
                   std::vector<prometheus::MetricFamily>& out) {
  const auto count = CounterInto(out);
  out.push_back(Gauge("gguf_offload_computed_weights_attached",
                      "1 while the weight daemon has this worker's lease.",
                      source != nullptr && source->attached() ? 1 : 0));
  count("gguf_offload_computed_weights_reconnects_total", "Leases got again after one was lost.",
        counters.reconnects);
  count("gguf_offload_computed_weights_attach_failures_total",
        "Attempts to get a lease that failed.", counters.attach_failures);
  count("gguf_offload_computed_weights_stream_failures_total", "Streams of weights that broke.",
        counters.stream_failures);
  count("gguf_offload_computed_weights_checksum_failures_total",
        "Pieces of weights that arrived damaged, and were asked for again.",
        counters.checksum_failures);
  count("gguf_offload_computed_weights_received_bytes_total",
        "Bytes of weights received over the network.",
        source != nullptr ? source->bytes_received() : 0);
}

}  // namespace

WorkerMetrics::WorkerMetrics(prometheus::Registry& registry)
    : finished_(prometheus::BuildCounter()
                    .Name("gguf_offload_computed_requests_finished_total")
                    .Help("Requests that have ended, by kind and reason.")
                    .Register(registry)),
      queue_seconds_(HistogramFamily(registry, "gguf_offload_computed_request_queue_seconds",
                                     "Time that requests waited before they ran.")
                         .Add({}, kRequestBuckets)),
      first_token_seconds_(HistogramFamily(registry,
                                           "gguf_offload_computed_time_to_first_token_seconds",
                                           "Time from a request's arrival to its first token.")
                               .Add({}, kRequestBuckets)),
      next_token_seconds_(HistogramFamily(registry, "gguf_offload_computed_inter_token_seconds",
                                          "Time from one token of a request to the next.")
                              .Add({}, kStepBuckets)),
      unusable_logits_(AddCounter(registry, "gguf_offload_computed_unusable_logits_total",
                                  "Requests that failed because their logits were not numbers.")),
      prompt_tokens_(AddCounter(registry, "gguf_offload_computed_prompt_tokens_total",
                                "Tokens of prompts that have been processed.")),
      generated_tokens_(AddCounter(registry, "gguf_offload_computed_generated_tokens_total",
                                   "Tokens that have been generated.")),
      step_tokens_(HistogramFamily(registry, "gguf_offload_computed_step_tokens",
                                   "Tokens that steps processed, of prompts and generated.")
                       .Add({}, kTokenBuckets)),
      step_seconds_(
          HistogramFamily(registry, "gguf_offload_computed_step_seconds", "Time that steps took.")
              .Add({}, kStepBuckets)) {
  auto& rejected = prometheus::BuildCounter()
                       .Name("gguf_offload_computed_requests_rejected_total")
                       .Help("Requests turned away before they were queued, by reason.")
                       .Register(registry);
  for (size_t i = 0; i < kRejections.size(); ++i) {
    rejected_[i] = &rejected.Add({{"reason", kRejections[i]}});
  }
  auto& seconds = HistogramFamily(registry, "gguf_offload_computed_request_seconds",
                                  "Time from the arrival of a request that went well to its end.");
  for (size_t i = 0; i < kKinds.size(); ++i) {
    request_seconds_[i] = &seconds.Add({{"kind", kKinds[i]}}, kRequestBuckets);
    for (const char* reason : {"cancelled", "deadline", "weights_unavailable", "failed"}) {
      finished_.Add({{"kind", kKinds[i]}, {"reason", reason}});
    }
  }
  for (const char* reason : {"end_of_text", "stop", "length"}) {
    finished_.Add({{"kind", "generate"}, {"reason", reason}});
  }
  finished_.Add({{"kind", "evaluate"}, {"reason", "evaluated"}});
  auto& steps = prometheus::BuildCounter()
                    .Name("gguf_offload_computed_steps_total")
                    .Help("Steps, by result.")
                    .Register(registry);
  steps_[0] = &steps.Add({{"result", "ok"}});
  steps_[1] = &steps.Add({{"result", "failed"}});
}

void WorkerMetrics::Watch(const Worker* worker) {
  absl::MutexLock lock(&mutex_);
  worker_ = worker;
}

void WorkerMetrics::OnRejected(Rejection why) { rejected_[static_cast<size_t>(why)]->Increment(); }

void WorkerMetrics::OnAdmitted(absl::Duration queued) {
  queue_seconds_.Observe(absl::ToDoubleSeconds(queued));
}

void WorkerMetrics::OnUnusableLogits() { unusable_logits_.Increment(); }

void WorkerMetrics::OnStep(const Step& step) {
  steps_[step.status.ok() ? 0 : 1]->Increment();
  step_seconds_.Observe(absl::ToDoubleSeconds(step.took));
  if (!step.status.ok()) return;
  step_tokens_.Observe(step.prompt_tokens + step.decode_tokens);
  prompt_tokens_.Increment(step.prompt_tokens);
}

void WorkerMetrics::OnFirstToken(absl::Duration since_submitted) {
  generated_tokens_.Increment();
  first_token_seconds_.Observe(absl::ToDoubleSeconds(since_submitted));
}

void WorkerMetrics::OnNextToken(absl::Duration since_last) {
  generated_tokens_.Increment();
  next_token_seconds_.Observe(absl::ToDoubleSeconds(since_last));
}

void WorkerMetrics::OnFinished(Request::Kind kind, const absl::Status& status,
                               const RequestResult& result, absl::Duration total) {
  const size_t index = kind == Request::Kind::kGenerate ? 0 : 1;
  finished_.Add({{"kind", kKinds[index]}, {"reason", ReasonOf(status, result.finish_reason)}})
      .Increment();
  if (status.ok()) request_seconds_[index]->Observe(absl::ToDoubleSeconds(total));
}

std::vector<prometheus::MetricFamily> WorkerMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  // Held while collecting, so that nothing is read that is being destroyed.
  absl::MutexLock lock(&mutex_);
  CollectSource(worker_ != nullptr ? worker_->source : nullptr, source_counters_, families);
  CollectSession(worker_ != nullptr ? worker_->session : nullptr, families);
  if (worker_ == nullptr) return families;
  CollectMemory(*worker_->engine, families);
  CollectLink(*worker_->engine, families);
  CollectExperts(*worker_->engine, families);
  return families;
}

}  // namespace gguf_offload
