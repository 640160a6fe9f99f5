// Structured log lines on standard error, one a record, as text or as JSON:
//
//   Log(LogLevel::kWarning, "model quarantined", {{"model", name}, {"bytes", 4096}});
//
//   2026-11-23T01:02:03.456Z WARNING model quarantined model=demo bytes=4096
//   {"time":"2026-11-23T01:02:03.456Z","level":"WARNING","message":"model quarantined",
//    "model":"demo","bytes":4096}                                              (on one line)
//
// Text values are quoted when they need it, and control characters are escaped, so that nothing a
// peer or a file says can forge a line. Thread safe: a record is one write(2).
#ifndef COMMON_LOG_LOG_H_
#define COMMON_LOG_LOG_H_

#include <concepts>
#include <functional>
#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace gguf_offload {

enum class LogLevel { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };
enum class LogFormat { kText, kJson };

// A key and its value, as text; `literal` if JSON has a notation of its own for it: numbers, true,
// false.
struct LogField {
  LogField(std::string_view key, std::string_view value) : key(key), value(value) {}
  LogField(std::string_view key, const std::string& value) : key(key), value(value) {}
  LogField(std::string_view key, const char* value) : key(key), value(value) {}
  LogField(std::string_view key, bool value)
      : key(key), value(value ? "true" : "false"), literal(true) {}
  LogField(std::string_view key, const absl::Status& status)
      : key(key), value(status.ToString(absl::StatusToStringMode::kDefault)) {}
  template <typename T>
  requires((std::integral<T> || std::floating_point<T>)&&!std::same_as<T, bool>)
      LogField(std::string_view key, T value)
      : key(key), value(absl::StrCat(value)), literal(value - value == 0) {}

  std::string_view key;
  std::string value;
  bool literal = false;
};

// Writes one record, unless `level` is below the smallest level that is written.
void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

// The smallest level that is written; kInfo at first.
void SetLogLevel(LogLevel level);
LogLevel CurrentLogLevel();
// "debug", "info", "warning" or "error", in any case. INVALID_ARGUMENT.
absl::StatusOr<LogLevel> ParseLogLevel(std::string_view name);
// "DEBUG", "INFO", "WARNING" or "ERROR".
std::string_view LogLevelName(LogLevel level);

// kText at first.
void SetLogFormat(LogFormat format);

// Takes the finished lines (without line feed) instead of standard error; null puts it back. The
// sink is called from any thread, one call at a time.
void SetLogSink(std::function<void(std::string_view line)> sink);

// The lines themselves, without line feed.
std::string FormatText(absl::Time time, LogLevel level, std::string_view message,
                       std::initializer_list<LogField> fields);
std::string FormatJson(absl::Time time, LogLevel level, std::string_view message,
                       std::initializer_list<LogField> fields);

}  // namespace gguf_offload

#endif  // COMMON_LOG_LOG_H_
