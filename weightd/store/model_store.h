// The models that the daemon serves: loads, finds, leases, verifies and quarantines them.
//
// A name has at most one newest generation. Loading the name again reads the files anew; if they
// have changed, the newest generation is another one from then on, and the old one stays findable
// by its number for as long as it is leased. A load that fails leaves what was served before.
//
//   ModelStore store({.allowed_roots = {"/models"}});
//   store.LoadDirectory("/models");
//   auto model = store.Find("llama");
//   auto lease = store.AcquireLease(*model, [](const ModelEvent& event) {...});
#ifndef WEIGHTD_STORE_MODEL_STORE_H_
#define WEIGHTD_STORE_MODEL_STORE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weightd/store/model.h"
#include "weightd/store/store_events.h"

namespace gguf_offload::store {

// What is done to bring a model's pages into memory.
enum class Residency {
  kLazy,  // pages come in when they are first used
  kWarm,  // all pages are populated in the background
  kLock,  // and locked; if that fails, as kWarm, and ModelStatus.residency_note says why
};

enum class ModelState { kLoading, kReady, kFailed, kQuarantined };

// A model as the store lists it.
struct ModelStatus {
  std::string name;
  ModelState state = ModelState::kLoading;
  std::string error;        // why the last load failed or why it is quarantined
  std::string path;         // of the first file
  uint64_t generation = 0;  // the newest; 0 if none could be loaded
  std::string architecture;
  uint64_t tensor_count = 0;
  uint64_t bytes = 0;  // size of all files
  uint32_t shard_count = 0;
  Residency residency = Residency::kLazy;  // what is in force
  std::string residency_note;              // why it is not what was asked for; empty if it is
  bool modified_in_place = false;          // the files have been written to since they were opened
  uint64_t populated_bytes = 0;
  uint32_t leases = 0;                    // on any generation
  std::vector<uint64_t> old_generations;  // that are still leased
};

// What the holder of a lease is told.
struct ModelEvent {
  enum class Kind {
    kNewGeneration,  // another generation is served under this name; `generation` says which
    kUnloaded,       // the model was unloaded
    kQuarantined,    // the leased generation's files were found damaged; `message` says how
  };
  Kind kind;
  uint64_t generation = 0;
  std::string message;
};

class ModelStore;
struct LeaseState;

// Keeps a generation findable and its memory mapped. Movable, not copyable. Must not outlive the
// store. Destroying it waits for a callback in progress and none comes after; so a callback must
// not destroy its own lease.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease();

  // nullptr if this holds nothing.
  const std::shared_ptr<const Model>& model() const;

 private:
  friend class ModelStore;
  explicit Lease(std::shared_ptr<LeaseState> state);
  void Release();

  std::shared_ptr<LeaseState> state_;
};

// Owns the table of models and the threads that populate pages. Thread safe. Callbacks are called
// without locks of the store held, from whichever thread caused the event.
class ModelStore {
 public:
  struct Options {
    // If not empty, only files below these folders are served, links resolved.
    std::vector<std::string> allowed_roots;
    Residency default_residency = Residency::kLazy;
    // Threads that populate pages; shared by all models.
    int populate_threads = 4;
    // Receives one line for each event worth a log line, from any thread. May be null.
    std::function<void(std::string_view)> log;
    // Told what happens. Not owned, must outlive the store; may be null.
    StoreEvents* events = nullptr;
    // mlock(2), or what a test puts in its place.
    std::function<int(const void*, size_t)> lock_pages;
  };

  explicit ModelStore(Options options);
  ~ModelStore();
  ModelStore(const ModelStore&) = delete;
  ModelStore& operator=(const ModelStore&) = delete;

  // Loads or reloads a model and makes it the one served under `name` (1 to 255 bytes of UTF-8
  // without control characters). An empty path means the one from before. Errors: those of
  // Model::Open, INVALID_ARGUMENT (bad name, no path); they are also kept for List.
  absl::StatusOr<std::shared_ptr<const Model>> Load(
      std::string_view name, std::string_view path,
      std::optional<Residency> residency = std::nullopt);

  // Loads every *.gguf file (or *.GGUF) of a folder (of split models the first shard) under its
  // name without
  // ".gguf" and "-00001-of-0000N". Files that fail are listed as failed. Returns how many were
  // loaded; an error only if the folder itself cannot be read.
  absl::StatusOr<size_t> LoadDirectory(std::string_view folder);
  // The paths that LoadDirectory considers, of any kind: what is not a readable file fails when it
  // is loaded. NOT_FOUND if the folder cannot be read.
  static absl::StatusOr<std::set<std::string>> GgufFilesIn(std::string_view folder);

  // Stops serving a model; returns the number of leases that still hold it. NOT_FOUND.
  absl::StatusOr<uint32_t> Unload(std::string_view name);

  // The newest generation (generation 0) or a certain one. Errors: NOT_FOUND (no such model),
  // UNAVAILABLE (being loaded), FAILED_PRECONDITION (could not be loaded, or that generation is not
  // served), DATA_LOSS (quarantined).
  absl::StatusOr<std::shared_ptr<const Model>> Find(std::string_view name,
                                                    uint64_t generation = 0) const;

  // All models by name, and one. NOT_FOUND.
  std::vector<ModelStatus> List() const;
  // The newest generations of all models that have one, quarantined ones too.
  std::vector<std::shared_ptr<const Model>> Models() const;
  absl::StatusOr<ModelStatus> Status(std::string_view name) const;

  // A lease on a model that Find returned. `on_event` may be null. Errors: FAILED_PRECONDITION (not
  // served any more), DATA_LOSS (quarantined).
  absl::StatusOr<Lease> AcquireLease(std::shared_ptr<const Model> model,
                                     std::function<void(const ModelEvent&)> on_event = nullptr);

  // Stops serving a generation whose files are damaged and tells its leases. Idempotent.
  void Quarantine(const Model& model, absl::Status why);
  // Model::CheckIntact; quarantines the model if it fails.
  absl::Status CheckIntact(const Model& model);

  struct TensorHash {
    uint64_t xxh64 = 0;    // of the tensor's bytes, seed 0
    bool changed = false;  // differs from the hash computed first for this generation
  };
  // Hashes tensors()[index]. The first hash of each tensor of a generation is kept in memory as the
  // baseline that later ones are compared with, also across Unload and Load of the same files; a
  // file that was overwritten in place without being loaded again is found so. Errors:
  // OUT_OF_RANGE, DATA_LOSS (quarantines the model).
  absl::StatusOr<TensorHash> HashTensor(const Model& model, size_t index);

  // Asks the kernel to read a range ahead; does not wait. Ranges outside the file are ignored.
  void Prefetch(const Model& model, uint32_t shard, uint64_t offset, uint64_t bytes) const;

  // Waits until nothing is being populated or locked any more.
  void WaitForResidency();

 private:
  friend class Lease;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_MODEL_STORE_H_
