// What every host reader has to do.
#ifndef COMPUTED_PREFETCH_TESTING_READER_CONTRACT_H_
#define COMPUTED_PREFETCH_TESTING_READER_CONTRACT_H_

#include <cstddef>
#include <vector>

#include "computed/prefetch/host_reader.h"
#include "computed/prefetch/testing/plain_file_source.h"

namespace gguf_offload {

// The sizes of the shards that ExpectReaderContract reads: around whole blocks and pieces.
std::vector<size_t> ContractShards();

// `reader` reads from `source`, whose shards are of those sizes.
void ExpectReaderContract(HostReader& reader, const PlainFileSource& source);

}  // namespace gguf_offload

#endif  // COMPUTED_PREFETCH_TESTING_READER_CONTRACT_H_
