// For functions that are chains of fallible reads.
#ifndef COMPUTED_MODEL_READ_OR_RETURN_H_
#define COMPUTED_MODEL_READ_OR_RETURN_H_

#include <utility>

// target = expression, or returns the expression's error from the calling function.
#define READ_OR_RETURN(target, expression)                                \
  do {                                                                    \
    auto read_or_return_value = (expression);                             \
    if (!read_or_return_value.ok()) return read_or_return_value.status(); \
    target = *std::move(read_or_return_value);                            \
  } while (false)

#endif  // COMPUTED_MODEL_READ_OR_RETURN_H_
