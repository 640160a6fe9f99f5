#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "kernels/matmul/aligned_buffer.h"
#include "kernels/matmul/quantized_activations.h"
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

struct MatMul::Input {
  MatMulInput given;
  int64_t cols = 0;
  bool integers = false;   // whether the integer kernel reads it
  bool floats = false;     // whether the float kernel reads it
  size_t first_panel = 0;  // of those of all inputs
  QuantizedActivations activations;
  AlignedBuffer<float> padded_x;   // (n, cols rounded up to 16): x, if its columns are no multiple
  const float* float_x = nullptr;  // what the float kernel reads: x or padded_x
  int64_t float_x_stride = 0;      // of float_x
};

struct MatMul::Job {
  const Input* input;
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

void MatMul::PrepareInputs(std::span<const MatMulInput> inputs) {
  input_count_ = 0;
  int largest_n = 0;
  for (const MatMulInput& given : inputs) {
    if (given.n == 0 || given.outputs.empty()) continue;
    if (input_count_ == inputs_.size()) inputs_.push_back(std::make_unique<Input>());
    Input& input = *inputs_[input_count_++];
    input.given = given;
    input.cols = given.outputs[0].weight.cols;
    input.integers = input.floats = false;
    input.activations.Reset(given.n, input.cols);
    largest_n = std::max(largest_n, given.n);
  }
  for (ThreadMemory& memory : memory_) {
    memory.sums.Reserve(RoundUp(largest_n, kPanelTokens) * kTileRows);
    memory.lane_sums.Reserve(static_cast<size_t>(largest_n) * kFloatRows * 16);
  }
}

void MatMul::PlanJobs(ActivationType activations) {
  jobs_.clear();
  size_t all_bytes = 0;
  for (size_t i = 0; i < input_count_; ++i) {
    Input& input = *inputs_[i];
    for (const MatMulOutput& output : input.given.outputs) {
      const WeightMatrix& weight = output.weight;
      Job job = {};
      job.input = &input;
      job.output = &output;
      if (activations == ActivationType::kInt8 && weight.cols % 32 == 0) {
        job.unpacker = quant::FindUnpacker(weight.type);
      }
      (job.unpacker != nullptr ? input.integers : input.floats) = true;
      if (job.unpacker != nullptr) {
        job.correction =
            input.activations.AddCorrection(job.unpacker->bias, job.unpacker->group_elements);
      }
      job.row_bytes = quant::RowBytes(quant::FormatOf(weight.type), weight.cols);
      job.tiles = (weight.rows + kTileRows - 1) / kTileRows;
      all_bytes += job.row_bytes * weight.rows;
      jobs_.push_back(job);
    }
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

void MatMul::PadRows(Input& input) {
  const MatMulInput& given = input.given;
  input.float_x_stride = static_cast<int64_t>(RoundUp(input.cols, kFloatAlign));
  input.padded_x.Reserve(static_cast<size_t>(given.n) * input.float_x_stride);
  for (int token = 0; token < given.n; ++token) {
    float* row = input.padded_x.data() + token * input.float_x_stride;
    memcpy(row, given.x + token * given.x_stride, input.cols * sizeof(float));
    std::fill(row + input.cols, row + input.float_x_stride, 0.0f);
  }
  input.float_x = input.padded_x.data();
}

void MatMul::PrepareActivations() {
  size_t panels = 0;
  for (size_t i = 0; i < input_count_; ++i) {
    Input& input = *inputs_[i];
    input.first_panel = panels;
    if (input.integers) panels += input.activations.panels();
    input.float_x = input.given.x;
    input.float_x_stride = input.given.x_stride;
    if (input.floats && input.cols % kFloatAlign != 0) PadRows(input);
  }
  pool_.ParallelFor(panels, [&](size_t panel, int) {
    size_t i = input_count_ - 1;
    while (inputs_[i]->first_panel > panel || !inputs_[i]->integers) --i;
    Input& input = *inputs_[i];
    input.activations.QuantizePanel(static_cast<int>(panel - input.first_panel), input.given.x,
                                    input.given.x_stride);
  });
}

void MatMul::Run(ActivationType activations, const float* x, int64_t x_stride, int n,
                 std::span<const MatMulOutput> outputs) {
  const MatMulInput input = {x, x_stride, n, outputs};
  Run(activations, {&input, 1});
}

void MatMul::Run(ActivationType activations, std::span<const MatMulInput> inputs) {
  PrepareInputs(inputs);
  PlanJobs(activations);
  PrepareActivations();
  pool_.ParallelFor(task_count_, [&](size_t task, int thread) {
    const auto after =
        std::upper_bound(jobs_.begin(), jobs_.end(), task,
                         [](size_t value, const Job& job) { return value < job.first_task; });
    const Job& job = *(after - 1);
    RunTask(job, task - job.first_task, memory_[thread]);
  });
}

void MatMul::RunTask(const Job& job, size_t task, ThreadMemory& memory) {
  const TileKernels& kernels = FindTileKernels();
  const MatMulOutput& output = *job.output;
  const Input& input = *job.input;
  const int n = input.given.n;
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
      kernels.integer_tile(tile, *job.unpacker, input.activations.Panels(job.correction),
                           input.activations.panels(), *memory.scratch, sums);
    } else {
      kernels.float_tile(tile, input.float_x, input.float_x_stride, n, *memory.scratch,
                         memory.lane_sums.data(), sums);
    }
    const float scale = output.scale == nullptr ? 1.0f : *output.scale;
    const float* bias = output.bias == nullptr ? nullptr : output.bias + row;
    for (int token = 0; token < n; ++token) {
      float* y = output.y + token * output.y_stride + row;
      for (int r = 0; r < rows; ++r) {
        y[r] = sums[token * kTileRows + r] * scale + (bias == nullptr ? 0.0f : bias[r]);
      }
    }
  }
}

}  // namespace gguf_offload
