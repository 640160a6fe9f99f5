#include "computed/runtime/cuda/step_inputs.h"

#include <algorithm>

#include "computed/runtime/cuda/cuda_status.h"
#include "kernels/ops/copy_words_cuda.h"

namespace gguf_offload {
namespace {

constexpr int kDecodeWords = sizeof(cuda::DecodeRow) / sizeof(int32_t);
constexpr int kTileWords = sizeof(cuda::PrefillTile) / sizeof(int32_t);

int64_t Aligned(int64_t words) { return (words + 3) / 4 * 4; }

int TilesOf(int rows) { return (rows + cuda::kPrefillTileRows - 1) / cuda::kPrefillTileRows; }

}  // namespace

int64_t StepInputs::Words(const Limits& limits) {
  const int64_t tiles = TilesOf(limits.rows) + limits.sequences;
  return Aligned(limits.kv_pages) + 3 * Aligned(limits.rows) + Aligned(limits.logit_rows) +
         Aligned(int64_t{limits.rows} * kDecodeWords) + Aligned(tiles * kTileWords);
}

uint64_t StepInputs::DeviceBytes(const Limits& limits) {
  return DeviceArena::Rounded(Words(limits) * sizeof(int32_t));
}

absl::StatusOr<std::unique_ptr<StepInputs>> StepInputs::Create(const Limits& limits,
                                                               DeviceArena& arena) {
  std::unique_ptr<StepInputs> inputs(new StepInputs(limits));
  const uint64_t bytes = Words(limits) * sizeof(int32_t);
  absl::StatusOr<uint8_t*> device = arena.Take(bytes, "step inputs");
  if (!device.ok()) return device.status();
  inputs->device_ = reinterpret_cast<int32_t*>(*device);
  void* host = nullptr;
  absl::Status status =
      CudaStatus(cudaHostAlloc(&host, bytes, cudaHostAllocMapped), "pinned memory for inputs");
  if (!status.ok()) return status;
  inputs->host_ = static_cast<int32_t*>(host);
  void* mapped = nullptr;
  status = CudaStatus(cudaHostGetDevicePointer(&mapped, host, 0), "a device address");
  if (!status.ok()) return status;
  inputs->mapped_ = static_cast<int32_t*>(mapped);
  return inputs;
}

StepInputs::~StepInputs() {
  if (host_ != nullptr) cudaFreeHost(host_);
}

StepShape StepInputs::ShapeOf(const StepBatch& batch, int padded_rows) {
  if (padded_rows > 0) {
    return {.rows = padded_rows, .logit_rows = padded_rows, .decode_rows = padded_rows};
  }
  StepShape shape{.rows = batch.rows(), .logit_rows = static_cast<int>(batch.logit_rows.size())};
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    if (sequence.rows == 1) {
      ++shape.decode_rows;
    } else {
      shape.tiles += TilesOf(sequence.rows);
    }
  }
  return shape;
}

void StepInputs::LayOut(const StepShape& shape) {
  tokens_ = Aligned(limits_.kv_pages);
  positions_ = tokens_ + Aligned(shape.rows);
  row_pages_ = positions_ + Aligned(shape.rows);
  logit_rows_ = row_pages_ + Aligned(shape.rows);
  decode_rows_ = logit_rows_ + Aligned(shape.logit_rows);
  tiles_ = decode_rows_ + Aligned(int64_t{shape.decode_rows} * kDecodeWords);
  words_ = tiles_ + Aligned(int64_t{shape.tiles} * kTileWords);
}

void StepInputs::Write(const StepBatch& batch, const StepShape& shape) {
  LayOut(shape);
  int32_t* const row_pages = host_ + row_pages_;
  std::copy(batch.tokens.begin(), batch.tokens.end(), host_ + tokens_);
  std::copy(batch.positions.begin(), batch.positions.end(), host_ + positions_);
  std::copy(batch.logit_rows.begin(), batch.logit_rows.end(), host_ + logit_rows_);
  for (int row = batch.rows(); row < shape.rows; ++row) {
    host_[tokens_ + row] = 0;
    host_[positions_ + row] = -1;
    row_pages[row] = 0;
  }
  for (int row = batch.logit_rows.size(); row < shape.logit_rows; ++row) {
    host_[logit_rows_ + row] = -1;
  }

  auto* decode = reinterpret_cast<cuda::DecodeRow*>(host_ + decode_rows_);
  auto* const decode_end = decode + shape.decode_rows;
  auto* tile = reinterpret_cast<cuda::PrefillTile*>(host_ + tiles_);
  int32_t next_page = 0;
  for (const StepBatch::Sequence& sequence : batch.sequences) {
    // Only the pages that its rows see.
    const int last = sequence.first_position + sequence.rows - 1;
    const int pages = last / cuda::kPageTokens + 1;
    std::copy_n(sequence.pages.begin(), pages, host_ + next_page);
    std::fill_n(row_pages + sequence.first_row, sequence.rows, next_page);
    if (sequence.rows == 1) {
      *decode++ = {sequence.first_row, sequence.first_position, next_page};
    } else {
      for (int first = 0; first < sequence.rows; first += cuda::kPrefillTileRows) {
        *tile++ = {sequence.first_row + first,
                   std::min(cuda::kPrefillTileRows, sequence.rows - first),
                   sequence.first_position + first, next_page};
      }
    }
    next_page += pages;
  }
  for (; decode < decode_end; ++decode) {
    *decode = {static_cast<int32_t>(shape.rows - (decode_end - decode)), -1, 0};
  }
}

void StepInputs::Copy(cudaStream_t stream) const {
  cuda::CopyFromHost(reinterpret_cast<const uint32_t*>(mapped_),
                     reinterpret_cast<uint32_t*>(device_), words_, stream);
}

}  // namespace gguf_offload
