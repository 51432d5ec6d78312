#include "weights/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "support/error.h"
#include "support/file.h"
#include "support/foreign_content.h"
#include "support/json_file.h"
#include "support/json_outline.h"
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

/// Bits of an element of the format's other dtypes. Nothing for a dtype that the format did not
/// have when this was written.
std::optional<uint64_t> bits_of_other(std::string_view name) {
  static constexpr std::pair<std::string_view, uint64_t> kBits[] = {
      {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"F8_E4M3", 8},
      {"F8_E5M2", 8},     {"F8_E8M0", 8},     {"U16", 16},    {"U32", 32},
      {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"U64", 64},    {"C64", 64}};
  for (const auto& [text, bits] : kBits) {
    if (name == text) return bits;
  }
  return std::nullopt;
}

/// What a header says of its tensors.
struct HeaderTensors {
  std::map<std::string, StoredTensor, std::less<>> readable;
  std::map<std::string, std::string, std::less<>> unreadable;  // with the reason
  std::map<std::string, std::string, std::less<>> metadata;
};

/// A tensor's place in the data section.
struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string name;
};

/// Turns a checked header into tensors.
class HeaderReader {
 public:
  HeaderReader(const std::shared_ptr<const FileBytes>& file, uint64_t data_begin)
      : file_(file), data_(file->begin() + data_begin), data_size_(file->size() - data_begin) {}

  HeaderTensors read(const char* text, uint64_t length) {
    const Json header = parse(text, length);
    if (!header.is_object()) refuse("the header is not a JSON object");
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        read_metadata(entry);
      } else {
        read_tensor(name, entry);
      }
    }
    check_extents();
    return std::move(tensors_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}: not a usable safetensors file: {}; download it again",
         file_->name(), fmt::format(format, std::forward<Args>(args)...));
  }

  /// Parses with a bound on depth and without duplicate names, which JSON libraries let pass.
  Json parse(const char* text, uint64_t length) const {
    constexpr int kMaxDepth = 4;
    const JsonOutline outline = outline_of({text, length}, kMaxDepth);
    if (outline.depth > kMaxDepth) refuse("the header nests deeper than {} levels", kMaxDepth);
    if (outline.duplicate) refuse("tensor '{}' is named twice", *outline.duplicate);
    try {
      return Json::parse(text, text + length);
    } catch (const Json::exception& e) {
      refuse("the header is not JSON: {}", json_problem({text, length}, e));
    }
  }

  void read_metadata(const Json& entry) {
    if (!entry.is_object()) return;
    for (const auto& [key, value] : entry.items()) {
      if (value.is_string()) tensors_.metadata[key] = value.get<std::string>();
    }
  }

  uint64_t read_integer(const std::string& name, const Json& value, const char* what) const {
    if (!value.is_number_unsigned()) {
      refuse("tensor '{}': {} {} is not a non-negative integer", name, what, quoted(value));
    }
    return value.get<uint64_t>();
  }

  void read_tensor(const std::string& name, const Json& entry) {
    if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
        !entry.contains("data_offsets")) {
      refuse("tensor '{}' lacks dtype, shape or data_offsets", name);
    }
    const Json& type = entry["dtype"];
    if (!type.is_string()) refuse("tensor '{}': dtype {} is not a text", name, quoted(type));
    const auto type_name = type.get<std::string>();
    const bool e4m3 = type_name == info_of(Encoding::kF8E4M3).name;
    const auto dtype = e4m3 ? std::optional(DType::kU8) : parse_dtype(type_name);
    const std::vector<int64_t> sizes = read_sizes(name, entry["shape"]);
    const Extent extent = read_extent(name, entry["data_offsets"]);
    const auto bits = dtype ? 8 * size_of(*dtype) : bits_of_other(type_name);
    if (bits) check_bytes(extent, sizes, type_name, *bits);
    extents_.push_back(extent);
    if (!dtype) {
      tensors_.unreadable[name] = fmt::format(
          "is stored as {}, expected F32, BF16, F16, F64 or F8_E4M3; convert it to BF16",
          type_name);
    } else if (sizes.size() > Shape::kMaxRank) {
      tensors_.unreadable[name] =
          fmt::format("has {} dimensions, expected at most {}", sizes.size(), Shape::kMaxRank);
    } else {
      const Shape shape(sizes.data(), static_cast<int>(sizes.size()));
      const ConstTensor data(data_ + extent.begin, *dtype, shape);
      StoredTensor tensor = e4m3 ? as_e4m3(data) : StoredTensor(data);
      tensor.file = file_;
      tensors_.readable.emplace(name, std::move(tensor));
    }
  }

  static StoredTensor as_e4m3(const ConstTensor& bytes) {
    const Shape& shape = bytes.shape();
    const int64_t columns = shape.rank() == 0 ? 1 : shape[shape.rank() - 1];
    const int64_t rows = columns == 0 ? 0 : shape.numel() / columns;
    return {Encoding::kF8E4M3, shape, bytes.reshape({rows, columns})};
  }

  Extent read_extent(const std::string& name, const Json& offsets) const {
    if (!offsets.is_array() || offsets.size() != 2) {
      refuse("tensor '{}': data_offsets {} is not a pair", name, quoted(offsets));
    }
    const uint64_t begin = read_integer(name, offsets[0], "data offset");
    const uint64_t end = read_integer(name, offsets[1], "data offset");
    if (begin > end || end > data_size_) {
      refuse("tensor '{}': data offsets [{}, {}] do not fit into {} bytes of data", name, begin,
             end, data_size_);
    }
    return {begin, end, name};
  }

  void check_bytes(const Extent& extent, const std::vector<int64_t>& sizes, std::string_view type,
                   uint64_t bits) const {
    uint64_t count = 1;
    for (const int64_t size : sizes) count *= static_cast<uint64_t>(size);
    const uint64_t wanted = count * bits / 8;  // a count that fills no byte is refused, too
    if (extent.end - extent.begin != wanted || count * bits % 8 != 0) {
      refuse("tensor '{}': shape [{}] of {} takes {} bytes, its data offsets hold {}", extent.name,
             fmt::join(sizes, ", "), type, wanted, extent.end - extent.begin);
    }
  }

  std::vector<int64_t> read_sizes(const std::string& name, const Json& value) const {
    constexpr size_t kMostSizes = 64;
    if (!value.is_array() || value.size() > kMostSizes) {
      refuse("tensor '{}': shape {} is not a list of at most {} sizes", name, quoted(value),
             kMostSizes);
    }
    std::vector<int64_t> sizes;
    uint64_t count = 1;
    for (const Json& entry : value) {
      const uint64_t size = read_integer(name, entry, "size");
      // An empty tensor's other sizes are bounded, too: products of some of them are taken.
      if (size > kMaxElements ||
          __builtin_mul_overflow(count, std::max<uint64_t>(size, 1), &count) ||
          count > kMaxElements) {
        refuse("tensor '{}': shape {} is too large", name, quoted(value));
      }
      sizes.push_back(static_cast<int64_t>(size));
    }
    return sizes;
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

  const std::shared_ptr<const FileBytes>& file_;
  const std::byte* data_;
  uint64_t data_size_;
  std::vector<Extent> extents_;
  HeaderTensors tensors_;
};

HeaderTensors read_tensors(const std::shared_ptr<FileBytes>& bytes) {
  constexpr uint64_t kLooked = 512;  // of what is another kind of file
  const std::string& file = bytes->name();
  const uint64_t size = bytes->size();
  check(size >= kLengthBytes, ErrorCode::kInvalidArgument,
        "{}: not a usable safetensors file: {} bytes, shorter than its length field; download it "
        "again",
        file, size);
  bytes->read_front(std::min(size, kLooked));
  const auto* text = reinterpret_cast<const char*>(bytes->begin());
  uint64_t header = 0;  // little-endian, as every machine this runs on
  std::memcpy(&header, text, sizeof(header));
  const bool fits = header <= kMaxHeaderBytes && header <= size - kLengthBytes;
  const std::string_view foreign =
      fits ? std::string_view() : foreign_content({text, std::min(size, kLooked)});
  check(foreign.empty(), ErrorCode::kInvalidArgument, "{}: {}", file, foreign);
  check(fits, ErrorCode::kInvalidArgument,
        "{}: not a usable safetensors file: a header of {} bytes does not fit into {} bytes (at "
        "most {} are allowed); the file is truncated or of another format, download it again",
        file, header, size, kMaxHeaderBytes);
  const uint64_t data_begin = kLengthBytes + header;
  bytes->read_front(data_begin);
  return HeaderReader(bytes, data_begin).read(text + kLengthBytes, header);
}

}  // namespace

std::unique_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& file) {
  return open(file, FileBytes::open(file));
}

std::unique_ptr<const SafetensorsFile> SafetensorsFile::open(
    const std::filesystem::path& file, const std::shared_ptr<FileBytes>& bytes) {
  auto result = std::make_unique<SafetensorsFile>();
  result->path_ = file;
  result->bytes_ = bytes;
  HeaderTensors tensors = read_tensors(bytes);
  result->tensors_ = std::move(tensors.readable);
  result->unreadable_ = std::move(tensors.unreadable);
  result->metadata_ = std::move(tensors.metadata);
  return result;
}

std::unique_ptr<const SafetensorsFile> SafetensorsFile::parse(const void* data, size_t size,
                                                              const std::string& name) {
  return open(name, FileBytes::of(data, size, name));
}

const StoredTensor* SafetensorsFile::find(std::string_view name) const {
  const auto unreadable = unreadable_.find(name);
  check(unreadable == unreadable_.end(), ErrorCode::kInvalidArgument, "{}: tensor '{}' {}", path_,
        name, unreadable == unreadable_.end() ? "" : unreadable->second);
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return nullptr;
  check(found->second.is_plain(), ErrorCode::kInvalidArgument,
        "{}: tensor '{}' is stored as {}, expected F32, BF16, F16 or F64", path_, name,
        found->second.type_name());
  return &found->second;
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
