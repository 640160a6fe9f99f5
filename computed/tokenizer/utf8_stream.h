// Makes valid UTF-8 of bytes that arrive in pieces.
#ifndef COMPUTED_TOKENIZER_UTF8_STREAM_H_
#define COMPUTED_TOKENIZER_UTF8_STREAM_H_

#include <string>
#include <string_view>

namespace gguf_offload {

// Holds back the beginning of a character until the rest of it has come. Bytes that cannot become
// a character are replaced by U+FFFD, one for each maximal beginning of a well-formed sequence
// (Unicode 15.0, section 3.9, "U+FFFD Substitution of Maximal Subparts"). Not thread safe.
class Utf8Stream {
 public:
  // Returns the whole characters that `bytes` completes; always valid UTF-8.
  std::string Push(std::string_view bytes);

  // Ends the stream: an incomplete character becomes U+FFFD.
  std::string Flush();

 private:
  std::string tail_;  // at most three bytes: the beginning of a character
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_UTF8_STREAM_H_
