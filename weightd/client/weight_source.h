// Where a worker gets its weights from: the one interface over both transports, and the only part
// of weightd that a worker links.
//
//   auto source = WeightSource::Attach({.address = "unix:/run/weightd.sock", .model = "demo"});
//   (*source)->manifest()            // what there is
//   (*source)->MappedShard(0)        // shared memory: the file's pages, shared with the daemon
//   (*source)->Read(ranges)          // either transport: bytes copied to where they are wanted
//
// A source holds a lease (an open Attach stream). When the daemon goes away a source keeps its
// mappings, tries to attach again in the background (exponential backoff) to the same generation,
// and meanwhile answers what it can: a shared-memory source everything, a streaming source nothing,
// so that its reads wait for the daemon until their deadline.
//
// Thread safe.
#ifndef WEIGHTD_CLIENT_WEIGHT_SOURCE_H_
#define WEIGHTD_CLIENT_WEIGHT_SOURCE_H_

#include <grpcpp/security/credentials.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gguf_offload/v1/model.pb.h"
#include "weightd/client/source_counters.h"

namespace gguf_offload {

class WeightSource {
 public:
  struct Options {
    // "unix:PATH" shares pages; "HOST:PORT" streams.
    std::string address;
    // The model's name at the daemon.
    std::string model;
    // How the daemon's ListSessions names this worker.
    std::string worker;
    // TLS of HOST:PORT; null for none. `server_name`: what the daemon's certificate has to name, if
    // not the host.
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    std::string server_name;
    // How long to go on trying while the daemon cannot be reached, before Attach gives up.
    absl::Duration attach_timeout = absl::Seconds(60);
    // Streaming: bytes that may be on their way at once.
    uint64_t credit_bytes = 16 << 20;
    // Streaming: check each chunk's xxh64.
    bool checksums = true;
    // Receives one line for each event worth a log line (detached, attached again, ...). May be
    // null.
    std::function<void(std::string_view)> log;
    // Counts how it goes, from the first attempt on. Not owned, must outlive the source; may be
    // null.
    SourceCounters* counters = nullptr;
  };

  // Attaches to the model and fetches its manifest. Errors: NOT_FOUND (no such model),
  // DEADLINE_EXCEEDED (no daemon within attach_timeout), whatever the daemon says, and
  // FAILED_PRECONDITION for descriptors that do not fit the manifest.
  static absl::StatusOr<std::unique_ptr<WeightSource>> Attach(Options options);

  virtual ~WeightSource() = default;

  // The model's manifest, constant for the life of the source.
  virtual const v1::Manifest& manifest() const = 0;

  // The first byte of a shard's read-only mapping of ShardInfo.bytes bytes; nullptr if this source
  // streams. Valid for the life of the source. A page that has vanished (file truncated) reads as
  // zeros; CheckIntact tells.
  virtual const uint8_t* MappedShard(uint32_t shard) const = 0;

  // The descriptor behind a shard's mapping, open for reading only and valid for the life of the
  // source, which owns it; -1 if this source streams. Its position and status flags are shared with
  // the daemon: read with offsets, change nothing.
  virtual int ShardDescriptor(uint32_t shard) const = 0;

  // One piece of a file and where to put it.
  struct Range {
    uint32_t shard = 0;
    uint64_t offset = 0;  // bytes from the start of the file
    uint64_t bytes = 0;
    uint8_t* destination = nullptr;  // `bytes` bytes, untouched by others until the read is done
  };

  // Fills all ranges; `done` is called once, from any thread (maybe before ReadAsync returns).
  // Reads are served in the order of the calls. Errors: OUT_OF_RANGE, DATA_LOSS, DEADLINE_EXCEEDED
  // (the daemon could not be reached until `deadline`), CANCELLED (the source is being destroyed).
  virtual void ReadAsync(std::vector<Range> ranges, absl::Time deadline,
                         std::function<void(absl::Status)> done) = 0;

  // Same, waiting.
  absl::Status Read(std::vector<Range> ranges, absl::Time deadline);

  // Names the requests that reads from now on are for, in the daemon's log; a source over shared
  // memory, whose reads the daemon does not see, ignores them.
  virtual void SetRequestIds(std::vector<std::string> ids) {}

  // DATA_LOSS if the daemon reported or this process noticed that the files were damaged since.
  virtual absl::Status CheckIntact() const = 0;

  // Whether the lease is held right now (false while the daemon is away).
  virtual bool attached() const = 0;

  // Bytes received over the network so far; 0 for shared memory.
  virtual uint64_t bytes_received() const = 0;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_WEIGHT_SOURCE_H_
