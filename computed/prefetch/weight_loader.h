// Makes the weights of one part of a step after the other readable, just in time.
//
// One thread begins steps, acquires and releases. A step acquires the parts in their order; it may
// be given up after any of them.
#ifndef COMPUTED_PREFETCH_WEIGHT_LOADER_H_
#define COMPUTED_PREFETCH_WEIGHT_LOADER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "computed/model/tensor_names.h"

namespace gguf_offload {

// The weights of a step come in parts: the input, each layer, and the head in one part or more.
struct WeightPart {
  int group = 0;            // index into ModelTensors.groups
  int64_t first_row = 0;    // of the head's matrix: the part has its rows from here on
  bool standalone = false;  // has to be computed by itself, so that its memory is free soon
  // The same in a large step (WeightLoader::IsLarge).
  bool standalone_if_large = false;
};

// What was fetched into the host's memory, and what waited for it, since the start.
struct FetchCounters {
  uint64_t bytes = 0;
  double busy_seconds = 0;  // while any fetch was under way
  uint64_t waits = 0;       // times that a step waited for a fetch
  double wait_seconds = 0;
};

class WeightLoader {
 public:
  virtual ~WeightLoader() = default;

  // Part 0 is the input, parts 1 to L are the layers, the others the head.
  virtual const std::vector<WeightPart>& parts() const = 0;

  // Whether the weights of a step of so many rows come another way than those of smaller ones.
  virtual bool IsLarge(int rows) const { return false; }
  // A step of `rows` rows begins, that takes the head's parts or leaves them out. Weights that only
  // its operations find out to need may be waited for until `deadline`.
  virtual void BeginStep(int rows, bool with_head, absl::Time deadline) = 0;
  // The weights of part `part`, readable by operations from now on, until Release; waits for them
  // until `deadline` if need be. The head's kOutput is there also if it is the embedding. Errors:
  // whatever the source says; the next step may go well again.
  virtual absl::StatusOr<const LayerWeights*> Acquire(int part, absl::Time deadline) = 0;
  // No operation called from now on in this step reads the part's weights.
  virtual void Release(int part) = 0;

  // The vectors of a group where the host can read them.
  virtual const LayerWeights& HostVectors(int group) const = 0;

  // Bytes a second at which weights come in that are not resident; 0 if not known.
  virtual double bytes_per_second() const = 0;
  // Zeros where nothing is fetched into the host's memory.
  virtual FetchCounters fetch_counters() const { return {}; }
  // Bytes of the host's memory held for weights.
  virtual uint64_t memory_bytes() const = 0;
};

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_WEIGHT_LOADER_H_
