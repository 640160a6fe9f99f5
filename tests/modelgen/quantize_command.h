// modelgen quantize: its flags, and what it prints.
#ifndef TESTS_MODELGEN_QUANTIZE_COMMAND_H_
#define TESTS_MODELGEN_QUANTIZE_COMMAND_H_

#include <string>

namespace gguf_offload {

// Converts the file that the flag --in names to `out` with the types that --type and
// --embedding_type name, and says what it did. `threads`: 0 means one a core. The exit code.
int RunQuantize(const std::string& out, int threads);

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_QUANTIZE_COMMAND_H_
