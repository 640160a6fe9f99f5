#include "computed/prefetch/testing/reader_contract.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/synchronization/blocking_counter.h"

namespace gguf_offload {
namespace {

void ExpectFilled(HostReader& reader, GuardedMemory& memory,
                  std::vector<HostReader::Range> ranges) {
  const absl::Status status = ReadAll(reader, std::move(ranges));
  EXPECT_TRUE(status.ok()) << status;
  memory.ExpectFilled();
  memory.ExpectGuardsIntact();
}

void ExpectOddRanges(HostReader& reader, const PlainFileSource& source) {
  for (const auto& [offset, bytes] : std::vector<std::pair<uint64_t, uint64_t>>{{0, 1},
                                                                                {0, 4096},
                                                                                {1, 4095},
                                                                                {4095, 2},
                                                                                {4096, 4097},
                                                                                {777, 1 << 20},
                                                                                {(1 << 20) - 1, 2},
                                                                                {12345, 3 << 20}}) {
    GuardedMemory memory(source);
    ExpectFilled(reader, memory, {memory.Range(0, offset, bytes)});
  }
}

// Whatever the file's size modulo the block's.
void ExpectFileEnds(HostReader& reader, const PlainFileSource& source) {
  for (uint32_t shard = 0; shard < ContractShards().size(); ++shard) {
    const uint64_t size = source.contents(shard).size();
    GuardedMemory memory(source);
    ExpectFilled(reader, memory,
                 {memory.Range(shard, 0, size), memory.Range(shard, size - 1, 1),
                  memory.Range(shard, size, 0), memory.Range(shard, size / 2, size - size / 2)});
  }
}

void ExpectManyAtOnce(HostReader& reader, const PlainFileSource& source) {
  constexpr int kReads = 50;
  std::mt19937 random(17);
  GuardedMemory memory(source);
  absl::BlockingCounter left(kReads);
  for (int i = 0; i < kReads; ++i) {
    std::vector<HostReader::Range> ranges;
    for (int j = 0; j < 6; ++j) {
      const uint32_t shard = random() % ContractShards().size();
      const uint64_t size = source.contents(shard).size();
      const uint64_t offset = random() % size;
      ranges.push_back(
          memory.Range(shard, offset, std::min<uint64_t>(size - offset, random() % 600'000)));
    }
    reader.ReadAsync(std::move(ranges), absl::InfiniteFuture(), [&](absl::Status status) {
      EXPECT_TRUE(status.ok()) << status;
      left.DecrementCount();
    });
  }
  left.Wait();
  memory.ExpectFilled();
  memory.ExpectGuardsIntact();
}

void ExpectRefusals(HostReader& reader, const PlainFileSource& source) {
  const uint64_t size = source.contents(0).size();
  GuardedMemory memory(source);
  const HostReader::Range good = memory.Range(0, 100, 5000);
  for (const HostReader::Range& bad : std::vector<HostReader::Range>{
           {0, size, 1, good.destination},
           {0, UINT64_MAX, 2, good.destination},
           {0, 2, UINT64_MAX - 1, good.destination},
           {static_cast<uint32_t>(ContractShards().size()), 0, 1, good.destination}}) {
    EXPECT_TRUE(absl::IsOutOfRange(ReadAll(reader, {good, bad}))) << bad.offset;
  }
  HostReader::Range shifted = good;
  ++shifted.destination;
  EXPECT_TRUE(absl::IsInvalidArgument(ReadAll(reader, {shifted})));
  EXPECT_TRUE(ReadAll(reader, {}).ok());
  memory.ExpectGuardsIntact();
}

}  // namespace

std::vector<size_t> ContractShards() { return {4'194'304 + 4095, 1'000'001, 8192, 1}; }

void ExpectReaderContract(HostReader& reader, const PlainFileSource& source) {
  EXPECT_FALSE(reader.name().empty());
  ExpectOddRanges(reader, source);
  ExpectFileEnds(reader, source);
  ExpectManyAtOnce(reader, source);
  ExpectRefusals(reader, source);
}

}  // namespace gguf_offload
