#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "adapters/adapter_file.h"
#include "support/error.h"
#include "tensor/tensor.h"
#include "weights/safetensors.h"

namespace flux::testing {

using Sizes = std::vector<int64_t>;

/// A safetensors file in memory, made tensor by tensor.
class MadeFile {
 public:
  /// Adds a float32 tensor: the values, or made ones.
  MadeFile& add(const std::string& name, const Sizes& shape, std::vector<float> values = {}) {
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    std::normal_distribution<float> normal(0.0f, 0.5f);
    while (values.size() < count) values.push_back(normal(random_));
    std::string bytes(count * sizeof(float), '\0');
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    values_[name] = values;
    return add_bytes(name, "F32", shape, bytes);
  }
  MadeFile& add_bytes(const std::string& name, const std::string& type, const Sizes& shape,
                      const std::string& bytes) {
    header_[name] = {{"dtype", type},
                     {"shape", shape},
                     {"data_offsets", {data_.size(), data_.size() + bytes.size()}}};
    data_ += bytes;
    return *this;
  }
  /// A low-rank pair, named as kohya ("lora_down", "lora_up") or peft ("lora_A", "lora_B") does.
  MadeFile& add_pair(const std::string& module, int64_t rows, int64_t columns, int64_t rank,
                     const std::string& down = "lora_down", const std::string& up = "lora_up") {
    add(module + "." + down + ".weight", {rank, columns});
    return add(module + "." + up + ".weight", {rows, rank});
  }
  MadeFile& note(const std::string& key, const std::string& value) {
    header_["__metadata__"][key] = value;
    return *this;
  }

  const std::vector<float>& values(const std::string& name) const { return values_.at(name); }
  std::string bytes() const {
    const std::string text = header_.dump();
    const uint64_t length = text.size();
    std::string bytes(sizeof(length), '\0');
    std::memcpy(bytes.data(), &length, sizeof(length));
    return bytes + text + data_;
  }

  /// The adapter in it, whose tensors stay valid while this object lives and is not changed.
  Adapter read() {
    bytes_ = bytes();
    return read_adapter(*SafetensorsFile::parse(bytes_.data(), bytes_.size(), "made"));
  }
  /// The error that reading it gives; "accepted" where there is none.
  std::string refusal() {
    try {
      read();
    } catch (const Error& error) {
      const bool expected = error.code() == ErrorCode::kInvalidArgument;
      return expected ? error.what() : "another code: " + std::string(error.what());
    }
    return "accepted";
  }

 private:
  nlohmann::json header_ = nlohmann::json::object();
  std::string data_;
  std::string bytes_;
  std::map<std::string, std::vector<float>> values_;
  std::mt19937 random_{7};
};

/// Whether a message says what is expected.
inline ::testing::AssertionResult says(const std::string& message, const std::string& part) {
  if (message.find(part) != message.npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << message << "\" does not say \"" << part << '"';
}

/// The change of rows of a module's weight that begin at `begin`, or null.
inline const Change* find_change(const Adapter& adapter, const std::string& module,
                                 int64_t begin = 0, Parameter parameter = Parameter::kWeight) {
  for (const Change& change : adapter.changes) {
    if (change.module == module && change.begin == begin && change.parameter == parameter) {
      return &change;
    }
  }
  return nullptr;
}

/// Rows of up times down, in double: for rows [first, first + rows) of `up`.
inline std::vector<double> product(const std::vector<float>& up, const std::vector<float>& down,
                                   int64_t first, int64_t rows, int64_t rank) {
  const auto columns = static_cast<int64_t>(down.size()) / rank;
  std::vector<double> out(static_cast<size_t>(rows * columns), 0.0);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double& sum = out[static_cast<size_t>(i * columns + j)];
      for (int64_t k = 0; k < rank; ++k) {
        sum += double{up[static_cast<size_t>((first + i) * rank + k)]} *
               down[static_cast<size_t>(k * columns + j)];
      }
    }
  }
  return out;
}

}  // namespace flux::testing
