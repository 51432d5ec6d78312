#include "weights/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "support/error.h"
#include "support/file.h"
#include "tensor/format.h"

namespace flux {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own reader
constexpr uint64_t kMaxElements = uint64_t{1} << 48;

std::optional<DType> parse_dtype(std::string_view name) {
  static constexpr std::pair<std::string_view, DType> kNames[] = {
      {"F32", DType::kF32}, {"BF16", DType::kBF16}, {"F16", DType::kF16}, {"F64", DType::kF64},
      {"I64", DType::kI64}, {"I32", DType::kI32},   {"I16", DType::kI16}, {"I8", DType::kI8},
      {"U8", DType::kU8},   {"BOOL", DType::kBool}};
  for (const auto& [text, dtype] : kNames) {
    if (name == text) return dtype;
  }
  return std::nullopt;
}

std::string_view safetensors_name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kF64:
      return "F64";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  return "";
}

/// A tensor's place in the data section.
struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string name;
};

/// Turns a checked header into tensors.
class HeaderReader {
 public:
  HeaderReader(const std::string& file, const std::byte* data, uint64_t data_size)
      : file_(file), data_(data), data_size_(data_size) {}

  std::map<std::string, ConstTensor, std::less<>> read(const char* text, uint64_t length,
                                                       const std::shared_ptr<const void>& owner) {
    const Json header = parse(text, length);
    if (!header.is_object()) refuse("the header is not a JSON object");
    std::map<std::string, ConstTensor, std::less<>> tensors;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") continue;
      tensors.emplace(name, read_tensor(name, entry, owner));
    }
    check_extents();
    return tensors;
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}: not a usable safetensors file: {}; download it again",
         file_, fmt::format(format, std::forward<Args>(args)...));
  }

  /// Parses with a bound on depth and without duplicate names, which JSON libraries let pass.
  Json parse(const char* text, uint64_t length) const {
    std::set<std::string> names;
    const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
      if (depth > 4) refuse("the header nests deeper than 4 levels");
      if (event == Json::parse_event_t::key && depth == 1 &&
          !names.insert(value.get<std::string>()).second) {
        refuse("tensor '{}' is named twice", value.get<std::string>());
      }
      return true;
    };
    try {
      return Json::parse(text, text + length, watch);
    } catch (const Json::exception& e) {
      refuse("the header is not JSON ({})", e.what());
    }
  }

  uint64_t read_integer(const std::string& name, const Json& value, const char* what) const {
    if (!value.is_number_unsigned()) {
      refuse("tensor '{}': {} {} is not a non-negative integer", name, what, value.dump());
    }
    return value.get<uint64_t>();
  }

  ConstTensor read_tensor(const std::string& name, const Json& entry,
                          const std::shared_ptr<const void>& owner) {
    if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets")) {
      refuse("tensor '{}' lacks dtype, shape or data_offsets", name);
    }
    const Json& type = entry["dtype"];
    const auto dtype = type.is_string() ? parse_dtype(type.get<std::string>()) : std::nullopt;
    if (!dtype) {
      refuse("tensor '{}': dtype {} is not one of F32, BF16, F16, F64, I64, I32, I16, I8, U8, BOOL",
             name, type.dump());
    }
    const Shape shape = read_shape(name, entry["shape"]);
    const Json& offsets = entry["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2) {
      refuse("tensor '{}': data_offsets {} is not a pair", name, offsets.dump());
    }
    const uint64_t begin = read_integer(name, offsets[0], "data offset");
    const uint64_t end = read_integer(name, offsets[1], "data offset");
    if (begin > end || end > data_size_) {
      refuse("tensor '{}': data offsets [{}, {}] do not fit into {} bytes of data", name, begin,
             end, data_size_);
    }
    const uint64_t wanted = static_cast<uint64_t>(shape.numel()) * size_of(*dtype);
    if (end - begin != wanted) {
      refuse("tensor '{}': shape {} of {} takes {} bytes, its data offsets hold {}", name, shape,
             *dtype, wanted, end - begin);
    }
    extents_.push_back(Extent{begin, end, name});
    return view(begin, *dtype, shape, owner);
  }

  Shape read_shape(const std::string& name, const Json& value) const {
    if (!value.is_array() || value.size() > Shape::kMaxRank) {
      refuse("tensor '{}': shape {} is not a list of at most {} sizes", name, value.dump(),
             Shape::kMaxRank);
    }
    std::array<int64_t, Shape::kMaxRank> sizes{};
    uint64_t count = 1;
    for (size_t i = 0; i < value.size(); ++i) {
      const uint64_t size = read_integer(name, value[i], "size");
      if (size > kMaxElements || __builtin_mul_overflow(count, size, &count) ||
          count > kMaxElements) {
        refuse("tensor '{}': shape {} is too large", name, value.dump());
      }
      sizes[i] = static_cast<int64_t>(size);
    }
    return Shape(sizes.data(), static_cast<int>(value.size()));
  }

  /// The tensor in the file; a copy of it where a careless writer left it unaligned.
  ConstTensor view(uint64_t begin, DType dtype, const Shape& shape,
                   const std::shared_ptr<const void>& owner) const {
    const std::byte* address = data_ + begin;
    if (reinterpret_cast<uintptr_t>(address) % size_of(dtype) == 0) {
      return ConstTensor(address, dtype, shape, Device{}, owner);
    }
    const Tensor copy = Tensor::allocate(shape, dtype);
    std::memcpy(copy.raw(), address, static_cast<size_t>(copy.bytes()));
    return copy;
  }

  /// The format wants the data section covered whole, without overlaps or gaps.
  void check_extents() {
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) {
      return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
    });
    uint64_t position = 0;
    for (const Extent& extent : extents_) {
      if (extent.begin != position) {
        refuse("tensor '{}' begins at byte {} of the data, the one before ends at {}", extent.name,
               extent.begin, position);
      }
      position = extent.end;
    }
    if (position != data_size_) {
      refuse("its tensors end at byte {} of {} bytes of data", position, data_size_);
    }
  }

  const std::string& file_;
  const std::byte* data_;
  uint64_t data_size_;
  std::vector<Extent> extents_;
};

std::map<std::string, ConstTensor, std::less<>> read_tensors(
    const std::string& file, const void* bytes, uint64_t size,
    const std::shared_ptr<const void>& owner) {
  const auto* data = static_cast<const std::byte*>(bytes);
  check(size >= kLengthBytes, ErrorCode::kInvalidArgument,
        "{}: not a usable safetensors file: {} bytes, shorter than its length field; download it "
        "again",
        file, size);
  uint64_t header = 0;  // little-endian, as every machine this runs on
  std::memcpy(&header, data, sizeof(header));
  check(header <= kMaxHeaderBytes && header <= size - kLengthBytes, ErrorCode::kInvalidArgument,
        "{}: not a usable safetensors file: a header of {} bytes does not fit into {} bytes (at "
        "most {} are allowed); the file is truncated or of another format, download it again",
        file, header, size, kMaxHeaderBytes);
  const uint64_t data_begin = kLengthBytes + header;
  return HeaderReader(file, data + data_begin, size - data_begin)
      .read(reinterpret_cast<const char*>(data) + kLengthBytes, header, owner);
}

}  // namespace

std::unique_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& file) {
  const MappedFile mapped = map_file(file);
  auto result = std::make_unique<SafetensorsFile>();
  result->path_ = file;
  result->tensors_ = read_tensors(file.string(), mapped.data.get(), mapped.size, mapped.data);
  result->mapping_ = mapped.data;
  result->mapped_size_ = mapped.size;
  return result;
}

std::unique_ptr<const SafetensorsFile> SafetensorsFile::parse(const void* data, size_t size,
                                                              const std::string& name) {
  auto result = std::make_unique<SafetensorsFile>();
  result->path_ = name;
  result->tensors_ = read_tensors(name, data, size, nullptr);
  return result;
}

bool SafetensorsFile::maps(const ConstTensor& tensor) const {
  const auto* begin = static_cast<const char*>(mapping_.get());
  const auto* data = static_cast<const char*>(tensor.raw());
  return begin != nullptr && data >= begin && data < begin + mapped_size_;
}

void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, ConstTensor>>& tensors) {
  Json header = Json::object();
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    check(tensor.is_contiguous(), ErrorCode::kInternal, "writing '{}': not contiguous", name);
    Json shape = Json::array();
    for (int i = 0; i < tensor.rank(); ++i) shape.push_back(tensor.size(i));
    const auto bytes = static_cast<uint64_t>(tensor.bytes());
    header[name] = {{"dtype", safetensors_name(tensor.dtype())},
                    {"shape", shape},
                    {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the data aligned
  AtomicFile out(file);
  const uint64_t length = text.size();
  out.write(&length, sizeof(length));
  out.write(text.data(), text.size());
  for (const auto& [name, tensor] : tensors) {
    out.write(tensor.raw(), static_cast<size_t>(tensor.bytes()));
  }
  out.commit();
}

}  // namespace flux
