// What the operating system says about this process, under the names that all Prometheus clients
// use, and its page faults.
#ifndef COMMON_METRICS_PROCESS_METRICS_H_
#define COMMON_METRICS_PROCESS_METRICS_H_

#include <prometheus/collectable.h>

#include <vector>

namespace gguf_offload {

// Reads proc(5) and getrusage(2) each time it is asked. Thread safe.
class ProcessMetrics : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override;
};

}  // namespace gguf_offload

#endif  // COMMON_METRICS_PROCESS_METRICS_H_
