// Working memory of kernels: aligned to a cache line, grows and is never given back before the end.
#ifndef KERNELS_MATMUL_ALIGNED_BUFFER_H_
#define KERNELS_MATMUL_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace gguf_offload {

// Owns its elements, of a trivial type T. Thread compatible.
template <typename T>
class AlignedBuffer {
 public:
  // Makes room for `elements` elements; their values are unspecified if the buffer had to grow.
  void Reserve(size_t elements) {
    if (elements <= capacity_) return;
    constexpr size_t kAlignment = 64;
    const size_t bytes = (elements * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset(static_cast<T*>(std::aligned_alloc(kAlignment, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    capacity_ = elements;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };

  std::unique_ptr<T, Free> data_;
  size_t capacity_ = 0;
};

}  // namespace gguf_offload

#endif  // KERNELS_MATMUL_ALIGNED_BUFFER_H_
