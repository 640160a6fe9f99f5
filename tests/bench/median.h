// How benchmarks sum up what they have measured several times.
#ifndef TESTS_BENCH_MEDIAN_H_
#define TESTS_BENCH_MEDIAN_H_

#include <algorithm>
#include <vector>

namespace gguf_offload {

// The upper one of the two in the middle; `values` must not be empty.
inline double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace gguf_offload

#endif  // TESTS_BENCH_MEDIAN_H_
