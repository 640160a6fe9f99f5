// The naming of split models: NAME-00001-of-0000N.gguf, as llama.cpp's gguf-split writes them.
#ifndef WEIGHTD_STORE_SHARD_NAMES_H_
#define WEIGHTD_STORE_SHARD_NAMES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace gguf_offload::store {

// A path that follows the pattern.
struct ShardName {
  std::string prefix;   // everything before "-00001-of-0000N.gguf", folders included
  uint32_t number = 0;  // 1 to count
  uint32_t count = 0;
  std::string extension = ".gguf";  // in the letters that the path has it in

  // The path of shard `number` (1 to count) of the same model, in the same folder.
  std::string Sibling(uint32_t number) const;
};

// Whether a path ends in ".gguf", in letters of any case.
bool HasGgufExtension(std::string_view path);

// Takes a path apart; nothing if its last component does not follow the pattern or its numbers make
// no sense (0, or number > count).
std::optional<ShardName> ParseShardName(std::string_view path);

// The name under which LoadDirectory serves a file: without folder, ".gguf" and shard numbers.
std::string ModelNameOf(std::string_view path);

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_SHARD_NAMES_H_
