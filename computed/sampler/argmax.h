// Largest element of a row of logits.
#ifndef COMPUTED_SAMPLER_ARGMAX_H_
#define COMPUTED_SAMPLER_ARGMAX_H_

#include <cstdint>
#include <span>

namespace gguf_offload {

// Largest value of `logits`, (n); minus infinity if there is none but NaN.
float MaxLogit(std::span<const float> logits);

// Index of the first largest value, 0 if all are NaN or minus infinity, -1 if `logits` is empty.
int32_t ArgMax(std::span<const float> logits);

// Whether a token can be chosen by these logits: there is a finite one, and none is NaN or plus
// infinity, of which no probabilities can be made.
bool CanChooseBy(std::span<const float> logits);

}  // namespace gguf_offload

#endif  // COMPUTED_SAMPLER_ARGMAX_H_
