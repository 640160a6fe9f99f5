// How a weight source fares with its daemon, counted for whoever wants to show it.
#ifndef WEIGHTD_CLIENT_SOURCE_COUNTERS_H_
#define WEIGHTD_CLIENT_SOURCE_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace gguf_offload {

// Written by the source, from the first attempt to attach on; read by anybody.
struct SourceCounters {
  std::atomic<uint64_t> attach_failures{0};    // attempts to get the lease that failed
  std::atomic<uint64_t> reconnects{0};         // leases got again after one was lost
  std::atomic<uint64_t> stream_failures{0};    // streams of weights that broke
  std::atomic<uint64_t> checksum_failures{0};  // chunks that arrived damaged
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_SOURCE_COUNTERS_H_
