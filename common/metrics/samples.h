// Builds metric families from numbers that are read when they are asked for:
//
//   auto pages = GaugeFamily("gguf_offload_pages", "Pages by state.");
//   AddSample(pages, 3, {{"state", "used"}});
#ifndef COMMON_METRICS_SAMPLES_H_
#define COMMON_METRICS_SAMPLES_H_

#include <prometheus/metric_family.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gguf_offload {

using MetricLabels = std::vector<std::pair<std::string, std::string>>;

prometheus::MetricFamily GaugeFamily(std::string_view name, std::string_view help);
prometheus::MetricFamily CounterFamily(std::string_view name, std::string_view help);

// One more value of a gauge or a counter.
void AddSample(prometheus::MetricFamily& family, double value, const MetricLabels& labels = {});

// A family of one value without labels.
prometheus::MetricFamily Gauge(std::string_view name, std::string_view help, double value);
prometheus::MetricFamily Counter(std::string_view name, std::string_view help, double value);

}  // namespace gguf_offload

#endif  // COMMON_METRICS_SAMPLES_H_
