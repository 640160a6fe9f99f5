// How large the scales of random blocks have to be for the values to have a given deviation.
#ifndef TESTS_MODELGEN_BLOCK_SCALES_H_
#define TESTS_MODELGEN_BLOCK_SCALES_H_

#include <cstdint>

#include "kernels/quant/format.h"

namespace gguf_offload {

// A small code with a chance of the next larger one: how types whose scales are coarse (powers of
// two, three mantissa bits) reach a variance in between.
struct CoarseScale {
  uint8_t code = 0;
  uint8_t chance_of_next = 0;  // of 256
};

// Standard deviation of a whole number picked evenly among `levels` neighbours.
double EvenDeviation(double levels);

// The standard deviation of a block's values where d is one and all codes and scales are random (as
// BlockGenerator leaves them); 0 for types without such a d.
double UnitDeviation(quant::TensorType type);

// How far above the lowest code the middle of the codes lies, for types with an offset: the offset
// is that many d (times the scale where there are scales), so that the values' mean is zero.
double CentreOfCodes(quant::TensorType type);

// MXFP4, NVFP4: the scales that give values of this deviation.
CoarseScale ChooseCoarseScale(quant::TensorType type, double deviation);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_BLOCK_SCALES_H_
