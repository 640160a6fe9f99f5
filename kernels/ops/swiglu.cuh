// The gated units of feed-forward networks, for kernels.
#ifndef KERNELS_OPS_SWIGLU_CUH_
#define KERNELS_OPS_SWIGLU_CUH_

namespace gguf_offload::cuda {

// x * sigmoid(alpha * x)
__device__ __forceinline__ float Swish(float x, float alpha) {
  return x / (1.0f + expf(-alpha * x));
}

struct SiluStep {
  __device__ __forceinline__ float operator()(float x, float) const { return Swish(x, 1.0f); }
};

struct SwiGluStep {
  __device__ __forceinline__ float operator()(float gate, float up) const {
    return Swish(gate, 1.0f) * up;
  }
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_OPS_SWIGLU_CUH_
