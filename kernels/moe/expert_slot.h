// How an expert lies in a slot of a cache of experts.
#ifndef KERNELS_MOE_EXPERT_SLOT_H_
#define KERNELS_MOE_EXPERT_SLOT_H_

#include <cstdint>

namespace gguf_offload {

// The most slots that are managed together.
inline constexpr int kMaxExpertSlots = 2048;

// Bytes that a matrix of an expert takes in a slot: it keeps its address modulo 16, and the 16
// bytes behind it are readable. The result is a multiple of 16.
inline int64_t ExpertSlotBytes(int64_t matrix_bytes) { return (matrix_bytes + 15 + 31) / 16 * 16; }

}  // namespace gguf_offload

#endif  // KERNELS_MOE_EXPERT_SLOT_H_
