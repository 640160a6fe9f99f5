// Reads through the weight source, which gets the bytes over the network.
#ifndef COMPUTED_PREFETCH_STREAM_READER_H_
#define COMPUTED_PREFETCH_STREAM_READER_H_

#include <memory>

#include "computed/prefetch/host_reader.h"
#include "weightd/client/weight_source.h"

namespace gguf_offload {

// `source` must outlive the reader. A source whose daemon is away holds reads until their deadline,
// and the reader's destructor with them.
std::unique_ptr<HostReader> NewStreamReader(WeightSource& source);

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_STREAM_READER_H_
