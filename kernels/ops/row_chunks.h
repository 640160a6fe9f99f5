// Splits the rows of an operation over the threads of a pool.
#ifndef KERNELS_OPS_ROW_CHUNKS_H_
#define KERNELS_OPS_ROW_CHUNKS_H_

#include <algorithm>
#include <cstddef>

#include "kernels/threading/thread_pool.h"

namespace gguf_offload {

// Calls body(begin, end) for ranges that cover [0, rows) once, `row_elements` elements of work a
// row. Small work stays on the calling thread. The ranges must not influence the results.
template <typename Body>
void ForEachRowChunk(size_t rows, size_t row_elements, ThreadPool& pool, const Body& body) {
  constexpr size_t kElementsPerTask =
      16384;  // a few microseconds: what handing out a task is worth
  const size_t rows_per_task =
      std::max<size_t>(1, kElementsPerTask / std::max<size_t>(1, row_elements));
  const size_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  pool.ParallelFor(tasks, [&](size_t task, int) {
    const size_t begin = task * rows_per_task;
    body(begin, std::min(rows, begin + rows_per_task));
  });
}

}  // namespace gguf_offload

#endif  // KERNELS_OPS_ROW_CHUNKS_H_
