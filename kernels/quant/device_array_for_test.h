// Device memory for tests and benchmarks.
#ifndef KERNELS_QUANT_DEVICE_ARRAY_FOR_TEST_H_
#define KERNELS_QUANT_DEVICE_ARRAY_FOR_TEST_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace gguf_offload::cuda {

// Throws what went wrong.
inline void CheckCuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

// Owns `size` elements of device memory that begin `misalignment` bytes behind an address aligned
// to 256 bytes, with room on both sides, so that whole aligned words around them can be read.
// Not thread-safe; errors throw.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size, size_t misalignment = 0) : size_(size) {
    constexpr size_t kRoom = 256;
    CheckCuda(cudaMalloc(&memory_, size * sizeof(T) + misalignment + 2 * kRoom));
    data_ = reinterpret_cast<T*>(static_cast<uint8_t*>(memory_) + kRoom + misalignment);
    // Bytes that are NaN as floats of every size, around the array, too.
    CheckCuda(cudaMemset(memory_, 0xff, size * sizeof(T) + misalignment + 2 * kRoom));
  }
  explicit DeviceArray(const std::vector<T>& values, size_t misalignment = 0)
      : DeviceArray(values.size(), misalignment) {
    CheckCuda(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(DeviceArray&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), data_(other.data_), size_(other.size_) {}
  DeviceArray& operator=(DeviceArray&&) = delete;
  ~DeviceArray() { cudaFree(memory_); }

  T* data() { return data_; }
  size_t size() const { return size_; }

  // Waits for the device.
  std::vector<T> ToHost() const {
    CheckCuda(cudaDeviceSynchronize());
    std::vector<T> values(size_);
    CheckCuda(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  void* memory_ = nullptr;
  T* data_ = nullptr;
  size_t size_;
};

}  // namespace gguf_offload::cuda

#endif  // KERNELS_QUANT_DEVICE_ARRAY_FOR_TEST_H_
