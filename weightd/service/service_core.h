// What all methods of the weight daemon's services share.
#ifndef WEIGHTD_SERVICE_SERVICE_CORE_H_
#define WEIGHTD_SERVICE_SERVICE_CORE_H_

#include <algorithm>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "common/daemon/call_gate.h"
#include "weightd/service/session_book.h"
#include "weightd/service/transfer_events.h"
#include "weightd/service/work_queue.h"
#include "weightd/shm/ticket_book.h"
#include "weightd/store/model_store.h"

namespace gguf_offload {

// Lives longer than the server. Thread safe.
struct ServiceCore {
  struct Options {
    // Path of the Unix socket that hands out descriptors; empty if there is none.
    std::string socket_path;
    // Whether LoadModel may load paths (the store's allowed folders say which).
    bool loading_allowed = false;
    // A stream that owes data or waits for its peer and has not moved for so long is ended.
    absl::Duration stream_timeout = absl::Seconds(60);
    // Told what the calls do. Not owned; may be null.
    TransferEvents* events = nullptr;
  };

  // Neither is owned.
  ServiceCore(store::ModelStore* store, CallGate* gate, Options options)
      : store(store),
        gate(gate),
        options(std::move(options)),
        sessions(
            std::clamp(this->options.stream_timeout / 4, absl::Milliseconds(10), absl::Seconds(1))),
        work(std::max(4, static_cast<int>(std::thread::hardware_concurrency()))),
        hashing(2) {}

  TransferEvents& events() const {
    static TransferEvents nobody;
    return options.events != nullptr ? *options.events : nobody;
  }

  store::ModelStore* const store;
  CallGate* const gate;
  const Options options;
  shm::TicketBook tickets;
  SessionBook sessions;
  // Reads of pages and of files.
  WorkQueue work;
  // VerifyModel, which may keep a thread busy for as long as a tensor is large.
  WorkQueue hashing;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_SERVICE_CORE_H_
