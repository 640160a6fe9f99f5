// Loads models anew: all of them when told to, and those whose files have changed, found by looking
// from time to time. Looking works on every file system, which change notifications do not.
#ifndef WEIGHTD_SERVICE_MODEL_RESCAN_H_
#define WEIGHTD_SERVICE_MODEL_RESCAN_H_

#include <map>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "weightd/store/model_store.h"

namespace gguf_offload {

// Thread safe. One thread of its own if there is an interval.
class ModelRescan {
 public:
  // `store` must outlive this. `model_dir` is the folder all of whose models are served; "" for
  // none. With `interval` 0 nothing is looked for.
  ModelRescan(store::ModelStore* store, std::string model_dir, absl::Duration interval);
  ~ModelRescan();

  // Loads every model again, and the folder's new ones; stops serving the folder's models whose
  // files are gone. A model that cannot be loaded any more is served as it was.
  void ReloadAll();

  // Loads what has changed since the last look but one, and has been left alone since the last: a
  // file may take a while to be written. The thread calls it once an interval.
  void LookForChanges();

 private:
  // What tells a file's states apart, of all files of a model or a folder; "" if there is none.
  using Fingerprint = std::string;
  struct Watched {
    Fingerprint loaded, last_seen;
  };

  void Loop();
  // Whether what is watched under `key` has changed and come to rest.
  bool Settled(const std::string& key, Fingerprint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReloadFolder();
  bool IsInFolder(const std::string& path) const;

  store::ModelStore* const store_;
  const std::string model_dir_;
  const absl::Duration interval_;
  // One look or reload at a time.
  absl::Mutex mutex_;
  std::map<std::string, Watched> watched_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex stop_mutex_;
  bool stopping_ ABSL_GUARDED_BY(stop_mutex_) = false;
  std::thread thread_;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_MODEL_RESCAN_H_
