#include "computed/runtime/trace.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace gguf_offload {
namespace {

// What a capture may hold: about 40 MB of JSON.
constexpr size_t kMaxEvents = 400'000;

}  // namespace

Trace::Span::Span(Trace* trace, const char* lane, const char* name, int64_t detail)
    : trace_(trace != nullptr && trace->recording_.load(std::memory_order_relaxed) ? trace
                                                                                   : nullptr),
      lane_(lane),
      name_(name),
      detail_(detail) {
  if (trace_ != nullptr) start_ns_ = absl::GetCurrentTimeNanos();
}

Trace::Span::~Span() {
  if (trace_ != nullptr) {
    trace_->Add({lane_, name_, detail_, start_ns_, absl::GetCurrentTimeNanos()});
  }
}

void Trace::Add(const Event& event) {
  absl::MutexLock lock(&mutex_);
  if (recording_.load(std::memory_order_relaxed) && events_.size() < kMaxEvents) {
    events_.push_back(event);
  }
}

bool Trace::Start() {
  absl::MutexLock lock(&mutex_);
  if (recording_.load()) return false;
  events_.clear();
  recording_.store(true);
  return true;
}

std::string Trace::Stop() {
  std::vector<Event> events;
  {
    absl::MutexLock lock(&mutex_);
    recording_.store(false);
    events.swap(events_);
  }
  std::vector<std::string> lanes;
  std::string json = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  int64_t origin = events.empty() ? 0 : events.front().start_ns;
  for (const Event& event : events) origin = std::min(origin, event.start_ns);
  for (const Event& event : events) {
    const auto lane = std::find(lanes.begin(), lanes.end(), event.lane);
    const size_t track = lane - lanes.begin();
    if (lane == lanes.end()) {
      lanes.push_back(event.lane);
      absl::StrAppendFormat(&json,
                            "{\"ph\":\"M\",\"pid\":1,\"tid\":%d,\"name\":\"thread_name\","
                            "\"args\":{\"name\":\"%s\"}},\n",
                            track, event.lane);
    }
    absl::StrAppendFormat(&json,
                          "{\"ph\":\"X\",\"pid\":1,\"tid\":%d,\"name\":\"%s\",\"ts\":%.3f,"
                          "\"dur\":%.3f,\"args\":{\"detail\":%d}},\n",
                          track, event.name, (event.start_ns - origin) / 1e3,
                          (event.end_ns - event.start_ns) / 1e3, event.detail);
  }
  absl::StrAppend(
      &json,
      "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"computed\"}}"
      "]}\n");
  return json;
}

}  // namespace gguf_offload
