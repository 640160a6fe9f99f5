#include "kernels/moe/expert_feed_forward_cuda.h"

#include <algorithm>

#include "kernels/matmul/half_rows_cuda.h"
#include "kernels/moe/expert_sum_cuda.h"
#include "kernels/ops/activation_cuda.h"

namespace gguf_offload::cuda {
namespace {

constexpr size_t kAlignment = 256;
// Up to so many rows, pairs are multiplied one by one: too few of them share an expert for sorting
// to pay.
constexpr int kUnsortedRows = 2;

int64_t PadFloats(int64_t columns) { return (columns + 3) / 4 * 4; }

}  // namespace

ExpertFeedForward::Layout::Layout(const ExpertFeedForwardConfig& config) {
  if (config.experts == 0) return;
  const auto add = [this](size_t part) {
    const size_t begin = bytes;
    bytes += (part + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  const size_t rows = std::max(config.chunk_rows, config.int8_rows);
  const size_t most_pairs = rows * config.used;
  const size_t quantized_pairs = static_cast<size_t>(config.int8_rows) * config.used;
  const size_t width = PadFloats(config.feed_forward);
  const size_t q_columns = (config.feed_forward + 31) / 32 * 32;
  pairs = add(most_pairs * sizeof(int32_t));
  tiles = add(most_pairs * sizeof(ExpertTile));
  gate = add(most_pairs * width * sizeof(float));
  up = add(most_pairs * width * sizeof(float));
  down = add(most_pairs * PadFloats(config.dim) * sizeof(float));
  q = add(quantized_pairs * q_columns);
  q_scale = add(quantized_pairs * (q_columns / 32) * sizeof(float2));
  half_x = add(rows * PadHalfColumns(config.dim) * sizeof(__half));
  x_scale = add(rows * sizeof(float));
  half_h = add(most_pairs * PadHalfColumns(config.feed_forward) * sizeof(__half));
  h_scale = add(most_pairs * sizeof(float));
}

size_t ExpertFeedForward::WorkspaceBytes(const ExpertFeedForwardConfig& config) {
  return Layout(config).bytes;
}

ExpertFeedForward::ExpertFeedForward(const ExpertFeedForwardConfig& config, void* memory)
    : config_(config), layout_(config), memory_(static_cast<uint8_t*>(memory)) {}

bool ExpertFeedForward::WantsQuantized(int rows, const Experts& experts) const {
  return rows <= config_.int8_rows && CanMultiplyExpertsInt8(experts.gate.type) &&
         CanMultiplyExpertsInt8(experts.up.type) && CanMultiplyExpertsInt8(experts.down.type);
}

void ExpertFeedForward::AddTo(float* out, int64_t out_stride, const float* x, int64_t x_stride,
                              const QuantizedRows& quantized, const ChosenExperts& chosen,
                              const Experts& experts, cudaStream_t stream) const {
  if (WantsQuantized(chosen.rows, experts)) {
    MultiplyInner(x, x_stride, quantized, chosen, 0, experts, stream);
    MultiplyDown(/*int8=*/true, chosen, 0, experts, stream);
    return AddProducts(out, out_stride, chosen, experts, stream);
  }
  for (int first = 0; first < chosen.rows; first += config_.chunk_rows) {
    ChosenExperts chunk = chosen;
    chunk.experts += static_cast<int64_t>(first) * chosen.used;
    chunk.weights += static_cast<int64_t>(first) * chosen.used;
    chunk.rows = std::min(config_.chunk_rows, chosen.rows - first);
    MultiplyInner(x + first * x_stride, x_stride, {}, chunk, 0, experts, stream);
    MultiplyDown(/*int8=*/false, chunk, 0, experts, stream);
    AddProducts(out + first * out_stride, out_stride, chunk, experts, stream);
  }
}

// Both in one launch where they are alike.
void ExpertFeedForward::GateAndUp(const Experts& experts, int pairs_per_row, int first_pair,
                                  const auto& multiply) const {
  ExpertProducts products{.y_stride = PadFloats(config_.feed_forward),
                          .pairs_per_row = pairs_per_row};
  float* const gate = At<float>(layout_.gate) + first_pair * products.y_stride;
  float* const up = At<float>(layout_.up) + first_pair * products.y_stride;
  if (experts.gate.type == experts.up.type) {
    products.count = 2;
    products.matrices[0] = experts.gate;
    products.matrices[1] = experts.up;
    products.y[0] = gate;
    products.y[1] = up;
    return multiply(products);
  }
  products.matrices[0] = experts.gate;
  products.y[0] = gate;
  multiply(products);
  products.matrices[0] = experts.up;
  products.y[0] = up;
  multiply(products);
}

ExpertFeedForward::PairOrder ExpertFeedForward::OrderOf(const ChosenExperts& part,
                                                        bool int8) const {
  if (int8 && part.rows <= kUnsortedRows) return {.tiles = part.pairs()};
  const int tile_pairs = int8 ? kExpertMatVecPairs : kExpertMatMulPairs;
  return {.order = {At<int32_t>(layout_.pairs), At<ExpertTile>(layout_.tiles)},
          .tiles = MostExpertTiles(part.pairs(), config_.experts, tile_pairs),
          .tile_pairs = tile_pairs};
}

QuantizedRows ExpertFeedForward::QuantizedPairs(int first_pair) const {
  const QuantizedRows all = {At<int8_t>(layout_.q), At<float2>(layout_.q_scale),
                             config_.feed_forward};
  return all.Rows(first_pair);
}

void ExpertFeedForward::MultiplyInner(const float* x, int64_t x_stride,
                                      const QuantizedRows& quantized, const ChosenExperts& part,
                                      int first_pair, const Experts& experts,
                                      cudaStream_t stream) const {
  const bool int8 = quantized.q != nullptr;
  const int pairs = part.pairs();
  const int width = static_cast<int>(config_.feed_forward);
  const int64_t stride = PadFloats(config_.feed_forward);
  float* const gate = At<float>(layout_.gate) + first_pair * stride;
  float* const up = At<float>(layout_.up) + first_pair * stride;

  const PairOrder of = OrderOf(part, int8);
  if (of.order.tiles != nullptr) {
    OrderByExpert(part, config_.experts, of.tile_pairs, of.order, stream);
  }
  QuantizedRows h;  // what the experts' second product takes
  if (int8) {
    h = QuantizedPairs(first_pair);
    GateAndUp(experts, part.used, first_pair, [&](const ExpertProducts& products) {
      MultiplyExpertsInt8(products, quantized, part, of.order, of.tiles, stream);
    });
  } else {
    __half* const half_x = At<__half>(layout_.half_x);
    float* const x_scale = At<float>(layout_.x_scale);
    RowsToHalf(x, x_stride, part.rows, config_.dim, half_x, x_scale, stream);
    GateAndUp(experts, part.used, first_pair, [&](const ExpertProducts& products) {
      MultiplyExpertsHalf(products, half_x, x_scale, of.order, of.tiles, stream);
    });
  }
  switch (experts.activation) {
    case ExpertActivation::kSwiGlu:
      return SwiGlu(gate, stride, up, stride, pairs, width, gate, stride, h, stream);
    case ExpertActivation::kClampedSwiGlu:
      return ClampedSwiGlu(gate, stride, up, stride, kClampedSwiGluAlpha, kClampedSwiGluLimit,
                           pairs, width, gate, stride, h, stream);
    case ExpertActivation::kSilu:
      return Silu(gate, stride, pairs, width, gate, stride, h, stream);
  }
}

void ExpertFeedForward::MultiplyDown(bool int8, const ChosenExperts& part, int first_pair,
                                     const Experts& experts, cudaStream_t stream) const {
  const int64_t stride = PadFloats(config_.feed_forward), down_stride = PadFloats(config_.dim);
  const PairOrder of = OrderOf(part, int8);
  const ExpertProducts products{.matrices = {experts.down},
                                .y = {At<float>(layout_.down) + first_pair * down_stride},
                                .y_stride = down_stride,
                                .pairs_per_row = 1};
  if (int8) {
    return MultiplyExpertsInt8(products, QuantizedPairs(first_pair), part, of.order, of.tiles,
                               stream);
  }
  __half* const half_h =
      At<__half>(layout_.half_h) + first_pair * PadHalfColumns(config_.feed_forward);
  float* const h_scale = At<float>(layout_.h_scale) + first_pair;
  RowsToHalf(At<float>(layout_.gate) + first_pair * stride, stride, part.pairs(),
             config_.feed_forward, half_h, h_scale, stream);
  MultiplyExpertsHalf(products, half_h, h_scale, of.order, of.tiles, stream);
}

void ExpertFeedForward::MultiplyLastDownAndAdd(float* out, int64_t first, int64_t end,
                                               const ChosenExperts& chosen, const Experts& experts,
                                               cudaStream_t stream) const {
  const int last = chosen.used - 1;
  ChosenExperts part = chosen;
  part.experts += last;
  part.weights += last;
  part.used = 1;
  const ExpertProducts products{.matrices = {experts.down},
                                .sum = {.out = out,
                                        .y = At<float>(layout_.down),
                                        .y_stride = PadFloats(config_.dim),
                                        .chosen = chosen,
                                        .uses = first == 0 ? experts.uses : nullptr,
                                        .first_row = first,
                                        .end_row = end}};
  MultiplyExpertsInt8(products, QuantizedPairs(last), part, {}, /*tiles=*/1, stream);
}

void ExpertFeedForward::AddProducts(float* out, int64_t out_stride, const ChosenExperts& chosen,
                                    const Experts& experts, cudaStream_t stream) const {
  AddWeightedExperts(chosen, At<float>(layout_.down), PadFloats(config_.dim), config_.dim, out,
                     out_stride, experts.uses, stream);
}

}  // namespace gguf_offload::cuda
