#include "computed/tokenizer/text_stream.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "computed/tokenizer/unicode.h"

namespace gguf_offload {

TextStream::Stop::Stop(std::string stop) : text(std::move(stop)), borders(text.size(), 0) {
  for (size_t i = 1; i < text.size(); ++i) {
    size_t border = borders[i - 1];
    while (border > 0 && text[i] != text[border]) border = borders[border - 1];
    borders[i] = text[i] == text[border] ? border + 1 : 0;
  }
}

bool TextStream::Stop::Advance(char byte) {
  while (matched > 0 && text[matched] != byte) matched = borders[matched - 1];
  if (text[matched] == byte) ++matched;
  return matched == text.size();
}

TextStream::TextStream(const Tokenizer* tokenizer, TextStreamOptions options)
    : tokenizer_(tokenizer),
      render_special_(options.render_special),
      at_text_start_(options.at_text_start && tokenizer->adds_space_prefix()) {
  for (std::string& stop : options.stop_strings) {
    if (stop.empty() || !IsValidUtf8(stop)) continue;
    if (const std::optional<int32_t> token = tokenizer->SpecialToken(stop)) {
      stop_tokens_.emplace_back(*token, stop);
    }
    stops_.emplace_back(std::move(stop));
  }
}

std::string TextStream::Push(int32_t token) {
  if (stopped_) return {};
  for (const auto& [stop_token, name] : stop_tokens_) {
    if (token == stop_token) return StopAt(name);
  }
  std::string bytes = tokenizer_->TokenBytes(token, render_special_);
  if (at_text_start_ && !tokenizer_->TokenBytes(token).empty()) {
    if (bytes.starts_with(' ')) bytes.erase(0, 1);
    at_text_start_ = false;
  }
  return Filter(characters_.Push(bytes));
}

std::string TextStream::Flush() {
  if (stopped_) return {};
  std::string text = Filter(characters_.Flush());
  if (!stopped_) text += std::exchange(held_, std::string());
  for (Stop& stop : stops_) stop.matched = 0;
  return text;
}

std::string TextStream::StopAt(const std::string& stop) {
  std::string text = Flush();
  if (stopped_) return text;  // by a stop string that the last character completed
  stopped_ = true;
  stop_string_ = stop;
  return text;
}

std::string TextStream::Filter(const std::string& text) {
  if (stops_.empty()) return text;
  size_t longest = 0;  // of the stop strings' beginnings that the text ends with
  for (char byte : text) {
    held_.push_back(byte);
    longest = 0;
    const Stop* met = nullptr;
    for (Stop& stop : stops_) {
      if (stop.Advance(byte) && (met == nullptr || stop.text.size() > met->text.size())) {
        met = &stop;
      }
      longest = std::max(longest, stop.matched);
    }
    if (met != nullptr) {
      stopped_ = true;
      stop_string_ = met->text;
      held_.resize(held_.size() - met->text.size());
      return std::exchange(held_, std::string());
    }
  }
  if (text.empty()) return {};
  // A stop string begins with a whole character's first byte, so that this cut is between
  // characters.
  const size_t released = held_.size() - longest;
  std::string output = held_.substr(0, released);
  held_.erase(0, released);
  return output;
}

}  // namespace gguf_offload
