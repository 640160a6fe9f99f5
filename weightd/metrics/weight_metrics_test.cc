#include "weightd/metrics/weight_metrics.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "common/daemon/call_gate.h"
#include "weightd/gguf/testing/gguf_builder.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload {
namespace {

class WeightMetricsTest : public ::testing::Test {
 protected:
  // Values by name and the last label's value.
  std::map<std::string, double> Values() {
    std::map<std::string, double> values;
    auto families = registry_.Collect();
    for (auto& family : metrics_.Collect()) families.push_back(family);
    for (const prometheus::MetricFamily& family : families) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        std::string key = family.name.substr(sizeof("gguf_offload_weightd_") - 1);
        if (!metric.label.empty()) key += " " + metric.label.back().value;
        switch (family.type) {
          case prometheus::MetricType::Counter:
            values[key] = metric.counter.value;
            break;
          case prometheus::MetricType::Histogram:
            values[key] = static_cast<double>(metric.histogram.sample_count);
            break;
          default:
            values[key] = metric.gauge.value;
        }
      }
    }
    return values;
  }

  prometheus::Registry registry_;
  WeightMetrics metrics_{registry_};
  store::TempFolder folder_;
};

TEST_F(WeightMetricsTest, CountsWhatItIsTold) {
  metrics_.OnBlockRead(TransferEvents::Method::kStreamBlocks, 1000, absl::Milliseconds(1));
  metrics_.OnBlockRead(TransferEvents::Method::kStreamBlocks, 500, absl::Milliseconds(1));
  metrics_.OnBlockRead(TransferEvents::Method::kReadBlocks, 7, absl::Milliseconds(1));
  metrics_.OnLeaseEnd(TransferEvents::LeaseEnd::kBroken);
  metrics_.OnHandoff(shm::HandoffResult::kOk, 3);
  metrics_.OnHandoff(shm::HandoffResult::kWrongUser, 0);
  metrics_.OnQuarantine();
  metrics_.OnTensorChanged();
  auto values = Values();
  EXPECT_EQ(values["read_blocks_total stream"], 2);
  EXPECT_EQ(values["read_bytes_total stream"], 1500);
  EXPECT_EQ(values["read_seconds stream"], 2);
  EXPECT_EQ(values["read_blocks_total read_blocks"], 1);
  EXPECT_EQ(values["read_bytes_total read_blocks"], 7);
  EXPECT_EQ(values["leases_ended_total broken"], 1);
  EXPECT_EQ(values["leases_ended_total detached"], 0);
  EXPECT_EQ(values["handoffs_total ok"], 1);
  EXPECT_EQ(values["handoffs_total wrong_user"], 1);
  EXPECT_EQ(values["handoff_descriptors_total"], 3);
  EXPECT_EQ(values["quarantines_total"], 1);
  EXPECT_EQ(values["checksum_failures_total"], 1);
}

TEST_F(WeightMetricsTest, ReadsTheStore) {
  EXPECT_FALSE(Values().contains("models ready"));
  const std::string bytes =
      gguf::GgufBuilder().Tensor("t", quant::TensorType::kI8, {3}, "abc").Build();
  const std::string path = folder_.Write("m.gguf", bytes);
  store::ModelStore store({.events = &metrics_});
  CallGate gate;
  ServiceCore core(&store, &gate, {.events = &metrics_});
  metrics_.Watch(&core);
  ASSERT_TRUE(store.Load("m", path).ok());
  ASSERT_FALSE(store.Load("broken", folder_.Write("broken.gguf", "not GGUF")).ok());
  ASSERT_FALSE(store.Load("none", folder_.Path("none.gguf")).ok());
  auto values = Values();
  EXPECT_EQ(values["models ready"], 1);
  EXPECT_EQ(values["models failed"], 2);
  EXPECT_EQ(values["models quarantined"], 0);
  EXPECT_EQ(values["mapped_bytes m"], static_cast<double>(bytes.size()));
  EXPECT_EQ(values["resident_bytes m"], static_cast<double>(bytes.size()));
  EXPECT_EQ(values["model_load_seconds"], 1);
  EXPECT_EQ(values["model_load_failures_total NOT_FOUND"], 1);
  EXPECT_EQ(values["model_load_failures_total INVALID_ARGUMENT"], 1);
  EXPECT_EQ(values["streams"], 0);
  EXPECT_EQ(values["leases stream"], 0);

  folder_.Truncate("m.gguf", 3);
  const auto model = store.Find("m");
  ASSERT_TRUE(model.ok());
  EXPECT_FALSE(store.CheckIntact(**model).ok());
  values = Values();
  EXPECT_EQ(values["models ready"], 0);
  EXPECT_EQ(values["models quarantined"], 1);
  EXPECT_EQ(values["quarantines_total"], 1);
  metrics_.Watch(nullptr);
  EXPECT_FALSE(Values().contains("models ready"));
}

}  // namespace
}  // namespace gguf_offload
