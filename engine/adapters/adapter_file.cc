#include "adapters/adapter_file.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "adapters/dialects.h"
#include "adapters/foreign.h"
#include "adapters/sizes.h"
#include "adapters/trainer_notes.h"
#include "adapters/update_reader.h"
#include "support/error.h"
#include "support/utf8.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// The tensors of one module, by its name in the file.
struct ModuleTensors {
  NamedModule module;
  std::map<TensorRole, FileTensor> tensors;
};

/// `pattern` with the block's number in place of "#".
std::string numbered(std::string_view pattern, int64_t block) {
  std::string name(pattern);
  const size_t hash = name.find('#');
  if (hash != name.npos) name.replace(hash, 1, std::to_string(block));
  return name;
}

auto place_of(const Change& change) {
  return std::tie(change.model, change.module, change.parameter, change.begin);
}

class AdapterReader {
 public:
  explicit AdapterReader(const SafetensorsFile& file)
      : file_(file), notes_(file.path().string(), file.metadata()) {
    adapter_.file = file.path().string();
  }

  Adapter read() {
    sort_tensors();
    refuse_foreign();
    SizeCollector sizes(adapter_.file);
    for (auto& [name, module] : modules_) read_module(name, module, sizes);
    refuse_nothing();
    adapter_.sizes = sizes.sizes();
    adapter_.dialects.assign(dialects_.begin(), dialects_.end());
    adapter_.notes = notes_.shown();
    std::sort(adapter_.unused.begin(), adapter_.unused.end());
    sort_changes();
    return std::move(adapter_);
  }

 private:
  /// Finds the module and the role of each tensor.
  void sort_tensors() {
    const auto& unreadable = file_.unreadable();
    adapter_.tensors = file_.tensors().size() + unreadable.size();
    check(adapter_.tensors <= kMaxAdapterTensors, ErrorCode::kInvalidArgument,
          "{}: has {} tensors, and an adapter at most {}; give another file", adapter_.file,
          adapter_.tensors, kMaxAdapterTensors);
    for (const auto& [name, tensor] : file_.tensors()) {
      adapter_.bytes += tensor.bytes();
      if (!add_tensor(name, tensor)) adapter_.unused.push_back(name);
    }
    for (const auto& [name, reason] : unreadable) {
      const auto parsed = parse_tensor_name(name);
      check(!parsed || !find_named_module(parsed->module), ErrorCode::kInvalidArgument,
            "{}: tensor '{}' {}", adapter_.file, name, reason);
      adapter_.unused.push_back(name);
    }
  }

  bool add_tensor(const std::string& name, const StoredTensor& tensor) {
    const auto parsed = parse_tensor_name(name);
    if (!parsed) return false;
    const auto module = find_named_module(parsed->module);
    if (!module) return false;
    auto& tensors = modules_.try_emplace(std::string(parsed->module), ModuleTensors{*module, {}})
                        .first->second.tensors;
    const auto [at, added] = tensors.try_emplace(parsed->role, FileTensor{name, tensor});
    check(added, ErrorCode::kInvalidArgument,
          "{}: tensors '{}' and '{}' are the same part of a change; use a file that has one of "
          "them",
          adapter_.file, at->second.name, name);
    return true;
  }

  /// Tensors of another model are among those that are not known, whatever else fits.
  void refuse_foreign() const {
    const std::string_view what = what_adapter_is(adapter_.unused);
    check(what.empty(), ErrorCode::kInvalidArgument,
          "{}: no adapter of FLUX.1: it seems to be {}; give one that was trained for FLUX.1",
          adapter_.file, what);
  }

  void refuse_nothing() const {
    if (!adapter_.changes.empty()) return;
    const bool weights =
        std::any_of(adapter_.unused.begin(), adapter_.unused.end(),
                    [](const std::string& name) { return name.ends_with(".weight"); });
    if (weights && !is_adapter(file_)) {
      fail(ErrorCode::kInvalidArgument,
           "{}: no adapter: it seems to be a checkpoint or a part of one; give it as the "
           "checkpoint, or with --transformer, --vae, --clip or --t5",
           adapter_.file);
    }
    fail(ErrorCode::kInvalidArgument,
         "{}: no adapter of FLUX.1: none of its {} tensors is known{}{}{}; give one that was "
         "trained for FLUX.1",
         adapter_.file, adapter_.tensors, adapter_.unused.empty() ? "" : ", such as '",
         adapter_.unused.empty() ? "" : excerpt(adapter_.unused.front()),
         adapter_.unused.empty() ? "" : "'");
  }

  void read_module(const std::string& name, ModuleTensors& module, SizeCollector& sizes) {
    UpdateReader reader(adapter_.file, name, module.tensors);
    const bool is_norm = module.module.parts[0].module->columns.width == Width::kNone;
    const auto weight = reader.weight(is_norm, notes_);
    const auto bias = reader.bias();
    if (weight) add_changes(module.module, Parameter::kWeight, *weight, sizes);
    if (bias) add_changes(module.module, Parameter::kBias, *bias, sizes);
    for (auto& [role, tensor] : module.tensors) adapter_.unused.push_back(tensor.name);
  }

  /// The changes that an update makes of the modules whose rows it has.
  void add_changes(const NamedModule& named, Parameter parameter, const Update& update,
                   SizeCollector& sizes) {
    dialects_.insert(named.dialect);
    const auto shared = std::make_shared<const Update>(update);
    const std::string& tensor = update.tensors.back();
    for (const auto& [module, part] : named.parts) {
      const int of = part.halves_swapped ? 2 : part.of;
      check(update.rows % of == 0, ErrorCode::kInvalidArgument,
            "{}: tensor '{}' changes {} rows, expected {} equal parts; the file is damaged, or of "
            "another model",
            adapter_.file, tensor, update.rows, of);
      const int64_t size = update.rows / of;
      Change change{.model = module->model,
                    .module = numbered(module->name, named.block),
                    .block = named.block,
                    .parameter = parameter,
                    .update = shared};
      if (part.halves_swapped) {
        add(change, 0, size, size);
        add(change, size, 2 * size, 0);
      } else {
        add(change, 0, (part.end - part.begin) * size, part.begin * size);
      }
      const int64_t rows = part.halves_swapped ? update.rows : (part.end - part.begin) * size;
      const Shape shape = update.columns == 0 ? Shape{rows} : Shape{rows, update.columns};
      sizes.add(*module, named.block, shape, tensor);
    }
  }

  void add(Change change, int64_t begin, int64_t end, int64_t first) {
    change.begin = begin;
    change.end = end;
    change.first = first;
    adapter_.changes.push_back(std::move(change));
  }

  /// A file has rows once: where it has them in two dialects, one is a copy of the other.
  void sort_changes() {
    auto& changes = adapter_.changes;
    std::sort(changes.begin(), changes.end(),
              [](const Change& a, const Change& b) { return place_of(a) < place_of(b); });
    for (size_t i = 1; i < changes.size(); ++i) {
      const Change& before = changes[i - 1];
      const Change& change = changes[i];
      const bool same = before.model == change.model && before.module == change.module &&
                        before.parameter == change.parameter;
      check(!same || change.begin >= before.end, ErrorCode::kInvalidArgument,
            "{}: tensors '{}' and '{}' both change '{}'; use a file that has one of them",
            adapter_.file, before.update->tensors[0], change.update->tensors[0], change.module);
    }
  }

  const SafetensorsFile& file_;
  TrainerNotes notes_;
  Adapter adapter_;
  std::map<std::string, ModuleTensors> modules_;
  std::set<std::string_view> dialects_;
};

/// Refuses a header that is longer than an adapter's, before it is read.
void check_header(const std::filesystem::path& file, FileBytes& bytes) {
  uint64_t header = 0;
  if (bytes.size() < sizeof(header)) return;  // the reader says what it is
  bytes.read_front(sizeof(header));
  std::memcpy(&header, bytes.begin(), sizeof(header));
  const bool fits = header <= kMaxAdapterHeaderBytes || header > bytes.size();
  check(fits, ErrorCode::kInvalidArgument,
        "{}: has a header of {} bytes, and an adapter at most {}; give another file", file, header,
        kMaxAdapterHeaderBytes);
}

}  // namespace

std::string_view Update::kind() const {
  constexpr std::string_view kPlain[] = {"LoRA", "LoKr", "LoHa", "difference", "replacement"};
  constexpr std::string_view kDora[] = {"DoRA", "DoRA of LoKr", "DoRA of LoHa",
                                        "DoRA of difference", ""};
  return (is_dora() ? kDora : kPlain)[values.index()];
}

Adapter open_adapter(const std::filesystem::path& file) {
  const auto bytes = FileBytes::open(file);
  check_header(file, *bytes);
  return read_adapter(*SafetensorsFile::open(file, bytes));
}

Adapter read_adapter(const SafetensorsFile& file) { return AdapterReader(file).read(); }

bool is_adapter(const WeightFile& file) {
  constexpr TensorRole kNone[] = {TensorRole::kAlpha, TensorRole::kWhole, TensorRole::kUpBias};
  return std::any_of(file.tensors().begin(), file.tensors().end(), [&](const auto& entry) {
    const auto parsed = parse_tensor_name(entry.first);
    return parsed && std::find(std::begin(kNone), std::end(kNone), parsed->role) == std::end(kNone);
  });
}

}  // namespace flux
