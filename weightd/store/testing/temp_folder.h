// A folder of its own for one test, removed afterwards.
#ifndef WEIGHTD_STORE_TESTING_TEMP_FOLDER_H_
#define WEIGHTD_STORE_TESTING_TEMP_FOLDER_H_

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace gguf_offload::store {

class TempFolder {
 public:
  TempFolder() {
    const char* base = std::getenv("TEST_TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/folder.XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) std::abort();
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Writes a whole file and returns its path.
  std::string Write(std::string_view name, std::string_view bytes) const {
    std::ofstream out(Path(name), std::ios::binary | std::ios::trunc);
    out << bytes;
    out.close();
    if (!out) std::abort();
    return Path(name);
  }
  // Overwrites bytes in place; the size stays.
  void Overwrite(std::string_view name, off_t offset, std::string_view bytes) const {
    const int fd = open(Path(name).c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 ||
        pwrite(fd, bytes.data(), bytes.size(), offset) != static_cast<ssize_t>(bytes.size())) {
      std::abort();
    }
    close(fd);
  }
  void Truncate(std::string_view name, off_t size) const {
    if (truncate(Path(name).c_str(), size) != 0) std::abort();
  }

 private:
  std::string path_;
};

}  // namespace gguf_offload::store

#endif  // WEIGHTD_STORE_TESTING_TEMP_FOLDER_H_
