#include "common/metrics/daemon_metrics.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/metrics/samples.h"

namespace gguf_offload {
namespace {

// Values by name and labels, as the text has them.
std::map<std::string, double> Parse(const std::string& text) {
  std::map<std::string, double> values;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    values[std::string(line.substr(0, space))] = std::stod(std::string(line.substr(space + 1)));
  }
  return values;
}

TEST(DaemonMetricsTest, DescribesTheProcess) {
  CallGate gate;
  DaemonMetrics metrics("weightd", &gate);
  auto values = Parse(metrics.Text());
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_GT(values["process_start_time_seconds"], now - 600);
  EXPECT_LE(values["process_start_time_seconds"], now + 2);
  EXPECT_GT(values["process_resident_memory_bytes"], 1 << 20);
  EXPECT_GT(values["process_virtual_memory_bytes"], values["process_resident_memory_bytes"]);
  EXPECT_GT(values["process_cpu_seconds_total"], 0);
  EXPECT_GE(values["process_threads"], 1);
  EXPECT_GT(values["process_max_fds"], values["process_open_fds"]);
  EXPECT_GT(values["gguf_offload_process_page_faults_total{kind=\"minor\"}"], 0);
  EXPECT_TRUE(values.contains("gguf_offload_process_page_faults_total{kind=\"major\"}"));
  const double before = values["process_open_fds"];
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  EXPECT_EQ(Parse(metrics.Text())["process_open_fds"], before + 2);
  close(ends[0]);
  close(ends[1]);
}

TEST(DaemonMetricsTest, SaysWhatRunsAndWhetherItDrains) {
  CallGate gate;
  DaemonMetrics metrics("weightd", &gate);
  const std::string text = metrics.Text();
  EXPECT_NE(text.find("gguf_offload_build_info{program=\"weightd\",version=\""), std::string::npos);
  EXPECT_EQ(Parse(text)["gguf_offload_draining"], 0);
  gate.StartDraining(nullptr);
  EXPECT_EQ(Parse(metrics.Text())["gguf_offload_draining"], 1);
}

class Numbers : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override {
    prometheus::MetricFamily family = GaugeFamily("numbers", "Some.");
    AddSample(family, 3, {{"label", "with \"quotes\"\nand lines"}});
    return {family, Counter("aa_total", "First.", 5)};
  }
};

TEST(DaemonMetricsTest, CollectsAsLongAsThereIsSomethingToCollect) {
  CallGate gate;
  DaemonMetrics metrics("weightd", &gate);
  auto numbers = std::make_shared<Numbers>();
  metrics.Add(numbers);
  std::string text = metrics.Text();
  EXPECT_NE(text.find("numbers{label=\"with \\\"quotes\\\"\\nand lines\"} 3\n"), std::string::npos)
      << text;
  EXPECT_TRUE(text.starts_with("# HELP aa_total First.\n# TYPE aa_total counter\naa_total 5\n"));
  numbers.reset();
  EXPECT_FALSE(Parse(metrics.Text()).contains("aa_total"));
}

TEST(DaemonMetricsTest, ServesOnAPortOfItsChoice) {
  CallGate gate;
  DaemonMetrics metrics("weightd", &gate);
  EXPECT_FALSE(metrics.address().has_value());
  ASSERT_TRUE(metrics.Serve({"127.0.0.1", 0}).ok());
  ASSERT_TRUE(metrics.address().has_value());
  EXPECT_NE(metrics.address()->port, 0);
  DaemonMetrics second("computed", &gate);
  EXPECT_EQ(second.Serve(*metrics.address()).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace gguf_offload
