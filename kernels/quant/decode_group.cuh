// Decoding of quantized blocks group by group, for kernels: GroupDecoder<type> turns 32 elements of
// a block in shared or global memory into a Group32 in registers. Every quantized type has one.
// Under plain C++ the same header compiles for the host, where tests check it.
#ifndef KERNELS_QUANT_DECODE_GROUP_CUH_
#define KERNELS_QUANT_DECODE_GROUP_CUH_

#include "kernels/quant/decode_group_iq.cuh"
#include "kernels/quant/decode_group_k.cuh"
#include "kernels/quant/decode_group_simple.cuh"
#include "kernels/quant/group32.cuh"

#endif  // KERNELS_QUANT_DECODE_GROUP_CUH_
