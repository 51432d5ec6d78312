#include "pipeline/adapter_shelf.h"

#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "adapters/adapter_file.h"
#include "adapters/fit.h"
#include "pipeline/memory_pressure.h"
#include "runtime/transfer.h"
#include "support/error.h"
#include "support/log.h"
#include "support/utf8.h"

namespace flux {
namespace {

constexpr size_t kNamesInWarning = 3;
/// Files that are kept open though nobody has them. What is known of one takes about a megabyte.
constexpr size_t kMostKept = 256;
constexpr auto kPollInterval = std::chrono::milliseconds(20);

AdapterBase base_of(const FluxConfig& config) {
  return {config.transformer, &config.clip, &config.t5};
}

void warn_of_unused(const std::string& file, const std::vector<std::string>& names) {
  if (names.empty()) return;
  const std::vector<std::string> first(
      names.begin(), names.begin() + std::min(std::ssize(names), std::ptrdiff_t{kNamesInWarning}));
  log_warning("{}: {} tensors change nothing in these models: {}{}", file, names.size(),
              excerpt(fmt::format("{}", fmt::join(first, ", "))),
              names.size() > first.size() ? ", ..." : "");
}

bool changes(const Adapter& adapter, AdapterModel model) {
  return std::any_of(adapter.changes.begin(), adapter.changes.end(),
                     [&](const Change& change) { return change.model == model; });
}

/// Whether nobody has it but the shelf, under whose lock alone it is handed out.
template <typename T>
bool is_idle(const std::shared_ptr<T>& pointer) {
  return pointer.use_count() == 1;
}

}  // namespace

OpenAdapter::OpenAdapter(std::string path, uint64_t its_number, Adapter fitted)
    : file(std::move(path)),
      number(its_number),
      adapter(std::move(fitted)),
      unused_(adapter.unused.begin(), adapter.unused.end()) {}

std::vector<std::string> OpenAdapter::unused() const {
  const std::scoped_lock lock(mutex_);
  return {unused_.begin(), unused_.end()};
}

void OpenAdapter::add_unused(const std::vector<std::string>& names) const {
  const std::scoped_lock lock(mutex_);
  unused_.insert(names.begin(), names.end());
}

struct AdapterShelf::Identity {
  ino_t inode = 0;
  off_t size = 0;
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
  BaseSizes base;

  static Identity of(const std::string& file, const FluxConfig& config) {
    struct stat status {};
    const BaseSizes base = base_sizes(base_of(config));
    if (::stat(file.c_str(), &status) != 0) return {.base = base};  // who opens it says what it is
    return {status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec, base};
  }
  friend bool operator==(const Identity&, const Identity&) = default;
};

AdapterShelf::Entry* AdapterShelf::current(const std::string& file, const Identity& identity) {
  for (Entry& entry : entries_) {
    if (entry.replaced || entry.open->file != file) continue;
    if (*entry.identity == identity) {
      entry.last_used = ++clock_;
      return &entry;
    }
    entry.replaced = true;
  }
  return nullptr;
}

std::shared_ptr<const OpenAdapter> AdapterShelf::open(const std::string& file,
                                                      const FluxConfig& config) {
  const auto look = [&]() -> std::shared_ptr<const OpenAdapter> {
    const Identity identity = Identity::of(file, config);
    const std::scoped_lock lock(mutex_);
    const Entry* entry = current(file, identity);
    return entry == nullptr ? nullptr : entry->open;
  };
  if (auto found = look()) return found;
  const std::scoped_lock reading(reading_);
  if (auto found = look()) return found;  // somebody else has read it meanwhile
  // Of the file before it is read: one that comes later is another one for the next request.
  auto identity = std::make_shared<const Identity>(Identity::of(file, config));
  Adapter fitted = fit_adapter(open_adapter(file), base_of(config));
  warn_of_unused(file, fitted.unused);
  const std::scoped_lock lock(mutex_);
  auto made = std::make_shared<const OpenAdapter>(file, ++last_number_, std::move(fitted));
  entries_.push_back({made, std::move(identity), {}, ++clock_});
  tidy();
  return made;
}

std::shared_ptr<const OpenAdapter> AdapterShelf::find(uint64_t number) const {
  const std::scoped_lock lock(mutex_);
  for (const Entry& entry : entries_) {
    if (entry.open->number == number) return entry.open;
  }
  return nullptr;
}

void AdapterShelf::drop(Entry& entry, Target* target) {
  const int64_t bytes = entry.bound.at(target).bytes;
  entry.bound.erase(target);
  used_ -= bytes;
  target->add_bytes(-bytes);
}

bool AdapterShelf::drop_one() {
  Entry* oldest = nullptr;
  Target* target = nullptr;
  for (Entry& entry : entries_) {
    for (const auto& [of, bound] : entry.bound) {
      if (!is_idle(bound.weights)) continue;
      if (oldest != nullptr && oldest->bound.at(target).last_used < bound.last_used) continue;
      oldest = &entry;
      target = of;
    }
  }
  if (oldest == nullptr) return false;
  drop(*oldest, target);
  return true;
}

int64_t AdapterShelf::drop_unused() {
  const std::scoped_lock lock(mutex_);
  const int64_t before = used_;
  while (drop_one()) {
  }
  return before - used_;
}

void AdapterShelf::tidy() {
  const auto nobody_has = [](const Entry& entry) {
    return is_idle(entry.open) &&
           std::all_of(entry.bound.begin(), entry.bound.end(),
                       [](const auto& bound) { return is_idle(bound.second.weights); });
  };
  const auto erase = [&](std::list<Entry>::iterator entry) {
    while (!entry->bound.empty()) drop(*entry, entry->bound.begin()->first);
    return entries_.erase(entry);
  };
  std::vector<std::list<Entry>::iterator> kept;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const bool idle = nobody_has(*entry);
    if (idle && entry->replaced) {
      entry = erase(entry);
      continue;
    }
    if (idle) kept.push_back(entry);
    ++entry;
  }
  if (kept.size() <= kMostKept) return;
  std::sort(kept.begin(), kept.end(),
            [](const auto& a, const auto& b) { return a->last_used < b->last_used; });
  for (size_t i = 0; i < kept.size() - kMostKept; ++i) erase(kept[i]);
}

/// While it lives, no other target binds.
class AdapterShelf::Target::Turn {
 public:
  Turn(Context& ctx, AdapterShelf& shelf) : shelf_(shelf) {
    Lock lock(shelf_.mutex_);
    while (shelf_.binding_) {
      shelf_.bound_all_.wait_for(lock, kPollInterval);
      if (shelf_.binding_) ctx.poll_cancel();
    }
    shelf_.binding_ = true;
  }
  ~Turn() {
    {
      const std::scoped_lock lock(shelf_.mutex_);
      shelf_.binding_ = false;
    }
    shelf_.bound_all_.notify_one();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  AdapterShelf& shelf_;
};

AdapterShelf::Target::Target(AdapterShelf& shelf, AdapterModel model)
    : Target(shelf, model, Watch()) {}

AdapterShelf::Target::Target(AdapterShelf& shelf, AdapterModel model, Watch watch)
    : shelf_(shelf), model_(model), watch_(std::move(watch)) {}

AdapterShelf::Target::~Target() {
  const std::scoped_lock lock(shelf_.mutex_);
  for (Entry& entry : shelf_.entries_) {
    if (entry.bound.contains(this)) shelf_.drop(entry, this);
  }
}

void AdapterShelf::Target::add_bytes(int64_t bytes) {
  bytes_ += bytes;
  if (watch_.on_bytes) watch_.on_bytes(bytes_);
}

std::vector<std::vector<AppliedAdapter>> AdapterShelf::Target::bind(
    Context& ctx, const Place& place, std::span<const std::vector<AdapterUse>> rows) {
  std::vector<std::vector<AppliedAdapter>> applied(rows.size());
  std::optional<Turn> turn;  // rows without adapters need not wait for one
  Held held;
  for (size_t row = 0; row < rows.size(); ++row) {
    for (const AdapterUse& use : rows[row]) {
      if (!changes(use.adapter->adapter, model_)) continue;
      if (!turn) turn.emplace(ctx, shelf_);
      applied[row].push_back({weights_of(ctx, place, *use.adapter, held), use.scale});
    }
  }
  return applied;
}

std::shared_ptr<const AdapterWeights> AdapterShelf::Target::weights_of(Context& ctx,
                                                                       const Place& place,
                                                                       const OpenAdapter& adapter,
                                                                       Held& held) {
  Lock lock(shelf_.mutex_);
  shelf_.tidy();
  const auto entry =
      std::find_if(shelf_.entries_.begin(), shelf_.entries_.end(),
                   [&](const Entry& each) { return each.open->number == adapter.number; });
  check(entry != shelf_.entries_.end(), ErrorCode::kInternal, "{}: is not on the shelf",
        adapter.file);
  const auto found = entry->bound.find(this);
  if (found != entry->bound.end()) {
    found->second.last_used = ++shelf_.clock_;
    if (watch_.on_hit) watch_.on_hit();
    held[found->second.weights.get()] = found->second.bytes;
    return found->second.weights;
  }
  const int64_t expected = packed_bytes(adapter.adapter, model_, place.dtype);
  take_room(ctx, lock, adapter, expected, 0, held);
  int64_t taken = expected;
  std::shared_ptr<const AdapterWeights> weights;
  try {
    lock.unlock();
    int64_t bytes = 0;
    weights = pack(ctx, place, adapter, bytes);
    lock.lock();
    // Padding is not in what was expected, and what is zero is.
    take_room(ctx, lock, adapter, bytes, taken, held);
    taken = bytes;
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    shelf_.used_ -= taken;
    throw;
  }
  // Whoever asks for it has it, so the entry is there still.
  entry->bound[this] = {weights, taken, ++shelf_.clock_};
  held[weights.get()] = taken;
  if (watch_.on_load) watch_.on_load();
  add_bytes(taken);
  return weights;
}

std::shared_ptr<const AdapterWeights> AdapterShelf::Target::pack(Context& ctx, const Place& place,
                                                                 const OpenAdapter& adapter,
                                                                 int64_t& bytes) {
  const Relief others_leave{[this] {
    return std::string(shelf_.drop_unused() > 0 ? "adapters that are not computed with are dropped"
                                                : "");
  }};
  BoundAdapter made = with_relief({&others_leave, 1}, [&] {
    return bind_adapter(ctx, adapter.adapter, model_, place.linears, place.weights, place.dtype);
  });
  finish(ctx);  // other contexts compute with them, too
  warn_of_unused(adapter.file, made.unused);
  adapter.add_unused(made.unused);
  bytes = made.weights.bytes();
  return std::make_shared<const AdapterWeights>(std::move(made.weights));
}

void AdapterShelf::Target::take_room(Context& ctx, Lock& lock, const OpenAdapter& adapter,
                                     int64_t bytes, int64_t taken, const Held& held) {
  int64_t own = bytes;
  for (const auto& [weights, size] : held) own += size;
  check(own <= shelf_.budget_, ErrorCode::kInvalidArgument,
        "{}: takes {} bytes of the model {}{}, and at most {} are allowed: use fewer or smaller "
        "adapters, or allow more",
        adapter.file, bytes, name_of(model_),
        held.empty() ? "" : fmt::format(", {} with the others of the step", own), shelf_.budget_);
  const int64_t more = bytes - taken;
  while (more > 0 && shelf_.used_ + more > shelf_.budget_) {
    if (shelf_.drop_one()) continue;
    // The rest is computed with by others, whose steps end.
    shelf_.bound_all_.wait_for(lock, kPollInterval);
    ctx.poll_cancel();
  }
  shelf_.used_ += more;
}

void AdapterSet::open(std::span<const AdapterChoice> chosen, const FluxConfig& config) {
  for (const AdapterChoice& choice : chosen) open_[choice.file] = shelf_.open(choice.file, config);
}

std::vector<AdapterUse> AdapterSet::find(std::span<const AdapterChoice> chosen) const {
  std::vector<AdapterUse> uses;
  for (const AdapterChoice& choice : chosen) {
    const auto found = open_.find(choice.file);
    check(found != open_.end(), ErrorCode::kInternal, "{}: is not open", choice.file);
    uses.push_back({found->second, choice.scale});
  }
  return uses;
}

std::vector<std::string> AdapterSet::unused(std::span<const AdapterChoice> chosen) const {
  std::set<std::string> names;
  for (const AdapterUse& use : find(chosen)) {
    for (std::string& name : use.adapter->unused()) names.insert(std::move(name));
  }
  return {names.begin(), names.end()};
}

}  // namespace flux
