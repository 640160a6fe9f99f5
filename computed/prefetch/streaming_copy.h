// memcpy for bytes that this processor will not look at again.
#ifndef COMPUTED_PREFETCH_STREAMING_COPY_H_
#define COMPUTED_PREFETCH_STREAMING_COPY_H_

#include <cstddef>
#include <cstdint>

namespace gguf_offload {

// Copies `bytes` bytes between ranges that do not overlap, with stores that bypass the caches: the
// destination's lines are not read first, and nothing useful is evicted. Visible to other threads
// and devices like ordinary stores once it has returned. Where the processor has no such stores, it
// is memcpy.
void StreamingCopy(uint8_t* destination, const uint8_t* source, size_t bytes);

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_STREAMING_COPY_H_
