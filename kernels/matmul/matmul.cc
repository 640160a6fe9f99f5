#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/matmul/tile_kernels.h"
#include "kernels/quant/unpack.h"

namespace gguf_offload {
namespace {

// Weights of a task: enough that taking one costs nothing and that the next tile, which the kernels
// prefetch, is mostly of the same task; little enough that all threads end at the same time.
constexpr size_t kTaskBytes = 512 << 10;
constexpr size_t kSmallTaskBytes = 16 << 10;
constexpr size_t kTasksAThread = 16;

constexpr int64_t kFloatAlign = 16;  // columns the float kernel takes at a time

size_t RoundUp(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

struct MatMul::Job {
  const MatMulOutput* output;
  const quant::Unpacker* unpacker;  // of the integer kernel, or null: the float kernel
  int correction;                   // of the activations; integer kernel only
  size_t row_bytes;
  size_t tiles;
  size_t tiles_per_task;
  size_t first_task;
};

struct MatMul::ThreadMemory {
  std::unique_ptr<TileScratch> scratch = std::make_unique<TileScratch>();
  AlignedBuffer<float> sums;       // (n rounded up to kPanelTokens, kTileRows)
  AlignedBuffer<float> lane_sums;  // (n, kFloatRows, 16)
};

MatMul::MatMul(ThreadPool& pool) : pool_(pool), memory_(pool.threads()) {}

MatMul::~MatMul() = default;

void MatMul::PlanJobs(ActivationType activations, std::span<const MatMulOutput> outputs) {
  jobs_.clear();
  size_t all_bytes = 0;
  for (const MatMulOutput& output : outputs) {
    const WeightMatrix& weight = output.weight;
    Job job = {};
    job.output = &output;
    if (activations == ActivationType::kInt8 && weight.cols % 32 == 0) {
      job.unpacker = quant::FindUnpacker(weight.type);
    }
    if (job.unpacker != nullptr) {
      job.correction = activations_.AddCorrection(job.unpacker->bias, job.unpacker->group_elements);
    }
    job.row_bytes = quant::RowBytes(quant::FormatOf(weight.type), weight.cols);
    job.tiles = (weight.rows + kTileRows - 1) / kTileRows;
    all_bytes += job.row_bytes * weight.rows;
    jobs_.push_back(job);
  }
  // Several tasks a thread, also of small matrices.
  const size_t task_bytes =
      std::clamp(all_bytes / (kTasksAThread * pool_.threads()), kSmallTaskBytes, kTaskBytes);
  size_t tasks = 0;
  for (Job& job : jobs_) {
    job.first_task = tasks;
    const size_t tile_bytes = std::max<size_t>(1, job.row_bytes * kTileRows);
    job.tiles_per_task = std::max<size_t>(1, task_bytes / tile_bytes);
    tasks += (job.tiles + job.tiles_per_task - 1) / job.tiles_per_task;
  }
  task_count_ = tasks;
}

void MatMul::PrepareActivations(const float* x, int64_t x_stride, int n, int64_t cols) {
  bool integers = false, floats = false;
  for (const Job& job : jobs_) (job.unpacker != nullptr ? integers : floats) = true;
  if (integers) {
    const auto quantize = [&](size_t panel, int) {
      activations_.QuantizePanel(static_cast<int>(panel), x, x_stride);
    };
    pool_.ParallelFor(activations_.panels(), quantize);
  }
  float_x_ = x;
  float_x_stride_ = x_stride;
  if (floats && cols % kFloatAlign != 0) {
    float_x_stride_ = static_cast<int64_t>(RoundUp(cols, kFloatAlign));
    padded_x_.Reserve(static_cast<size_t>(n) * float_x_stride_);
    for (int token = 0; token < n; ++token) {
      float* row = padded_x_.data() + token * float_x_stride_;
      memcpy(row, x + token * x_stride, cols * sizeof(float));
      std::fill(row + cols, row + float_x_stride_, 0.0f);
    }
    float_x_ = padded_x_.data();
  }
}

void MatMul::Run(ActivationType activations, const float* x, int64_t x_stride, int n,
                 std::span<const MatMulOutput> outputs) {
  if (n == 0 || outputs.empty()) return;
  const int64_t cols = outputs[0].weight.cols;
  activations_.Reset(n, cols);
  PlanJobs(activations, outputs);
  PrepareActivations(x, x_stride, n, cols);
  for (ThreadMemory& memory : memory_) {
    memory.sums.Reserve(RoundUp(n, kPanelTokens) * kTileRows);
    memory.lane_sums.Reserve(static_cast<size_t>(n) * kFloatRows * 16);
  }
  pool_.ParallelFor(task_count_, [&](size_t task, int thread) {
    size_t job = jobs_.size() - 1;
    while (jobs_[job].first_task > task) --job;
    RunTask(jobs_[job], task - jobs_[job].first_task, n, memory_[thread]);
  });
}

void MatMul::RunTask(const Job& job, size_t task, int n, ThreadMemory& memory) {
  const TileKernels& kernels = FindTileKernels();
  const MatMulOutput& output = *job.output;
  float* sums = memory.sums.data();
  const size_t begin = task * job.tiles_per_task;
  const size_t end = std::min(job.tiles, begin + job.tiles_per_task);
  for (size_t t = begin; t < end; ++t) {
    const int64_t row = static_cast<int64_t>(t) * kTileRows;
    const int64_t rows_left = output.weight.rows - row;
    const int rows = static_cast<int>(std::min<int64_t>(kTileRows, rows_left));
    const WeightTile tile = {output.weight.type,
                             output.weight.data + row * job.row_bytes,
                             job.row_bytes,
                             rows,
                             static_cast<size_t>(output.weight.cols),
                             (rows_left - rows) * job.row_bytes};
    if (job.unpacker != nullptr) {
      kernels.integer_tile(tile, *job.unpacker, activations_.Panels(job.correction),
                           activations_.panels(), *memory.scratch, sums);
    } else {
      kernels.float_tile(tile, float_x_, float_x_stride_, n, *memory.scratch,
                         memory.lane_sums.data(), sums);
    }
    const float* bias = output.bias == nullptr ? nullptr : output.bias + row;
    for (int token = 0; token < n; ++token) {
      float* y = output.y + token * output.y_stride + row;
      for (int r = 0; r < rows; ++r) {
        y[r] = sums[token * kTileRows + r] + (bias == nullptr ? 0.0f : bias[r]);
      }
    }
  }
}

}  // namespace gguf_offload
