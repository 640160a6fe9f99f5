#include "tests/cuda_emulator/device.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

namespace cuda_emulator {
namespace {

constexpr size_t kStackBytes = 64 << 10;

// Saves what a function must preserve on the stack, leaves the stack pointer in *from and goes on
// with `to` (System V ABI, x86-64).
extern "C" void CudaEmulatorSwitch(void** from, void* to);
asm(R"(
.text
.globl CudaEmulatorSwitch
.type CudaEmulatorSwitch, @function
CudaEmulatorSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size CudaEmulatorSwitch, .-CudaEmulatorSwitch
)");

struct PendingCopy {
  uint32_t to;
  const void* from;
  int bytes;
  int total;
  int batch;
};

struct Fiber : ThreadState {
  void* stack_pointer = nullptr;
  uint8_t* stack = nullptr;
  bool runnable = true;
  bool done = false;
  bool at_barrier = false;
  unsigned exchange_mask = 0;  // not 0: waits for the warp
  std::vector<PendingCopy> copies;
  int batch = 0;
};

struct Warp {
  WarpValues values{};
  WarpValues snapshot{};
};

// A block in execution. One per thread of the host.
struct Block {
  std::vector<Fiber> fibers;  // grown, never shrunk: stacks are kept
  std::vector<Warp> warps;
  size_t threads = 0;
  std::vector<uint8_t> dynamic_shared;
  void* scheduler = nullptr;
  const std::function<void()>* body = nullptr;
  std::minstd_rand random;
  bool seeded = false;

  Fiber& self() { return *static_cast<Fiber*>(current); }
  void Yield() { CudaEmulatorSwitch(&self().stack_pointer, scheduler); }
};
thread_local Block block_in_execution;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s\n", what);
  std::abort();
}

void FiberMain() {
  Block& block = block_in_execution;
  (*block.body)();
  block.self().done = true;
  block.self().runnable = false;
  block.Yield();
  Die("a finished thread was resumed");
}

void Prepare(Fiber& fiber) {
  if (fiber.stack == nullptr) {
    void* memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) Die("no memory for stacks");
    fiber.stack = static_cast<uint8_t*>(memory);
  }
  // As if FiberMain had been called: the return address, then six registers.
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes - 16);
  *--top = nullptr;  // FiberMain's own return address; keeps the stack aligned
  *--top = reinterpret_cast<void*>(&FiberMain);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.runnable = true;
  fiber.done = false;
  fiber.at_barrier = false;
  fiber.exchange_mask = 0;
  fiber.copies.clear();
  fiber.batch = 0;
}

void ReleaseBarrier(Block& block) {
  size_t waiting = 0, live = 0;
  for (size_t i = 0; i < block.threads; ++i) {
    live += !block.fibers[i].done;
    waiting += block.fibers[i].at_barrier;
  }
  if (waiting == 0 || waiting != live) return;
  for (size_t i = 0; i < block.threads; ++i) {
    Fiber& fiber = block.fibers[i];
    if (!fiber.at_barrier) continue;
    fiber.at_barrier = false;
    fiber.runnable = true;
  }
}

void ReleaseWarp(Block& block, size_t warp, unsigned mask) {
  const size_t first = warp * 32;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0 || first + lane >= block.threads) continue;
    const Fiber& fiber = block.fibers[first + lane];
    if (!fiber.done && fiber.exchange_mask != mask) return;
  }
  block.warps[warp].snapshot = block.warps[warp].values;
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0 || first + lane >= block.threads) continue;
    Fiber& fiber = block.fibers[first + lane];
    if (fiber.done) continue;
    fiber.exchange_mask = 0;
    fiber.runnable = true;
  }
}

void RunBlock(Block& block) {
  std::vector<int> order(block.threads);
  for (size_t i = 0; i < block.threads; ++i) order[i] = static_cast<int>(i);
  std::shuffle(order.begin(), order.end(), block.random);
  while (true) {
    bool ran = false, all_done = true;
    for (int i : order) {
      Fiber& fiber = block.fibers[i];
      if (fiber.runnable) {
        current = &fiber;
        CudaEmulatorSwitch(&block.scheduler, fiber.stack_pointer);
        ran = true;
        if (fiber.done) {
          // Others may have been waiting for this thread to leave.
          const size_t warp = i / 32;
          for (size_t other = warp * 32; other < std::min(block.threads, warp * 32 + 32); ++other) {
            const unsigned mask = block.fibers[other].exchange_mask;
            if (mask != 0) ReleaseWarp(block, warp, mask);
          }
          ReleaseBarrier(block);
        }
      }
      all_done &= fiber.done;
    }
    if (all_done) return;
    if (!ran) Die("threads wait for others that never come (a divergent barrier or shuffle)");
  }
}

}  // namespace

thread_local ThreadState* current = nullptr;

void RunGrid(dim3 grid, dim3 block_dim, size_t shared_bytes, const std::function<void()>& thread) {
  Block& block = block_in_execution;
  if (!block.seeded) {
    const char* seed = std::getenv("CUDA_EMULATOR_SEED");
    block.random.seed(seed != nullptr ? std::atoi(seed) : std::random_device()());
    block.seeded = true;
  }
  block.threads = size_t{block_dim.x} * block_dim.y * block_dim.z;
  if (block.threads == 0 || block.threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.y > 65535 || grid.z > 65535) {
    Die("a launch with impossible dimensions");
  }
  if (block.fibers.size() < block.threads) block.fibers.resize(block.threads);
  block.warps.resize((block.threads + 31) / 32);
  block.body = &thread;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        // NaN in most types: shared memory is not cleared.
        block.dynamic_shared.assign(shared_bytes + 256, 0xff);
        for (size_t i = 0; i < block.threads; ++i) {
          Fiber& fiber = block.fibers[i];
          Prepare(fiber);
          fiber.thread = {static_cast<unsigned>(i % block_dim.x),
                          static_cast<unsigned>(i / block_dim.x % block_dim.y),
                          static_cast<unsigned>(i / block_dim.x / block_dim.y)};
          fiber.block = {x, y, z};
          fiber.block_dim = block_dim;
          fiber.grid_dim = grid;
          fiber.lane = static_cast<int>(i % 32);
        }
        RunBlock(block);
      }
    }
  }
}

void* DynamicShared() {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(block_in_execution.dynamic_shared.data());
  return reinterpret_cast<void*>((begin + 127) / 128 * 128);
}

void SyncBlock() {
  Block& block = block_in_execution;
  Fiber& self = block.self();
  self.at_barrier = true;
  self.runnable = false;
  ReleaseBarrier(block);
  if (!self.runnable) block.Yield();
}

const WarpValues& Exchange(unsigned mask, uint64_t value) {
  Block& block = block_in_execution;
  Fiber& self = block.self();
  const size_t warp = (&self - block.fibers.data()) / 32;
  if ((mask >> self.lane & 1) == 0) Die("a lane is not in the mask of its own shuffle");
  block.warps[warp].values[self.lane] = value;
  self.exchange_mask = mask;
  self.runnable = false;
  ReleaseWarp(block, warp, mask);
  if (!self.runnable) block.Yield();
  return block.warps[warp].snapshot;
}

namespace {
// 32-bit addresses count from here; the thread's own data and the heap may be further away, so they
// are kept in a table of segments of 1 MiB.
thread_local std::vector<uintptr_t> segments;
}  // namespace

uint32_t SharedAddress(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  const uintptr_t segment = address >> 20;
  for (size_t i = 0; i < segments.size(); ++i) {
    // Objects may cross into the next segment, which then directly follows.
    if (segment == segments[i] || segment == segments[i] + 1) {
      return static_cast<uint32_t>((i + 1) << 22 | (address - (segments[i] << 20)));
    }
  }
  segments.push_back(segment);
  return SharedAddress(pointer);
}

uint8_t* SharedPointer(uint32_t address) {
  const size_t index = (address >> 22) - 1;
  if (index >= segments.size()) Die("an address that is not in shared memory");
  return reinterpret_cast<uint8_t*>((segments[index] << 20) + (address & ((1 << 22) - 1)));
}

void AsyncCopy(uint32_t to, const void* from, int bytes, int total) {
  Fiber& self = block_in_execution.self();
  if (reinterpret_cast<uintptr_t>(SharedPointer(to)) % 16 != 0 ||
      (bytes > 0 && reinterpret_cast<uintptr_t>(from) % 16 != 0)) {
    Die("an asynchronous copy that is not aligned to 16 bytes");
  }
  self.copies.push_back({to, from, bytes, total, self.batch});
}

void AsyncCommit() { ++block_in_execution.self().batch; }

void AsyncWait(int pending_batches) {
  Fiber& self = block_in_execution.self();
  std::erase_if(self.copies, [&](const PendingCopy& copy) {
    if (copy.batch >= self.batch - pending_batches) return false;
    uint8_t* const to = SharedPointer(copy.to);
    if (copy.bytes > 0) std::memcpy(to, copy.from, copy.bytes);
    std::memset(to + copy.bytes, 0, copy.total - copy.bytes);
    return true;
  });
}

namespace ptx {

// PTX ISA, "ldmatrix": lane 8 * m + r brings the address of row r of matrix m; lane 4 * g + t gets
// elements 2 * t and 2 * t + 1 of row g of each (of column g, if transposed).
void LoadMatrices(uint32_t (&words)[4], uint32_t row, bool transposed) {
  const WarpValues rows = Exchange(0xffffffffu, row);
  const int g = current->lane / 4, t = current->lane % 4;
  for (int m = 0; m < 4; ++m) {
    const auto element = [&](int r, int c) {
      const uint8_t* p = SharedPointer(static_cast<uint32_t>(rows[8 * m + r]));
      if (reinterpret_cast<uintptr_t>(p) % 16 != 0) Die("a matrix row that is not aligned");
      uint16_t value;
      std::memcpy(&value, p + 2 * c, 2);
      return uint32_t{value};
    };
    words[m] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16
                          : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
  }
  // Nobody overwrites the matrices before all have read them.
  Exchange(0xffffffffu, 0);
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16": c += a * b.
void mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32(float& c0, float& c1, float& c2, float& c3,
                                                       uint32_t a0, uint32_t a1, uint32_t a2,
                                                       uint32_t a3, uint32_t b0, uint32_t b1) {
  const WarpValues a01 = Exchange(0xffffffffu, uint64_t{a1} << 32 | a0);
  const WarpValues a23 = Exchange(0xffffffffu, uint64_t{a3} << 32 | a2);
  const WarpValues b = Exchange(0xffffffffu, uint64_t{b1} << 32 | b0);
  const auto half_at = [](uint64_t words, int index) {  // of four
    return __half2float(__ushort_as_half(static_cast<uint16_t>(words >> (16 * index))));
  };
  const int g = current->lane / 4, t = current->lane % 4;
  float* const c[2][2] = {{&c0, &c1}, {&c2, &c3}};
  for (int upper = 0; upper < 2; ++upper) {
    for (int j = 0; j < 2; ++j) {
      float sum = *c[upper][j];
      for (int k = 0; k < 16; ++k) {
        // a0: (g, 2t..), a1: (g + 8, 2t..), a2: (g, 2t + 8..), a3: (g + 8, 2t + 8..)
        const int lane = 4 * g + (k % 8) / 2;
        const WarpValues& words = k < 8 ? a01 : a23;
        const float left = half_at(words[lane], 2 * upper + k % 2);
        // b0: (2t.., g), b1: (2t + 8.., g); the column is 2 * t + j.
        const int other = 4 * (2 * t + j) + (k % 8) / 2;
        const float right = half_at(b[other], 2 * (k / 8) + k % 2);
        sum += left * right;
      }
      *c[upper][j] = sum;
    }
  }
}

}  // namespace ptx
}  // namespace cuda_emulator
