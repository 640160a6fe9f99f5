#include "computed/cli/output.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/tokenizer/unicode.h"
#include "google/protobuf/util/json_util.h"

namespace gguf_offload::cli {
namespace {

constexpr int kBarCells = 30;

absl::Status FileError(absl::string_view what, const std::string& path) {
  return absl::UnknownError(absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno)));
}

std::string Json(const google::protobuf::Message& message, bool whitespace) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = whitespace;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Fails only for google.protobuf.Any of unknown types, which no message of ours contains.
  (void)google::protobuf::util::MessageToJsonString(message, &json, options);
  return json;
}

// Columns a UTF-8 text takes on a terminal, counting a code point as one.
size_t Width(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

std::string HumanBytes(uint64_t bytes) {
  constexpr absl::string_view kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  // 1023.95 would be shown as 1024.0.
  while (value >= 1023.95 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string OneLine(absl::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return line;
}

Table::Table(absl::Span<const absl::string_view> headings) {
  std::vector<std::string> row;
  for (absl::string_view heading : headings) {
    const bool right = absl::StartsWith(heading, ">");
    right_.push_back(right);
    row.emplace_back(heading.substr(right ? 1 : 0));
  }
  rows_.push_back(std::move(row));
}

void Table::Add(std::vector<std::string> cells) {
  cells.resize(right_.size());
  for (std::string& cell : cells) cell = OneLine(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::ToString() const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const std::vector<std::string>& row : rows_) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], Width(row[c]));
  }
  std::string text;
  for (const std::vector<std::string>& row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - Width(row[c]), ' ');
      absl::StrAppend(&line, c == 0 ? "" : "  ", right_[c] ? padding : "", row[c],
                      right_[c] ? "" : padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, line, "\n");
  }
  return text;
}

ProgressBar::ProgressBar(absl::string_view label)
    : label_(OneLine(label)),
      visible_(isatty(STDERR_FILENO) == 1),
      start_(std::chrono::steady_clock::now()) {}

ProgressBar::~ProgressBar() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
}

void ProgressBar::Update(uint64_t done, uint64_t total) {
  const auto now = std::chrono::steady_clock::now();
  if (!visible_ || (drawn_ && now - last_ < std::chrono::milliseconds(100))) return;
  last_ = now;
  drawn_ = true;
  const double part =
      total == 0 ? 0 : std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const int filled = static_cast<int>(part * kBarCells);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const std::string line =
      absl::StrFormat("\r\x1b[K%s [%s%s] %3d %%  %s of %s, %s/s", label_, std::string(filled, '#'),
                      std::string(kBarCells - filled, ' '), static_cast<int>(part * 100),
                      HumanBytes(done), HumanBytes(total), HumanBytes(static_cast<uint64_t>(rate)));
  std::fputs(line.c_str(), stderr);
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return FileError("write", path);
  return OutputFile(file, path);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : file_(std::exchange(other.file_, nullptr)), path_(std::move(other.path_)) {}

OutputFile::~OutputFile() {
  if (file_ == nullptr) return;
  struct stat status;
  const bool regular = fstat(fileno(file_), &status) == 0 && S_ISREG(status.st_mode);
  std::fclose(file_);
  if (regular) std::remove(path_.c_str());
}

absl::Status OutputFile::Write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_) != bytes) return FileError("write", path_);
  return absl::OkStatus();
}

absl::Status OutputFile::Close() {
  if (std::fflush(file_) != 0) return FileError("write", path_);
  if (std::fclose(std::exchange(file_, nullptr)) != 0) return FileError("write", path_);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  const bool standard_input = path == "-";
  std::FILE* file = standard_input ? stdin : std::fopen(path.c_str(), "rb");
  if (file == nullptr) return FileError("read", path);
  std::string content;
  char buffer[1 << 16];
  size_t got = 0;
  while ((got = std::fread(buffer, 1, sizeof(buffer), file)) > 0) content.append(buffer, got);
  const bool failed = std::ferror(file) != 0;
  absl::Status status = failed ? FileError("read", path) : absl::OkStatus();
  if (!standard_input) std::fclose(file);
  if (failed) return status;
  return content;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path);
  if (text.ok() && !IsValidUtf8(*text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path == "-" ? "standard input" : path, " is not UTF-8 text"));
  }
  return text;
}

std::string ToJson(const google::protobuf::Message& message) { return Json(message, true); }

std::string ToJsonLine(const google::protobuf::Message& message) {
  return Json(message, false) + "\n";
}

void Print(absl::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace gguf_offload::cli
