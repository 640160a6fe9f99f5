// What happens in a ModelStore, for those who count it.
#ifndef WEIGHTD_STORE_STORE_EVENTS_H_
#define WEIGHTD_STORE_STORE_EVENTS_H_

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace gguf_offload::store {

// Called from any thread, some of them with a lock held: implementations are quick and do not call
// the store.
class StoreEvents {
 public:
  virtual ~StoreEvents() = default;
  // A load has ended, well or not. `took`: opening, mapping and parsing, not reading the pages.
  virtual void OnLoad(const absl::Status& status, absl::Duration took) {}
  // A generation was found damaged; once for each.
  virtual void OnQuarantine() {}
  // A tensor was hashed and its bytes are not what they were before.
  virtual void OnTensorChanged() {}
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_STORE_EVENTS_H_
