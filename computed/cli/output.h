// What offloadctl writes: aligned tables, sizes for people, progress bars, and files.
#ifndef COMPUTED_CLI_OUTPUT_H_
#define COMPUTED_CLI_OUTPUT_H_

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "google/protobuf/message.h"

namespace gguf_offload::cli {

// "512 B", "1.5 KiB", "12.0 GiB".
std::string HumanBytes(uint64_t bytes);

// `text` with every control character, line breaks included, replaced by a blank, so that nothing a
// file or a peer says can break a line or control the terminal.
std::string OneLine(absl::string_view text);

// Rows of cells, printed with columns of equal width. A plain value.
class Table {
 public:
  // A heading that begins with '>' is that of a column aligned to the right; the sign is not shown.
  explicit Table(absl::Span<const absl::string_view> headings);

  // `cells` has as many entries as there are headings.
  void Add(std::vector<std::string> cells);

  // The whole table, a line a row, without blanks at the ends of lines.
  std::string ToString() const;

 private:
  std::vector<bool> right_;                     // one a column
  std::vector<std::vector<std::string>> rows_;  // headings first
};

// A bar on standard error for work that takes long; silent unless standard error is a terminal.
// Not thread-safe. The destructor wipes the bar.
class ProgressBar {
 public:
  // `label` stands in front of the bar.
  explicit ProgressBar(absl::string_view label);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Redraws at most ten times a second.
  void Update(uint64_t done, uint64_t total);

 private:
  const std::string label_;
  const bool visible_;
  bool drawn_ = false;
  const std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

// A file being written; unless Close() succeeded, the destructor removes it (if it is a regular
// file). Move-only; not thread-safe.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  absl::Status Write(const void* data, size_t bytes);
  absl::Status Close();

 private:
  OutputFile(std::FILE* file, std::string path) : file_(file), path_(std::move(path)) {}

  std::FILE* file_;  // null once closed or moved from
  std::string path_;
};

// The bytes of a file, or of standard input for "-". An error names the path.
absl::StatusOr<std::string> ReadFile(const std::string& path);
// The same, for text that goes into a message: INVALID_ARGUMENT if it is not UTF-8.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// `message` as indented JSON with the field names of the .proto file.
std::string ToJson(const google::protobuf::Message& message);
// The same in one line.
std::string ToJsonLine(const google::protobuf::Message& message);

// Writes to standard output.
void Print(absl::string_view text);

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_OUTPUT_H_
