#include "computed/runtime/trace.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

namespace gguf_offload {
namespace {

TEST(TraceTest, RecordsOnlyWhileACaptureRuns) {
  Trace trace;
  { const Trace::Span before(&trace, "compute", "before"); }
  ASSERT_TRUE(trace.Start());
  EXPECT_FALSE(trace.Start());
  {
    const Trace::Span layer(&trace, "compute", "layer", 3);
    const Trace::Span wait(&trace, "weights", "wait");
  }
  std::thread([&] { const Trace::Span step(&trace, "host", "step"); }).join();
  const nlohmann::json document = nlohmann::json::parse(trace.Stop());
  { const Trace::Span after(&trace, "compute", "after"); }

  std::vector<std::string> spans, lanes;
  for (const auto& event : document["traceEvents"]) {
    if (event["ph"] == "X") {
      spans.push_back(event["name"]);
      EXPECT_GE(event["dur"].get<double>(), 0);
    } else if (event["name"] == "thread_name") {
      lanes.push_back(event["args"]["name"]);
    }
  }
  EXPECT_EQ(spans, (std::vector<std::string>{"wait", "layer", "step"}));
  EXPECT_EQ(lanes, (std::vector<std::string>{"weights", "compute", "host"}));
  ASSERT_TRUE(trace.Start());
  EXPECT_TRUE(nlohmann::json::accept(trace.Stop()));
}

TEST(TraceTest, ANullTraceIsNoTrace) { const Trace::Span span(nullptr, "host", "nothing"); }

}  // namespace
}  // namespace gguf_offload
