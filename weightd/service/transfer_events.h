// What the weight daemon's calls do, for those who count it.
#ifndef WEIGHTD_SERVICE_TRANSFER_EVENTS_H_
#define WEIGHTD_SERVICE_TRANSFER_EVENTS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace gguf_offload {

// Called from any thread, some of them with a lock of the call held: implementations are quick and
// do not call back.
class TransferEvents {
 public:
  enum class Method { kStreamBlocks, kReadBlocks };
  enum class LeaseEnd {
    kDetached,  // by the worker, in order
    kBroken,    // the connection broke or the worker cancelled
    kTimedOut,  // the worker did not read
    kDrained,   // the daemon stops
    kFailed,    // for another reason
  };

  virtual ~TransferEvents() = default;
  // A block of a file was read to be sent. `took`: until its bytes were there and, in StreamBlocks,
  // hashed.
  virtual void OnBlockRead(Method method, uint64_t bytes, absl::Duration took) {}
  // A lease that had been granted has ended.
  virtual void OnLeaseEnd(LeaseEnd how) {}
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_TRANSFER_EVENTS_H_
