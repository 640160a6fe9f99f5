// An architecture's tensors found in a manifest, each with the shape that the architecture wants.
#ifndef COMPUTED_MODEL_MODEL_TENSORS_H_
#define COMPUTED_MODEL_MODEL_TENSORS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/architecture.h"

namespace gguf_offload {

// A tensor that is used, with its place in the files.
struct ModelTensor {
  TensorId id;
  std::string name;
  quant::TensorType type;
  int64_t columns = 0;
  int64_t rows = 1;
  int64_t matrices = 1;
  uint32_t shard = 0;
  uint64_t offset = 0;  // bytes from the start of the shard's file
  uint64_t bytes = 0;

  bool is_vector() const { return rows == 1 && matrices == 1; }
};

// The tensors of a model in groups that are used together: group 0 is the input (embedding), groups
// 1 to L the layers, group L + 1 the head.
struct ModelTensors {
  std::vector<std::vector<ModelTensor>> groups;
  bool tied_head = false;  // the head is the embedding

  int input_group() const { return 0; }
  int layer_group(int layer) const { return layer + 1; }
  int head_group() const { return static_cast<int>(groups.size()) - 1; }
};

// NOT_FOUND or INVALID_ARGUMENT, naming the tensor, if one is missing or misshapen.
absl::StatusOr<ModelTensors> ResolveTensors(const Architecture& architecture,
                                            const v1::Manifest& manifest);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_MODEL_TENSORS_H_
