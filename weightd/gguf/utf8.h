// Checks text that comes out of files.
#ifndef WEIGHTD_GGUF_UTF8_H_
#define WEIGHTD_GGUF_UTF8_H_

#include <string_view>

namespace gguf_offload::gguf {

// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7: no overlong forms, no surrogates,
// nothing above U+10FFFF).
bool IsValidUtf8(std::string_view text);

// Whether `text` is well-formed UTF-8 without ASCII control characters, so that it can be shown on
// one line of a log or a terminal.
bool IsPrintableUtf8(std::string_view text);

}  // namespace gguf_offload::gguf

#endif  // WEIGHTD_GGUF_UTF8_H_
