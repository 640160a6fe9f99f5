#include "common/metrics/samples.h"

namespace gguf_offload {
namespace {

prometheus::MetricFamily Family(std::string_view name, std::string_view help,
                                prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

}  // namespace

prometheus::MetricFamily GaugeFamily(std::string_view name, std::string_view help) {
  return Family(name, help, prometheus::MetricType::Gauge);
}

prometheus::MetricFamily CounterFamily(std::string_view name, std::string_view help) {
  return Family(name, help, prometheus::MetricType::Counter);
}

void AddSample(prometheus::MetricFamily& family, double value, const MetricLabels& labels) {
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  if (family.type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
}

prometheus::MetricFamily Gauge(std::string_view name, std::string_view help, double value) {
  prometheus::MetricFamily family = GaugeFamily(name, help);
  AddSample(family, value);
  return family;
}

prometheus::MetricFamily Counter(std::string_view name, std::string_view help, double value) {
  prometheus::MetricFamily family = CounterFamily(name, help);
  AddSample(family, value);
  return family;
}

}  // namespace gguf_offload
