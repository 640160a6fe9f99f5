// ModelStore::LoadDirectory.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "weightd/store/model_store.h"
#include "weightd/store/model_table.h"
#include "weightd/store/shard_names.h"

namespace gguf_offload::store {

absl::StatusOr<std::set<std::string>> ModelStore::GgufFilesIn(std::string_view folder) {
  std::set<std::string> paths;
  std::error_code error;
  for (std::filesystem::directory_iterator it(std::filesystem::path(folder), error), end;
       !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name[0] != '.' && HasGgufExtension(name)) paths.insert(it->path().string());
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat(std::string(folder), ": cannot be read as a folder: ", error.message()));
  }
  return paths;
}

absl::StatusOr<size_t> ModelStore::LoadDirectory(std::string_view folder) {
  const auto paths = GgufFilesIn(folder);
  if (!paths.ok()) return paths.status();
  size_t loaded = 0;
  std::set<std::string> names;
  for (const std::string& path : *paths) {
    const auto shard = ParseShardName(path);
    // The first shard brings the others. Without it, the first of those that are there is tried,
    // so that the model is listed as failed.
    if (shard.has_value() && shard->number != 1 && paths->contains(shard->Sibling(1))) continue;
    const std::string name = ModelNameOf(path);
    if (!names.insert(name).second) {
      impl_->Log(absl::StrCat(path, ": not loaded, as another file of this folder is named '", name,
                              "' already"));
      continue;
    }
    if (Load(name, path).ok()) ++loaded;
  }
  return loaded;
}

}  // namespace gguf_offload::store
