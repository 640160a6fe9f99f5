// What CUDA kernels see when they are compiled for the host's processor: included before everything
// else by every translated source.
//
// The threads of a block are fibers of one thread of the host, so shared memory is thread_local and
// a barrier is a switch to the next fiber.
#ifndef TESTS_CUDA_EMULATOR_DEVICE_H_
#define TESTS_CUDA_EMULATOR_DEVICE_H_

#define CUDA_EMULATOR 1

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace cuda_emulator {

struct ThreadState {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
  int lane;
};
extern thread_local ThreadState* current;

// Runs a grid now.
void RunGrid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);
// Puts it on a stream.
void LaunchOn(cudaStream_t stream, std::function<void()> grid);

// `kernel` is called with copies of the arguments.
template <typename Kernel, typename... Arguments>
void Launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, Kernel kernel,
            const Arguments&... arguments) {
  LaunchOn(stream, [=] { RunGrid(grid, block, shared_bytes, [&] { kernel(arguments...); }); });
}

void* DynamicShared();
void SyncBlock();
// Every lane of `mask` that has not returned brings a value and gets those of all.
using WarpValues = std::array<uint64_t, 32>;
const WarpValues& Exchange(unsigned mask, uint64_t value);

template <typename T>
uint64_t ToBits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <typename T>
T FromBits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Shared memory by 32-bit addresses.
uint32_t SharedAddress(const void* pointer);
uint8_t* SharedPointer(uint32_t address);
// A copy that is done when it is waited for, at the latest when the thread's batches are fewer.
void AsyncCopy(uint32_t to, const void* from, int bytes, int total);
void AsyncCommit();
void AsyncWait(int pending_batches);

namespace ptx {

inline void ex2_approx_ftz_f32(float& result, float x) { result = std::exp2(x); }
inline void prmt_b32(uint32_t& mask, uint32_t bytes) { mask = ((bytes >> 7) & 0x01010101u) * 255; }
inline void cvt_rn_satfinite_f16x2_f32(uint32_t& halves, float high, float low) {
  const auto convert = [](float x) {
    const float clamped = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
    return static_cast<uint32_t>(__half_as_ushort(__float2half_rn(clamped)));
  };
  halves = convert(low) | convert(high) << 16;
}
inline void st_shared_v4_b32(uint32_t to, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  const uint32_t words[] = {x, y, z, w};
  std::memcpy(SharedPointer(to), words, sizeof(words));
}
inline void cp_async_cg_shared_global(uint32_t to, const void* from) {
  AsyncCopy(to, from, 16, 16);
}
inline void cp_async_cg_shared_global(uint32_t to, const void* from, int bytes) {
  AsyncCopy(to, from, bytes, 16);
}
inline void dp4a_u32_s32(int& result, uint32_t a, int b, int sum) {
  result = sum;
  for (int i = 0; i < 4; ++i) {
    result += static_cast<uint8_t>(a >> (8 * i)) *
              static_cast<int8_t>(static_cast<unsigned>(b) >> (8 * i));
  }
}
inline void atom_acq_rel_gpu_global_inc_u32(unsigned& old, unsigned* counter, unsigned most) {
  old = *counter;
  *counter = old >= most ? 0 : old + 1;
}
inline void prefetch_global_L2(const void* from) {}
inline void prefetch_global_L2__evict_last(const void* from) {}
inline void createpolicy_fractional_L2__evict_first_b64(uint64_t& policy) { policy = 0; }
inline void cp_async_cg_shared_global_L2__cache_hint_if(uint32_t to, const void* from, int wanted,
                                                        uint64_t policy) {
  if (wanted != 0) AsyncCopy(to, from, 16, 16);
}
inline void cp_async_commit_group() { AsyncCommit(); }
inline void cp_async_wait_group(int pending) { AsyncWait(pending); }
inline void cp_async_wait_all() {
  AsyncCommit();
  AsyncWait(0);
}
void LoadMatrices(uint32_t (&words)[4], uint32_t row, bool transposed);
inline void ldmatrix_sync_aligned_m8n8_x4_shared_b16(uint32_t& x, uint32_t& y, uint32_t& z,
                                                     uint32_t& w, uint32_t row) {
  uint32_t words[4];
  LoadMatrices(words, row, false);
  x = words[0], y = words[1], z = words[2], w = words[3];
}
inline void ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16(uint32_t& x, uint32_t& y, uint32_t& z,
                                                           uint32_t& w, uint32_t row) {
  uint32_t words[4];
  LoadMatrices(words, row, true);
  x = words[0], y = words[1], z = words[2], w = words[3];
}
void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(float& c0, float& c1, float& c2, float& c3,
                                                       uint32_t a0, uint32_t a1, uint32_t a2,
                                                       uint32_t a3, uint32_t b0, uint32_t b1);

}  // namespace ptx
}  // namespace cuda_emulator

// --- The language. From here on the compiler of device code is emulated.
#undef __shared__
#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __constant__
#undef __align__
#define __shared__ __emulated_shared__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx (::cuda_emulator::current->thread)
#define blockIdx (::cuda_emulator::current->block)
#define blockDim (::cuda_emulator::current->block_dim)
#define gridDim (::cuda_emulator::current->grid_dim)
#define warpSize 32
#ifndef __CUDACC__
#define __CUDACC__ 1
#endif
#define __CUDA_ARCH__ 900

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

inline void __syncthreads() { ::cuda_emulator::SyncBlock(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::cuda_emulator::Exchange(mask, 0); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const auto& values = ::cuda_emulator::Exchange(mask, ::cuda_emulator::ToBits(value));
  return ::cuda_emulator::FromBits<T>(values[(::cuda_emulator::current->lane ^ lane_mask) & 31]);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const auto& values = ::cuda_emulator::Exchange(mask, ::cuda_emulator::ToBits(value));
  const int lane = ::cuda_emulator::current->lane;
  return ::cuda_emulator::FromBits<T>(values[(lane & ~(width - 1)) | (source & (width - 1))]);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const auto& values = ::cuda_emulator::Exchange(mask, ::cuda_emulator::ToBits(value));
  const unsigned lane = ::cuda_emulator::current->lane;
  const bool inside = (lane & (width - 1)) + delta < static_cast<unsigned>(width);
  return inside ? ::cuda_emulator::FromBits<T>(values[lane + delta]) : value;
}
template <typename T, typename Combine>
T EmulatedReduce(unsigned mask, T value, Combine combine) {
  const auto& values = ::cuda_emulator::Exchange(mask, ::cuda_emulator::ToBits(value));
  T result = value;
  bool first = true;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const T other = ::cuda_emulator::FromBits<T>(values[lane]);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return EmulatedReduce(mask, value, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return EmulatedReduce(mask, value, [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_add_sync(unsigned mask, int value) {
  return EmulatedReduce(mask, value, [](int a, int b) { return a + b; });
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const ::cuda_emulator::WarpValues values = ::cuda_emulator::Exchange(mask, predicate != 0);
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) ballot |= static_cast<unsigned>(values[lane] & 1) << lane;
  }
  return ballot;
}
inline int __any_sync(unsigned mask, int predicate) {
  return EmulatedReduce(mask, predicate != 0, [](bool a, bool b) { return a || b; });
}
inline int __all_sync(unsigned mask, int predicate) {
  return EmulatedReduce(mask, predicate != 0, [](bool a, bool b) { return a && b; });
}

// Every look at the clock takes its time.
inline long long clock64() {
  static thread_local long long cycles = 0;
  return cycles += 1000;
}
inline void __nanosleep(unsigned nanoseconds) {}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
T __ldcv(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}

// Blocks of one grid run one after the other, so these need no more.
template <typename T>
T atomicAdd(T* p, T value) {
  return std::exchange(*p, *p + value);
}
template <typename T>
T atomicMax(T* p, T value) {
  return std::exchange(*p, std::max(*p, value));
}
template <typename T>
T atomicMin(T* p, T value) {
  return std::exchange(*p, std::min(*p, value));
}
template <typename T>
T atomicExch(T* p, T value) {
  return std::exchange(*p, value);
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
  return std::exchange(*p, *p >= limit ? 0 : *p + 1);
}

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i);
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (pick & 7))) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) {
    c += static_cast<int8_t>(static_cast<unsigned>(a) >> (8 * i)) *
         static_cast<int8_t>(static_cast<unsigned>(b) >> (8 * i));
  }
  return c;
}
inline unsigned __vsub4(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= (((a >> (8 * i)) - (b >> (8 * i))) & 0xff) << (8 * i);
  }
  return result;
}
inline unsigned __vadd4(unsigned a, unsigned b) {
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= (((a >> (8 * i)) + (b >> (8 * i))) & 0xff) << (8 * i);
  }
  return result;
}
inline size_t __cvta_generic_to_shared(const void* p) { return ::cuda_emulator::SharedAddress(p); }
template <typename T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
  return cudaSuccess;
}
template <typename T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return ::cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}

#endif  // TESTS_CUDA_EMULATOR_DEVICE_H_
