// The compute worker's own metrics: requests, tokens, steps, memory, and the way of the weights.
// Their names and meanings: deploy/prometheus/METRICS.md.
#ifndef COMPUTED_METRICS_WORKER_METRICS_H_
#define COMPUTED_METRICS_WORKER_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "computed/service/worker.h"
#include "computed/session/session_events.h"
#include "weightd/client/source_counters.h"

namespace gguf_offload {

// Counts what it is told; reads what exists elsewhere when it is scraped. Must outlive the session
// and the weight source that tell it. Thread safe.
class WorkerMetrics final : public SessionEvents, public prometheus::Collectable {
 public:
  explicit WorkerMetrics(prometheus::Registry& registry);

  // Where to read the rest from, once there is a worker; until it is called again with null.
  void Watch(const Worker* worker);
  // For the weight source to count in, from its first attempt to attach on.
  SourceCounters& source_counters() { return source_counters_; }

  void OnRejected(Rejection why) override;
  void OnAdmitted(absl::Duration queued) override;
  void OnStep(const Step& step) override;
  void OnUnusableLogits() override;
  void OnFirstToken(absl::Duration since_submitted) override;
  void OnNextToken(absl::Duration since_last) override;
  void OnFinished(Request::Kind kind, const absl::Status& status, const RequestResult& result,
                  absl::Duration total) override;

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  SourceCounters source_counters_;
  prometheus::Counter* rejected_[5];  // by Rejection
  // By kind: generate, evaluate.
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Histogram* request_seconds_[2];
  prometheus::Histogram& queue_seconds_;
  prometheus::Histogram& first_token_seconds_;
  prometheus::Histogram& next_token_seconds_;
  prometheus::Counter& unusable_logits_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& generated_tokens_;
  prometheus::Counter* steps_[2];  // ok, failed
  prometheus::Histogram& step_tokens_;
  prometheus::Histogram& step_seconds_;

  mutable absl::Mutex mutex_;
  const Worker* worker_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace gguf_offload

#endif  // COMPUTED_METRICS_WORKER_METRICS_H_
