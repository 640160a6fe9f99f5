// A worker for tests: attaches, says so, and holds its lease until it is killed.
//
//   hold_lease ADDRESS MODEL NAME
#include <unistd.h>

#include <cstdio>

#include "weightd/client/weight_source.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  auto source =
      gguf_offload::WeightSource::Attach({.address = argv[1], .model = argv[2], .worker = argv[3]});
  if (!source.ok()) {
    std::fprintf(stderr, "%s\n", source.status().ToString().c_str());
    return 1;
  }
  std::printf("attached\n");
  std::fflush(stdout);
  for (;;) pause();
}
