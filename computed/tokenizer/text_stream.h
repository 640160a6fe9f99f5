// The text of an answer while its tokens are being generated.
#ifndef COMPUTED_TOKENIZER_TEXT_STREAM_H_
#define COMPUTED_TOKENIZER_TEXT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "computed/tokenizer/tokenizer.h"
#include "computed/tokenizer/utf8_stream.h"

namespace gguf_offload {

struct TextStreamOptions {
  // The answer ends before the first of these to be completed, or the longest of those completed
  // at once. One that is a special token's name is met by that token too, shown or not. Empty
  // strings and strings that are not valid UTF-8 are ignored.
  std::vector<std::string> stop_strings;
  // Show control tokens by their text.
  bool render_special = false;
  // The tokens are a text of their own, not the continuation of a prompt: the space that Encode
  // puts in front of a text is taken away.
  bool at_text_start = false;
};

// Emits valid UTF-8 that never ends within a character, nor with what may still become a stop
// string. One sequence's stream; not thread safe. `tokenizer` must outlive it.
class TextStream {
 public:
  TextStream(const Tokenizer* tokenizer, TextStreamOptions options);

  // The text that `token` releases, often empty. Nothing once stopped.
  std::string Push(int32_t token);

  // The text still held back; call once after the last token. An incomplete character becomes
  // U+FFFD.
  std::string Flush();

  // A stop string has been met; it and what follows are not emitted.
  bool stopped() const { return stopped_; }
  // The stop string that was met, empty if none.
  const std::string& stop_string() const { return stop_string_; }

 private:
  // A stop string and how much of it the text ends with (Knuth, Morris and Pratt, 1977).
  struct Stop {
    std::string text;
    std::vector<size_t> borders;  // (size) longest proper border of each prefix
    size_t matched = 0;

    explicit Stop(std::string text);
    // Returns true if `byte` completes the string.
    bool Advance(char byte);
  };

  std::string Filter(const std::string& text);
  std::string StopAt(const std::string& stop);

  const Tokenizer* const tokenizer_;
  const bool render_special_;
  bool at_text_start_;
  std::vector<Stop> stops_;
  std::vector<std::pair<int32_t, std::string>> stop_tokens_;  // special tokens and their names
  Utf8Stream characters_;
  std::string held_;  // text that may belong to a stop string
  bool stopped_ = false;
  std::string stop_string_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TEXT_STREAM_H_
