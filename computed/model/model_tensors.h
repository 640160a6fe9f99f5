// An architecture's tensors found in a manifest, each with the shape that the architecture wants.
#ifndef COMPUTED_MODEL_MODEL_TENSORS_H_
#define COMPUTED_MODEL_MODEL_TENSORS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/model/architecture.h"

namespace gguf_offload {

// What a tensor of a file is to the weight whose name it has.
enum class WeightRole {
  kWeight,  // the weight itself
  kScale,   // ".scale": a factor for each of its matrices
  kBias,    // ".bias"
};

// A tensor that is used, or a part of one, with its place in the files.
struct ModelTensor {
  TensorId id;
  std::string name;  // as in the file
  quant::TensorType type;
  WeightRole role = WeightRole::kWeight;
  int64_t columns = 0;
  int64_t rows = 1;
  int64_t matrices = 1;
  uint32_t shard = 0;
  uint64_t offset = 0;         // bytes from the start of the shard's file
  uint64_t bytes = 0;          // of all matrices
  uint64_t matrix_stride = 0;  // see Weight

  bool is_vector() const { return rows == 1 && matrices == 1; }
  // Bytes of one matrix; bytes from one to the next in the file; bytes from the first byte in the
  // file to the last.
  uint64_t matrix_bytes() const { return bytes / matrices; }
  uint64_t stride() const { return matrix_stride != 0 ? matrix_stride : matrix_bytes(); }
  uint64_t span() const { return (matrices - 1) * stride() + matrix_bytes(); }
};

// The tensors of a model in groups that are used together: group 0 is the input (embedding), groups
// 1 to L the layers, group L + 1 the head.
struct ModelTensors {
  std::vector<std::vector<ModelTensor>> groups;
  bool tied_head = false;  // the head is the embedding
  // What the file has and nothing uses, by kind, with the reason; for the log.
  std::vector<std::string> unused;

  int input_group() const { return 0; }
  int layer_group(int layer) const { return layer + 1; }
  int head_group() const { return static_cast<int>(groups.size()) - 1; }
};

// NOT_FOUND or INVALID_ARGUMENT, naming the tensor, if one is missing or misshapen; UNIMPLEMENTED,
// naming it, if the file has a tensor that the forward pass would leave out although a model with
// it computes something else.
absl::StatusOr<ModelTensors> ResolveTensors(const Architecture& architecture,
                                            const v1::Manifest& manifest);

// Enters `tensor`, whose numbers are at `data`, of type `type` there and with its matrices
// `matrix_stride` bytes apart (0: side by side), into `weights`. Biases and scales are float32.
void Bind(const ModelTensor& tensor, quant::TensorType type, const uint8_t* data,
          uint64_t matrix_stride, LayerWeights& weights);

// Multiplies the biases of dense feed-forwards by the scales, where a file has both: there the
// factor is of the sum (llama.cpp, llm_graph_context::build_ffn), but for NVFP4, whose factor
// belongs to the weight. `weights`: on the host, of the tensors of `group`.
void ScaleFeedForwardBiases(const std::vector<ModelTensor>& group, const LayerWeights& weights);

}  // namespace gguf_offload

#endif  // COMPUTED_MODEL_MODEL_TENSORS_H_
