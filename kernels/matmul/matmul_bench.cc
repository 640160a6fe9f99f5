// Speed of matrix multiplication on this processor.
//
// For each format and shape: one token in GB/s of weights, and as a share of the bandwidth with
// which the same threads read the same memory and do nothing else, measured in the same run; then
// batches, in time relative to one token and in GMAC/s. The matrices of a format exceed every cache
// and lie, as mapped files do, in 4 KiB pages.
//
//   matmul_bench [threads [formats, such as Q8_0,Q4_K [rows cols [MiB of weights]]]]
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "kernels/quant/format.h"
#include "kernels/threading/thread_pool.h"

namespace gguf_offload {
namespace {

constexpr size_t kBytes = size_t{512} << 20;
constexpr size_t kSampleBytes = size_t{64} << 20;  // timed at once; more than any cache
constexpr double kSecondsEach = 1;
constexpr int kBatches[] = {4, 16, 128};

struct Shape {
  int64_t rows, cols;
};

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Memory of kBytes full of random bits, in pages of 4 KiB.
uint8_t* MapRandomBytes() {
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  madvise(memory, kBytes, MADV_NOHUGEPAGE);
  std::mt19937_64 random(1);
  uint8_t* bytes = static_cast<uint8_t*>(memory);
  for (size_t i = 0; i < kBytes; i += sizeof(uint64_t)) {
    const uint64_t word = random();
    memcpy(bytes + i, &word, sizeof(word));
  }
  return bytes;
}

// The best bandwidth of reading, in GB/s.
double ReadBandwidth(ThreadPool& pool, const uint8_t* bytes) {
  constexpr size_t kPiece = 1 << 20;
  std::vector<uint64_t> sums(kSampleBytes / kPiece);
  double best = 1e9;
  size_t at = 0;
  for (const double start = Seconds(); Seconds() - start < kSecondsEach;) {
    const double begin = Seconds();
    pool.ParallelFor(sums.size(), [&](size_t piece, int) {
      const uint64_t* words = reinterpret_cast<const uint64_t*>(bytes + at + piece * kPiece);
      uint64_t sum[16] = {};
      for (size_t i = 0; i < kPiece / 8; i += 16) {
        for (size_t j = 0; j < 16; ++j) sum[j] += words[i + j];
      }
      for (uint64_t s : sum) sums[piece] += s;
    });
    best = std::min(best, Seconds() - begin);
    at = (at + kSampleBytes) % kBytes;
  }
  return static_cast<double>(kSampleBytes) / best / 1e9;
}

// Seconds for `n` tokens through one matrix, the best of many samples. A sample goes through
// several of the `matrices` matrices, the next sample through others.
double TimeMatrix(MatMul& matmul, const WeightMatrix& first, size_t matrices, int n) {
  const std::vector<float> x(n * first.cols, 0.5f);
  std::vector<float> y(n * first.rows);
  const size_t bytes = quant::RowBytes(quant::FormatOf(first.type), first.cols) * first.rows;
  const size_t sample = std::clamp<size_t>(kSampleBytes / bytes / n, 1, matrices);
  double best = 1e9;
  size_t at = 0;
  for (const double start = Seconds(); Seconds() - start < kSecondsEach;) {
    const double begin = Seconds();
    for (size_t i = 0; i < sample; ++i) {
      WeightMatrix weight = first;
      weight.data += at * bytes;
      at = (at + 1) % matrices;
      const MatMulOutput output = {weight, nullptr, y.data(), weight.rows};
      matmul.Run(ActivationType::kInt8, x.data(), first.cols, n, {&output, 1});
    }
    best = std::min(best, Seconds() - begin);
  }
  return best / static_cast<double>(sample);
}

void Measure(MatMul& matmul, const quant::Format& format, Shape shape, const uint8_t* bytes,
             size_t size, double bandwidth) {
  const WeightMatrix weight = {format.type, bytes, shape.rows, shape.cols};
  const size_t weight_bytes = quant::RowBytes(format, shape.cols) * shape.rows;
  if (weight_bytes > size || shape.cols % format.block_elements != 0) return;
  const size_t matrices = size / weight_bytes;
  const double one = TimeMatrix(matmul, weight, matrices, 1);
  const double rate = static_cast<double>(weight_bytes) / one / 1e9;
  printf("%-8s %6ldx%-5ld n=1 %8.1f us %5.1f GB/s %3.0f %%", std::string(format.name).c_str(),
         shape.rows, shape.cols, one * 1e6, rate, 100 * rate / bandwidth);
  for (int n : kBatches) {
    const double batch = TimeMatrix(matmul, weight, matrices, n);
    const double macs = static_cast<double>(n) * static_cast<double>(shape.rows * shape.cols);
    printf(" | n=%d %5.2fx %4.0f GMAC/s", n, batch / one, macs / batch / 1e9);
  }
  printf("\n");
  fflush(stdout);
}

int Main(int argc, char** argv) {
  ThreadPool pool(argc > 1 ? atoi(argv[1]) : 2);
  const std::string formats =
      argc > 2 ? argv[2] : "Q8_0,Q4_0,Q4_K,Q5_K,Q6_K,Q2_K,Q3_K,IQ4_XS,MXFP4,IQ2_XXS,F16";
  // Layers of Qwen2.5-0.5B, its vocabulary, and a layer of an 8 B model.
  std::vector<Shape> shapes = {{4864, 896}, {896, 4864}, {151936, 896}, {12288, 4096}};
  if (argc > 4) shapes = {{atol(argv[3]), atol(argv[4])}};
  const size_t size =
      argc > 5 ? std::min(kBytes, static_cast<size_t>(atol(argv[5])) << 20) : kBytes;
  MatMul matmul(pool);
  const uint8_t* bytes = MapRandomBytes();
  const double bandwidth = ReadBandwidth(pool, bytes);
  printf("%d threads read %.1f GB/s\n", pool.threads(), bandwidth);
  for (size_t begin = 0; begin < formats.size();) {
    const size_t end = std::min(formats.find(',', begin), formats.size());
    const auto* format =
        quant::FindFormatByName(std::string_view(formats).substr(begin, end - begin));
    begin = end + 1;
    if (format == nullptr) {
      fprintf(stderr, "unknown format in %s\n", formats.c_str());
      return 1;
    }
    for (const Shape& shape : shapes) Measure(matmul, *format, shape, bytes, size, bandwidth);
  }
  return 0;
}

}  // namespace
}  // namespace gguf_offload

int main(int argc, char** argv) { return gguf_offload::Main(argc, argv); }
