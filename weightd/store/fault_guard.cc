#include "weightd/store/fault_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

namespace gguf_offload::store {

// One registered range. Read by the signal handler without locks: `sequence` is odd while the range
// is being changed and differs afterwards, so that the handler never believes half of a change.
struct MappingGuard::Slot {
  std::atomic<uint32_t> sequence{0};
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};  // begin == end: not in use
  std::atomic<bool> faulted{false};
  bool taken = false;  // guarded by registry_mutex

  void SetRange(uintptr_t new_begin, uintptr_t new_end) {
    sequence.fetch_add(1);
    begin.store(new_begin);
    end.store(new_end);
    sequence.fetch_add(1);
  }

  // Copies the range if it contains `address`. A range being changed cannot be the one that faults,
  // as its mapping is not in use yet or any more.
  bool Contains(uintptr_t address, uintptr_t* range_begin, uintptr_t* range_end) const {
    const uint32_t before = sequence.load();
    *range_begin = begin.load();
    *range_end = end.load();
    return before % 2 == 0 && sequence.load() == before && address >= *range_begin &&
           address < *range_end;
  }
};

namespace {

// Slots come in blocks that are chained and never freed, so the handler may walk them at any time.
struct SlotBlock {
  std::array<MappingGuard::Slot, 64> slots;
  std::atomic<SlotBlock*> next{nullptr};
};

SlotBlock first_block;
std::mutex registry_mutex;
struct sigaction previous_action;
uintptr_t page_size = 4096;

// mmap by number: it is async-signal-safe in fact though not in POSIX's list, and sanitizers'
// wrappers around the function are not.
bool ReplaceByZeros(uintptr_t begin, size_t bytes) {
  const long result = syscall(SYS_mmap, begin, bytes, PROT_READ,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return result == static_cast<long>(begin);
}

bool HandleInSlot(MappingGuard::Slot& slot, uintptr_t address) {
  uintptr_t begin, end;
  if (!slot.Contains(address, &begin, &end)) return false;
  slot.faulted.store(true);
  if (ReplaceByZeros(address & ~(page_size - 1), page_size)) return true;
  // Too many separate mappings (vm.max_map_count), or huge pages: give up all of this one.
  return ReplaceByZeros(begin, (end - begin + page_size - 1) & ~(page_size - 1));
}

void PassOn(int signal, siginfo_t* info, void* context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(signal);
  } else {
    // The instruction faults again on return, and then kills the process as it should.
    struct sigaction default_action = {};
    default_action.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &default_action, nullptr);
    if (info->si_code <= 0) raise(signal);  // sent by kill(): there is no instruction to repeat
  }
}

void OnBusError(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  bool handled = false;
  // Positive codes come from the kernel with the faulting address; misalignment is a bug of ours.
  if (info->si_code > 0 && info->si_code != BUS_ADRALN) {
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    for (SlotBlock* block = &first_block; block != nullptr && !handled;
         block = block->next.load()) {
      for (MappingGuard::Slot& slot : block->slots) {
        if (handled = HandleInSlot(slot, address); handled) break;
      }
    }
  }
  if (!handled) PassOn(signal, info, context);
  errno = saved_errno;
}

void InstallHandler() {
  page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &previous_action);
}

MappingGuard::Slot* TakeSlot() {
  static std::once_flag installed;
  std::call_once(installed, InstallHandler);
  std::lock_guard lock(registry_mutex);
  SlotBlock* last = &first_block;
  for (SlotBlock* block = &first_block; block != nullptr; block = block->next.load()) {
    last = block;
    for (MappingGuard::Slot& slot : block->slots) {
      if (!slot.taken) {
        slot.taken = true;
        return &slot;
      }
    }
  }
  SlotBlock* added = std::make_unique<SlotBlock>().release();
  added->slots[0].taken = true;
  last->next.store(added);
  return &added->slots[0];
}

}  // namespace

MappingGuard::MappingGuard(const void* begin, size_t bytes) {
  if (bytes == 0) return;
  slot_ = TakeSlot();
  slot_->faulted.store(false);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  slot_->SetRange(address, address + bytes);
}

MappingGuard::MappingGuard(MappingGuard&& other) noexcept
    : slot_(std::exchange(other.slot_, nullptr)) {}

MappingGuard& MappingGuard::operator=(MappingGuard&& other) noexcept {
  if (this != &other) {
    Unregister();
    slot_ = std::exchange(other.slot_, nullptr);
  }
  return *this;
}

MappingGuard::~MappingGuard() { Unregister(); }

bool MappingGuard::faulted() const { return slot_ != nullptr && slot_->faulted.load(); }

void MappingGuard::Unregister() {
  if (slot_ == nullptr) return;
  slot_->SetRange(0, 0);
  std::lock_guard lock(registry_mutex);
  slot_->taken = false;
  slot_ = nullptr;
}

}  // namespace gguf_offload::store
