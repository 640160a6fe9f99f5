// The only translation from GGUF to the protobuf messages that all others see.
#ifndef WEIGHTD_MANIFEST_MANIFEST_H_
#define WEIGHTD_MANIFEST_MANIFEST_H_

#include <cstddef>

#include "gguf_offload/v1/model.pb.h"
#include "weightd/gguf/gguf_file.h"
#include "weightd/store/model.h"

namespace gguf_offload {

struct ManifestOptions {
  // Leave out the elements of arrays of more than kLongArray elements (vocabularies).
  bool elide_long_arrays = false;
  // Include Manifest.tensors.
  bool tensors = true;
};

inline constexpr size_t kLongArray = 64;

// The manifest of a model. Strings that are not valid UTF-8 become bytes.
v1::Manifest BuildManifest(const store::Model& model, const ManifestOptions& options = {});

// The entry of model.tensors()[index].
v1::TensorInfo BuildTensorInfo(const store::Model& model, size_t index);

// One metadata value.
v1::MetadataValue BuildMetadataValue(const gguf::Value& value, bool elide_long_arrays);

}  // namespace gguf_offload

#endif  // WEIGHTD_MANIFEST_MANIFEST_H_
