#include "kernels/matmul/cublas_library.h"

#include <dlfcn.h>

namespace gguf_offload::cuda {
namespace {

// The functions used here have the same interface in all of these. The last two are where NVIDIA's
// packages put the library when the linker's cache does not know it.
constexpr const char* kNames[] = {
    "libcublas.so.13",
    "libcublas.so.12",
    "/usr/local/cuda/lib64/libcublas.so.13",
    "/usr/local/cuda/lib64/libcublas.so.12",
};

template <class Function>
bool Find(void* library, const char* name, Function*& function, std::string& error) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  if (function == nullptr) error = std::string("libcublas has no function ") + name;
  return function != nullptr;
}

}  // namespace

std::unique_ptr<CublasLibrary> CublasLibrary::Load(std::string& error) {
  std::unique_ptr<CublasLibrary> out(new CublasLibrary);
  error.clear();
  for (const char* name : kNames) {
    out->library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (out->library_ != nullptr) break;
    const char* reason = dlerror();
    if (error.empty() && reason != nullptr) error = reason;
  }
  if (out->library_ == nullptr) return nullptr;
  void* library = out->library_;
  if (!Find(library, "cublasCreate_v2", out->create, error) ||
      !Find(library, "cublasDestroy_v2", out->destroy, error) ||
      !Find(library, "cublasSetStream_v2", out->set_stream, error) ||
      !Find(library, "cublasSetWorkspace_v2", out->set_workspace, error) ||
      !Find(library, "cublasGetStatusString", out->status_string, error) ||
      !Find(library, "cublasGemmEx", out->gemm_ex, error)) {
    return nullptr;
  }
  error.clear();
  return out;
}

CublasLibrary::~CublasLibrary() {
  if (library_ != nullptr) dlclose(library_);
}

}  // namespace gguf_offload::cuda
