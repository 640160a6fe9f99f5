// How GGUF writes a metadata value: strings with a 64-bit length, arrays with the number of their
// elements' type and a 64-bit count, numbers as they are in memory (little-endian).
// Format: github.com/ggml-org/ggml, docs/gguf.md, gguf_metadata_value_type.
#ifndef TESTS_MODELGEN_GGUF_VALUE_H_
#define TESTS_MODELGEN_GGUF_VALUE_H_

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace gguf_offload {

static_assert(std::endian::native == std::endian::little, "GGUF is written as memory has it");

template <typename T>
struct GgufIsVector : std::false_type {};
template <typename T>
struct GgufIsVector<std::vector<T>> : std::true_type {};

// The format's number of the C++ type `T`.
template <typename T>
constexpr uint32_t GgufTypeNumber() {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return 0;
  } else if constexpr (std::is_same_v<T, int8_t>) {
    return 1;
  } else if constexpr (std::is_same_v<T, uint16_t>) {
    return 2;
  } else if constexpr (std::is_same_v<T, int16_t>) {
    return 3;
  } else if constexpr (std::is_same_v<T, uint32_t>) {
    return 4;
  } else if constexpr (std::is_same_v<T, int32_t>) {
    return 5;
  } else if constexpr (std::is_same_v<T, float>) {
    return 6;
  } else if constexpr (std::is_same_v<T, bool>) {
    return 7;
  } else if constexpr (std::is_same_v<T, uint64_t>) {
    return 10;
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return 11;
  } else if constexpr (std::is_same_v<T, double>) {
    return 12;
  } else if constexpr (GgufIsVector<T>::value) {
    return 9;
  } else {
    static_assert(std::is_convertible_v<T, std::string_view>, "GGUF has no such type");
    return 8;
  }
}

template <typename T>
void AppendGgufScalar(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}

inline void AppendGgufString(std::string_view text, std::string* out) {
  AppendGgufScalar<uint64_t>(text.size(), out);
  out->append(text);
}

// The value without the number of its own type.
template <typename T>
void AppendGgufValue(const T& value, std::string* out) {
  if constexpr (GgufIsVector<T>::value) {
    using Element = typename T::value_type;
    AppendGgufScalar<uint32_t>(GgufTypeNumber<Element>(), out);
    AppendGgufScalar<uint64_t>(value.size(), out);
    for (const auto& element : value) AppendGgufValue<Element>(element, out);
  } else if constexpr (std::is_convertible_v<T, std::string_view>) {
    AppendGgufString(value, out);
  } else {
    AppendGgufScalar<T>(value, out);
  }
}

// The value after the number of its type, as metadata have it.
template <typename T>
void AppendGgufTyped(const T& value, std::string* out) {
  AppendGgufScalar<uint32_t>(GgufTypeNumber<std::decay_t<T>>(), out);
  AppendGgufValue<std::decay_t<T>>(value, out);
}

}  // namespace gguf_offload

#endif  // TESTS_MODELGEN_GGUF_VALUE_H_
