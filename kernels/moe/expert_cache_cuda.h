// A cache of experts in GPU memory that the GPU itself manages: the router's choice is turned into
// slots and misses, and misses are gathered from mapped host memory, without the host's knowledge;
// or with its help, where it has to fetch them first.
//
// A pool is some slots of one size that a layer has for itself (or, where memory is short, that all
// layers share one after the other). The experts that were not used for the longest time make room
// for new ones.
#ifndef KERNELS_MOE_EXPERT_CACHE_CUDA_H_
#define KERNELS_MOE_EXPERT_CACHE_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/moe/expert_slot.h"
#include "kernels/moe/router_cuda.h"

namespace gguf_offload::cuda {

// What has happened in a layer since the start.
struct ExpertCounts {
  unsigned long long hits = 0;    // experts that a call found in their slots
  unsigned long long misses = 0;  // experts that had to be fetched
  unsigned long long bytes = 0;   // that were fetched
  // Of expert_prediction_cuda.h.
  unsigned long long early = 0;       // experts that were fetched before a call asked for them
  unsigned long long early_used = 0;  // of these, those that the next call found
  unsigned long long early_bytes = 0;
};

// Device memory, zero at first but for slot_of and owner, which are -1.
struct ExpertPool {
  int slots = 0;
  int32_t* owner = nullptr;                // (slots) which entry of slot_of has the slot, or -1
  unsigned long long* last_use = nullptr;  // (slots) the clock's time
  unsigned long long* clock = nullptr;     // goes on with each call
  int32_t* slot_of = nullptr;              // (all layers, experts) of the pool, or -1
  // (slots) the time of the call that the slot's expert was fetched early for; null: none ever is
  unsigned long long* early_for = nullptr;
};

// An expert to be fetched.
struct ExpertFill {
  int32_t expert;
  int32_t slot;
};

// The most parts that the fills of a call are copied in.
inline constexpr int kMaxFillParts = 8;

// What a call leaves for FillSlots.
struct ExpertFills {
  ExpertFill* fills = nullptr;  // (as many as pairs of a call, or slots)
  int32_t* count = nullptr;
  int32_t* begun = nullptr;  // (kMaxFillParts) for FillSlots: how far it is with each part

  // Where the host fetches experts between the two: mapped memory in which ResolveExperts repeats
  // fills and count for it, and where it answers with the address of each expert, in mapped memory
  // laid out like a slot, or with null for one that it does not have. Otherwise all null.
  ExpertFill* told_fills = nullptr;
  int32_t* told_count = nullptr;
  const uint8_t* const* entries = nullptr;  // (fills)
};

// Finds a slot for each expert of `chosen` in layer `layer` (of `experts` experts each). A slot
// that this call uses is not taken from its expert. `chosen` has at most pool.slots pairs, or the
// pool as many slots as the layer experts. Fills are in the order of the pairs that are the first
// to ask for them: pair i finds its expert in its slot after the first i + 1 fills. With `scores`,
// which may be given where CanChooseAndResolve says so, this is ChooseExperts as well.
void ResolveExperts(const ChosenExperts& chosen, const RouterScores* scores, const ExpertPool& pool,
                    int layer, int experts, const ExpertFills& fills, ExpertCounts* counts,
                    int64_t expert_bytes, cudaStream_t stream);
inline constexpr int kMostResolvedExperts = 256;
inline bool CanChooseAndResolve(const RoutingRule& rule, int rows) {
  return rows == 1 && rule.experts <= kMostResolvedExperts;
}

// One matrix of all experts, in mapped host memory; the aligned 16 bytes around the first and the
// last byte must be readable.
struct ExpertSource {
  const uint8_t* data = nullptr;  // of expert 0
  int64_t bytes = 0;              // of each
  int64_t offset = 0;             // in a slot, a multiple of 16
  int64_t stride = 0;             // from one to the next; 0: side by side
};

// What a call of FillSlots copies: fills [first, end), as far as there are so many, and of each
// matrices [first_matrix, end_matrix), of the last of which bytes [first_byte, end_byte), as far as
// it has so many. A part whose number is not 0 does not wait for the stream: it follows the others
// of its fills, in order, and overlaps with the end of the one before.
struct FillPart {
  int number = 0;  // each call for the same fills has another, less than kMaxFillParts
  int first = 0;
  int end = 0;
  int first_matrix = 0;
  int end_matrix = 3;
  int64_t first_byte = 0;
  int64_t end_byte = INT64_MAX;
};

// Copies those experts to their slots that ResolveExperts has found missing: a matrix begins at the
// source's offset and has the address modulo 16 that it has in host memory. With fills.entries,
// experts are taken from there, and of sources[i].data only the address modulo 16 counts; slots of
// experts without an entry stay as they are.
void FillSlots(const ExpertFills& fills, const FillPart& part, const ExpertSource (&sources)[3],
               uint8_t* slots, int64_t slot_stride, cudaStream_t stream);

// For the stream of ResolveExperts, where FillSlots follows on another: kernels behind this do not
// take the GPU's place before FillSlots, as dependent ones of ResolveExperts would.
void LetFillsBegin(cudaStream_t stream);

}  // namespace gguf_offload::cuda

#endif  // KERNELS_MOE_EXPERT_CACHE_CUDA_H_
