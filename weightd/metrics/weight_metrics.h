// The weight daemon's own metrics: what is served, how it is read, who holds it. Their names and
// meanings: deploy/prometheus/METRICS.md.
#ifndef WEIGHTD_METRICS_WEIGHT_METRICS_H_
#define WEIGHTD_METRICS_WEIGHT_METRICS_H_

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "weightd/service/service_core.h"
#include "weightd/service/transfer_events.h"
#include "weightd/shm/local_socket.h"
#include "weightd/store/store_events.h"

namespace gguf_offload {

// Counts what it is told; reads what exists elsewhere when it is scraped. Must outlive the store
// and the services that tell it. Thread safe.
class WeightMetrics final : public store::StoreEvents,
                            public TransferEvents,
                            public prometheus::Collectable {
 public:
  explicit WeightMetrics(prometheus::Registry& registry);

  // Where to read the rest from, until it is called again with null.
  void Watch(ServiceCore* core);

  void OnLoad(const absl::Status& status, absl::Duration took) override;
  void OnQuarantine() override;
  void OnTensorChanged() override;
  void OnBlockRead(Method method, uint64_t bytes, absl::Duration took) override;
  void OnLeaseEnd(LeaseEnd how) override;
  // For LocalSocket.
  void OnHandoff(shm::HandoffResult result, size_t descriptors);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  struct Transfer {
    prometheus::Counter* blocks;
    prometheus::Counter* bytes;
    prometheus::Histogram* seconds;
  };

  prometheus::Histogram& load_seconds_;
  prometheus::Family<prometheus::Counter>& load_failures_;
  prometheus::Counter& quarantines_;
  prometheus::Counter& changed_tensors_;
  prometheus::Counter& descriptors_;
  Transfer transfers_[2];               // by Method
  prometheus::Counter* lease_ends_[5];  // by LeaseEnd
  prometheus::Counter* handoffs_[5];    // by shm::HandoffResult

  mutable absl::Mutex mutex_;
  ServiceCore* core_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_METRICS_WEIGHT_METRICS_H_
