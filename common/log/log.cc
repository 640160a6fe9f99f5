#include "common/log/log.h"

#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace gguf_offload {
namespace {

std::atomic<LogLevel> smallest_level{LogLevel::kInfo};

struct Sink {
  absl::Mutex mutex;
  std::function<void(std::string_view)> function ABSL_GUARDED_BY(mutex);
};

Sink& TheSink() {
  // Never destroyed: other threads may log while the process exits.
  static Sink* const sink = new Sink;
  return *sink;
}

const char* LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "DEBUG";
    case LogLevel::kInfo:
      return "INFO";
    case LogLevel::kWarning:
      return "WARNING";
    case LogLevel::kError:
      return "ERROR";
  }
  return "?";
}

bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

// Control characters become \xNN, so that a record stays one line and a terminal stays sane.
void AppendEscaped(std::string_view text, bool in_quotes, std::string& line) {
  for (const char c : text) {
    if (IsControl(c)) {
      absl::StrAppendFormat(&line, "\\x%02x", static_cast<unsigned char>(c));
    } else {
      if (in_quotes && (c == '"' || c == '\\')) line.push_back('\\');
      line.push_back(c);
    }
  }
}

void AppendValue(std::string_view value, std::string& line) {
  bool plain = !value.empty();
  for (const char c : value) {
    if (IsControl(c) || c == ' ' || c == '"' || c == '\\' || c == '=') plain = false;
  }
  if (plain) {
    line.append(value);
    return;
  }
  line.push_back('"');
  AppendEscaped(value, /*in_quotes=*/true, line);
  line.push_back('"');
}

void WriteAll(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // Nowhere left to complain to.
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

std::string FormatRecord(LogLevel level, std::string_view message,
                         std::initializer_list<LogField> fields) {
  std::string line = LevelName(level);
  line.push_back(' ');
  AppendEscaped(message, /*in_quotes=*/false, line);
  for (const LogField& field : fields) {
    line.push_back(' ');
    line.append(field.key);
    line.push_back('=');
    AppendValue(field.value, line);
  }
  return line;
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  if (level < smallest_level.load(std::memory_order_relaxed)) return;
  std::string line = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  line.push_back(' ');
  line.append(FormatRecord(level, message, fields));
  Sink& sink = TheSink();
  absl::MutexLock lock(&sink.mutex);
  if (sink.function) {
    sink.function(line);
  } else {
    line.push_back('\n');
    WriteAll(line);
  }
}

void SetLogLevel(LogLevel level) { smallest_level.store(level, std::memory_order_relaxed); }

void SetLogSink(std::function<void(std::string_view)> function) {
  Sink& sink = TheSink();
  absl::MutexLock lock(&sink.mutex);
  sink.function = std::move(function);
}

}  // namespace gguf_offload
