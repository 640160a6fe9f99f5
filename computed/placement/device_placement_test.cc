#include "computed/placement/device_placement.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace gguf_offload {
namespace {

// A model whose tensors lie in one file as GGUF writers put them, in Q8_0.
ModelTensors Model(int layers, int64_t columns, int64_t vocabulary, bool tied) {
  ModelTensors tensors;
  tensors.tied_head = tied;
  uint64_t next = 1056;
  const auto add = [&](std::vector<ModelTensor>& group, TensorId id, quant::TensorType type,
                       int64_t columns, int64_t rows) {
    const uint64_t bytes =
        rows * quant::RowBytes(quant::FormatOf(type), static_cast<uint64_t>(columns));
    group.push_back({.id = id,
                     .name = std::to_string(next),
                     .type = type,
                     .columns = columns,
                     .rows = rows,
                     .offset = next,
                     .bytes = bytes});
    next = (next + bytes + 31) / 32 * 32;
  };
  const auto q8 = quant::TensorType::kQ8_0;
  tensors.groups.resize(layers + 2);
  add(tensors.groups[0], kTokenEmbedding, q8, columns, vocabulary);
  for (int layer = 0; layer < layers; ++layer) {
    auto& group = tensors.groups[layer + 1];
    add(group, kAttentionNorm, quant::TensorType::kF32, columns, 1);
    add(group, kAttentionQ, q8, columns, columns);
    add(group, kAttentionK, q8, columns, columns / 4);
    add(group, kFfnUp, q8, columns, columns * 4);
    add(group, kFfnDown, q8, columns * 4, columns);
  }
  add(tensors.groups.back(), kOutputNorm, quant::TensorType::kF32, columns, 1);
  if (!tied) add(tensors.groups.back(), kOutput, q8, columns, vocabulary);
  return tensors;
}

// The same with experts in all layers but the first.
ModelTensors ModelWithExperts(int layers, int experts) {
  ModelTensors tensors = Model(layers, 256, 1000, false);
  uint64_t next = tensors.groups.back().back().offset + tensors.groups.back().back().bytes;
  for (int layer = 1; layer < layers; ++layer) {
    auto& group = tensors.groups[layer + 1];
    for (const TensorId id : {kExpertGate, kExpertUp, kExpertDown}) {
      ModelTensor tensor = group[1];
      tensor.id = id;
      // Layers differ in their types, and so in the size of an expert.
      if (layer % 2 == 0) tensor.type = quant::TensorType::kQ4_K;
      tensor.matrices = experts;
      tensor.bytes =
          experts * tensor.rows * quant::RowBytes(quant::FormatOf(tensor.type), tensor.columns);
      tensor.offset = next;
      next += tensor.bytes;
      group.push_back(tensor);
    }
  }
  return tensors;
}

// Every matrix row but the embedding's is moved to exactly one place, within the memory.
void CheckCoverage(const ModelTensors& tensors, const DevicePlacement& plan) {
  std::map<const ModelTensor*, int64_t> rows;
  const auto check = [&](const Transfer& transfer) {
    uint64_t bytes = 0;
    for (const FileRun& run : transfer.runs) {
      EXPECT_LE(run.destination + run.bytes, transfer.memory_bytes);
      EXPECT_EQ(run.destination % 256, run.offset % 256);
      bytes += run.bytes;
    }
    EXPECT_EQ(bytes, transfer.bytes);
    for (const PlacedTensor& placed : transfer.tensors) {
      rows[placed.tensor] += placed.rows;
      const uint64_t row_bytes = placed.tensor->bytes / placed.tensor->rows;
      const uint64_t offset = placed.tensor->offset + placed.first_row * row_bytes;
      bool found = false;
      for (const FileRun& run : transfer.runs) {
        if (offset < run.offset || offset - run.offset >= run.bytes) continue;
        found = true;
        EXPECT_EQ(placed.destination - run.destination, offset - run.offset);
        EXPECT_LE(offset - run.offset + placed.rows * row_bytes, run.bytes);
      }
      EXPECT_TRUE(found);
    }
  };
  for (const DevicePart& part : plan.parts) {
    check(part.resident);
    check(part.streamed);
    EXPECT_EQ(part.slot >= 0, !part.streamed.empty());
    if (part.slot >= 0) {
      EXPECT_LE(part.streamed.memory_bytes, plan.summary.slot_bytes);
    }
  }
  for (const auto& group : tensors.groups) {
    for (const ModelTensor& tensor : group) {
      const bool looked_up = tensor.id == kTokenEmbedding && !tensors.tied_head;
      EXPECT_EQ(rows[&tensor], tensor.is_vector() || looked_up ? 0 : tensor.rows) << tensor.name;
    }
  }
}

// What weights take where there is no limit.
uint64_t MemoryForAll(const ModelTensors& tensors) {
  const auto plan = PlanDevicePlacement(tensors, {.weight_memory = uint64_t{1} << 40});
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? plan->resident_memory : 0;
}

TEST(DevicePlacementTest, EverythingStaysWhereItFits) {
  const ModelTensors tensors = Model(6, 256, 1000, false);
  const auto plan = PlanDevicePlacement(tensors, {.weight_memory = MemoryForAll(tensors)});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->summary.streamed_bytes, 0u);
  EXPECT_EQ(plan->ring_memory, 0u);
  EXPECT_LE(plan->resident_memory, MemoryForAll(tensors));
  CheckCoverage(tensors, *plan);
}

TEST(DevicePlacementTest, NeverExceedsTheMemoryAndUsesMoreOfIt) {
  for (bool tied : {false, true}) {
    const ModelTensors tensors = Model(9, 256, 5000, tied);
    const uint64_t least = LeastWeightMemory(tensors), full = MemoryForAll(tensors);
    ASSERT_LT(least, full);
    uint64_t streamed_before = UINT64_MAX;
    for (uint64_t memory = least; memory <= full; memory += (full - least) / 40) {
      SCOPED_TRACE(memory);
      const auto plan = PlanDevicePlacement(tensors, {.weight_memory = memory});
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_LE(plan->resident_memory + plan->ring_memory, memory);
      EXPECT_LE(plan->summary.streamed_bytes, streamed_before);
      streamed_before = plan->summary.streamed_bytes;
      CheckCoverage(tensors, *plan);
    }
    const auto refused = PlanDevicePlacement(tensors, {.weight_memory = least - 1});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(DevicePlacementTest, ALimitOfNothingStreamsEverythingInAnEvenRing) {
  const ModelTensors tensors = Model(8, 256, 50000, true);
  const auto plan =
      PlanDevicePlacement(tensors, {.weight_memory = uint64_t{1} << 40, .max_resident = 0});
  ASSERT_TRUE(plan.ok()) << plan.status();
  CheckCoverage(tensors, *plan);
  int streamed = 0;
  for (const DevicePart& part : plan->parts) {
    EXPECT_TRUE(part.resident.empty());
    if (part.slot < 0) continue;
    EXPECT_EQ(part.slot, streamed++ % plan->summary.ring_slots);
  }
  EXPECT_EQ(streamed % plan->summary.ring_slots, 0);
  EXPECT_GT(static_cast<int>(plan->parts.size()), 10);  // the head is many layers large
  // What lies side by side is moved in one copy.
  EXPECT_EQ(plan->parts[1].streamed.runs.size(), 1u);
}

TEST(DevicePlacementTest, TheHeadStaysFirst) {
  const ModelTensors tensors = Model(8, 256, 5000, false);
  const uint64_t head = tensors.groups.back().back().bytes;
  const auto plan = PlanDevicePlacement(
      tensors, {.weight_memory = uint64_t{1} << 40, .max_resident = head + 1024});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->summary.places.back().back(), v1::PLACE_RESIDENT);
  for (int layer = 0; layer < 8; ++layer) {
    EXPECT_EQ(plan->summary.places[layer + 1][1], v1::PLACE_STREAMED);
  }
}

DevicePlacementOptions Caching(uint64_t memory) {
  return {.weight_memory = memory, .expert_cache = {.possible = true, .experts = 16, .used = 3}};
}

TEST(DevicePlacementTest, ExpertsAreCachedInWhatAllElseLeaves) {
  constexpr int kLayers = 20;
  const ModelTensors tensors = ModelWithExperts(kLayers, 16);
  const uint64_t full = MemoryForAll(tensors);
  const auto all = PlanDevicePlacement(tensors, Caching(full));
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_TRUE(all->expert_cache.empty());
  EXPECT_FALSE(all->expert_cache.TakesStepOf(1));

  int cached = 0, shared = 0, slots_before = 0;
  const uint64_t least = LeastWeightMemory(tensors);
  for (uint64_t memory = least; memory < full; memory += (full - least) / 200) {
    SCOPED_TRACE(memory);
    const auto plan = PlanDevicePlacement(tensors, Caching(memory));
    ASSERT_TRUE(plan.ok()) << plan.status();
    const ExpertCachePlan& cache = plan->expert_cache;
    EXPECT_LE(plan->resident_memory + plan->ring_memory + cache.slot_memory, memory);
    CheckCoverage(tensors, *plan);
    if (cache.empty()) {
      EXPECT_EQ(cached, 0);
      continue;
    }
    ++cached;
    EXPECT_EQ(plan->summary.streamed_bytes, 0u);
    ASSERT_EQ(cache.layers.size(), kLayers - 1u);
    uint64_t slot_memory = 0, experts = 0;
    for (int layer = 1; layer < kLayers; ++layer) {
      const ExpertCachePlan::Layer& plan_of_layer = cache.layers[layer - 1];
      EXPECT_EQ(plan_of_layer.layer, layer);
      EXPECT_EQ(plan_of_layer.slots, cache.layers[0].slots);
      EXPECT_EQ(plan_of_layer.slot_bytes % 16, 0u);
      for (int i = 0; i < 3; ++i) {
        const ModelTensor& tensor = tensors.groups[layer + 1][5 + i];
        EXPECT_EQ(plan_of_layer.matrix_bytes[i], tensor.bytes / 16);
        const uint64_t end = i < 2 ? plan_of_layer.offsets[i + 1] : plan_of_layer.slot_bytes;
        EXPECT_GE(end, plan_of_layer.offsets[i] + plan_of_layer.matrix_bytes[i] + 31);
        EXPECT_EQ(plan_of_layer.offsets[i] % 16, 0u);
        EXPECT_EQ(plan->summary.places[layer + 1][5 + i], v1::PLACE_CACHED);
        experts += tensor.bytes;
      }
      EXPECT_EQ(plan->summary.places[layer + 1][1], v1::PLACE_RESIDENT);
      EXPECT_TRUE(plan->parts[layer + 1].cached);
      slot_memory += plan_of_layer.slots * plan_of_layer.slot_bytes;
    }
    EXPECT_FALSE(plan->parts[1].cached);
    EXPECT_EQ(plan->summary.cached_bytes, experts);
    EXPECT_TRUE(cache.TakesStepOf(1));
    EXPECT_FALSE(cache.TakesStepOf(100));
    const int slots = cache.layers[0].slots;
    EXPECT_GE(slots, 3);
    if (cache.shared) {
      ++shared;
      EXPECT_EQ(cache.slot_memory, slot_memory / (kLayers - 1));
      continue;
    }
    EXPECT_EQ(cache.slot_memory, slot_memory);
    EXPECT_LE(slots, 16);
    EXPECT_GE(slots, slots_before);
    slots_before = slots;
    // Sixteen experts, three a token: five tokens want fifteen of them at most.
    EXPECT_TRUE(cache.TakesStepOf(5));
    EXPECT_EQ(cache.TakesStepOf(6), slots == 16);
  }
  EXPECT_GT(cached, 20);
  EXPECT_GT(shared, 0);
  EXPECT_GT(slots_before, 10);
}

TEST(DevicePlacementTest, ALimitOnTheCacheHolds) {
  const ModelTensors tensors = ModelWithExperts(6, 16);
  DevicePlacementOptions options = Caching(2 * MemoryForAll(tensors));
  options.expert_cache.max_bytes = 0;
  const auto least = PlanDevicePlacement(tensors, options);
  ASSERT_TRUE(least.ok()) << least.status();
  EXPECT_TRUE(least->expert_cache.shared);
  EXPECT_EQ(least->expert_cache.layers[0].slots, 3);
  const uint64_t slot = least->expert_cache.slot_memory / 3;
  options.expert_cache.max_bytes = 5 * 7 * slot;
  const auto more = PlanDevicePlacement(tensors, options);
  ASSERT_TRUE(more.ok()) << more.status();
  EXPECT_LE(more->expert_cache.slot_memory, options.expert_cache.max_bytes);
  EXPECT_GE(more->expert_cache.layers[0].slots, 7);
  EXPECT_FALSE(more->expert_cache.shared);
}

TEST(PlanTransferTest, KeepsTensorsOfSeveralShardsApart) {
  ModelTensor a{.type = quant::TensorType::kF32,
                .columns = 8,
                .rows = 4,
                .shard = 0,
                .offset = 4096,
                .bytes = 128};
  ModelTensor b = a, c = a;
  b.shard = 1;
  c.offset = 4096 + 128;
  const Transfer transfer = PlanTransfer({{&b}, {&c}, {&a}});
  ASSERT_EQ(transfer.runs.size(), 2u);
  EXPECT_EQ(transfer.runs[0].bytes, 256u);
  EXPECT_EQ(transfer.runs[1].shard, 1u);
  EXPECT_EQ(transfer.bytes, 384u);
}

}  // namespace
}  // namespace gguf_offload
