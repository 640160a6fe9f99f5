// How much memory the host has to give.
#ifndef COMPUTED_ENGINE_AVAILABLE_MEMORY_H_
#define COMPUTED_ENGINE_AVAILABLE_MEMORY_H_

#include <cstdint>

namespace gguf_offload {

// Bytes that the system could give without swapping (proc(5), MemAvailable); 0 if it does not say.
uint64_t AvailableMemory();

}  // namespace gguf_offload

#endif  // COMPUTED_ENGINE_AVAILABLE_MEMORY_H_
