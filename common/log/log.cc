#include "common/log/log.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace gguf_offload {
namespace {

std::atomic<LogLevel> smallest_level{LogLevel::kInfo};
std::atomic<LogFormat> line_format{LogFormat::kText};

struct Sink {
  absl::Mutex mutex;
  std::function<void(std::string_view)> function ABSL_GUARDED_BY(mutex);
};

Sink& TheSink() {
  // Never destroyed: other threads may log while the process exits.
  static Sink* const sink = new Sink;
  return *sink;
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

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", time, absl::UTCTimeZone());
}

// What is no UTF-8 becomes U+FFFD.
void AppendJson(std::string_view text, std::string& line) {
  line.append(nlohmann::json(text).dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false,
                                        nlohmann::json::error_handler_t::replace));
}

void WriteAll(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // Nowhere left to complain to.
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

std::string FormatText(absl::Time time, LogLevel level, std::string_view message,
                       std::initializer_list<LogField> fields) {
  std::string line = TimeText(time);
  line.push_back(' ');
  line.append(LogLevelName(level));
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

std::string FormatJson(absl::Time time, LogLevel level, std::string_view message,
                       std::initializer_list<LogField> fields) {
  std::string line = "{\"time\":";
  AppendJson(TimeText(time), line);
  line.append(",\"level\":");
  AppendJson(LogLevelName(level), line);
  line.append(",\"message\":");
  AppendJson(message, line);
  for (const LogField& field : fields) {
    line.push_back(',');
    AppendJson(field.key, line);
    line.push_back(':');
    if (field.literal) {
      line.append(field.value);
    } else {
      AppendJson(field.value, line);
    }
  }
  line.push_back('}');
  return line;
}

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  if (level < CurrentLogLevel()) return;
  const bool json = line_format.load(std::memory_order_relaxed) == LogFormat::kJson;
  std::string line = (json ? FormatJson : FormatText)(absl::Now(), level, message, fields);
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

LogLevel CurrentLogLevel() { return smallest_level.load(std::memory_order_relaxed); }

void SetLogFormat(LogFormat format) { line_format.store(format, std::memory_order_relaxed); }

std::string_view LogLevelName(LogLevel level) {
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

absl::StatusOr<LogLevel> ParseLogLevel(std::string_view name) {
  const std::string upper =
      absl::AsciiStrToUpper(absl::string_view(name.data(), std::min<size_t>(name.size(), 64)));
  for (LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (upper == LogLevelName(level)) return level;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", upper, "\" is not debug, info, warning or error"));
}

void SetLogSink(std::function<void(std::string_view)> function) {
  Sink& sink = TheSink();
  absl::MutexLock lock(&sink.mutex);
  sink.function = std::move(function);
}

}  // namespace gguf_offload
