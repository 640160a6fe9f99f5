#include "computed/prefetch/streaming_copy.h"

#include <algorithm>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace gguf_offload {

#ifdef __SSE2__

void StreamingCopy(uint8_t* destination, const uint8_t* source, size_t bytes) {
  constexpr size_t kLine = 64;
  // Up to a line's start: partly written lines would cost more than they save.
  const size_t head =
      std::min(bytes, (kLine - reinterpret_cast<uintptr_t>(destination) % kLine) % kLine);
  std::memcpy(destination, source, head);
  size_t at = head;
  for (; bytes - at >= kLine; at += kLine) {
    const auto* const from = reinterpret_cast<const __m128i*>(source + at);
    auto* const to = reinterpret_cast<__m128i*>(destination + at);
    const __m128i a = _mm_loadu_si128(from);
    const __m128i b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2);
    const __m128i d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
  std::memcpy(destination + at, source + at, bytes - at);
  _mm_sfence();  // such stores are ordered by nothing else
}

#else

void StreamingCopy(uint8_t* destination, const uint8_t* source, size_t bytes) {
  std::memcpy(destination, source, bytes);
}

#endif

}  // namespace gguf_offload
