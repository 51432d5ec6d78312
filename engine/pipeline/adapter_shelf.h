#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "adapters/bind.h"
#include "pipeline/flux_config.h"

namespace flux {

/// An adapter's file as it was opened: what it changes, none of the values. Whoever generates with
/// it keeps it, and has the same file to the end, even when another one has its name by then.
class OpenAdapter {
 public:
  OpenAdapter(std::string path, uint64_t its_number, Adapter fitted);

  const std::string file;
  const uint64_t number;  // no other has it, as long as the process lives
  const Adapter adapter;  // as fit_adapter() made it

  /// The names of tensors that change nothing, in alphabetical order: complete once all models have
  /// computed with it. Thread-safe.
  std::vector<std::string> unused() const;
  /// Adds tensors that no linear of a model takes. Thread-safe.
  void add_unused(const std::vector<std::string>& names) const;

 private:
  mutable std::mutex mutex_;
  mutable std::set<std::string> unused_;
};

/// An adapter of a row, which it is multiplied with `scale` for.
struct AdapterUse {
  std::shared_ptr<const OpenAdapter> adapter;
  float scale = 1.0f;
};

/// The adapters that models compute with, by their files: each is read, and packed for a model, on
/// its first use. Packed weights take `budget` bytes at most: the longest unused leave for others.
/// Thread-safe.
class AdapterShelf {
 public:
  class Target;

  explicit AdapterShelf(int64_t budget = std::numeric_limits<int64_t>::max()) : budget_(budget) {}
  AdapterShelf(const AdapterShelf&) = delete;
  AdapterShelf& operator=(const AdapterShelf&) = delete;

  /// The file that has this name now: read again when it is another one than before (inode, size or
  /// time). Warns of tensors that change nothing. Throws as open_adapter() and fit_adapter().
  std::shared_ptr<const OpenAdapter> open(const std::string& file, const FluxConfig& config);
  /// The adapter of a number, while somebody has it or it is kept; else null.
  std::shared_ptr<const OpenAdapter> find(uint64_t number) const;
  /// Lets go of all weights that nobody computes with. Returns their bytes.
  int64_t drop_unused();

 private:
  /// What tells a file, and the model that it was fitted to, from others.
  struct Identity;
  struct Bound {
    std::shared_ptr<const AdapterWeights> weights;
    int64_t bytes = 0;
    uint64_t last_used = 0;
  };
  struct Entry {
    std::shared_ptr<const OpenAdapter> open;
    std::shared_ptr<const Identity> identity;
    std::map<Target*, Bound> bound = {};
    uint64_t last_used = 0;
    bool replaced = false;  // another file has its name
  };
  using Lock = std::unique_lock<std::mutex>;

  /// The entry of a file that is the same still, or null. Under the lock.
  Entry* current(const std::string& file, const Identity& identity);
  /// Drops entries that nobody has: those whose file was replaced, and the longest unused where
  /// there are too many. Under the lock.
  void tidy();
  void drop(Entry& entry, Target* target);
  /// Drops the weights that were not computed with for longest. Returns whether there were any.
  /// Under the lock.
  bool drop_one();

  const int64_t budget_;
  std::mutex reading_;  // one file is read at a time
  mutable std::mutex mutex_;
  std::condition_variable bound_all_;
  bool binding_ = false;  // a target binds the adapters of a step
  std::list<Entry> entries_;
  int64_t used_ = 0;  // bytes of the weights, those that are being packed among them
  uint64_t clock_ = 0;
  uint64_t last_number_ = 0;
};

/// A model that computes with adapters of a shelf. Its weights may come and go; when it ends, what
/// was packed for it leaves.
class AdapterShelf::Target {
 public:
  /// The model while it is loaded.
  struct Place {
    std::span<const LinearPlace> linears;
    const TensorStore& weights;
    DType dtype = DType::kF32;
  };
  /// Told what becomes of weights. Each function may be empty; they are called under a lock.
  struct Watch {
    std::function<void()> on_load = {};                // an adapter was packed
    std::function<void()> on_hit = {};                 // it was there already
    std::function<void(int64_t bytes)> on_bytes = {};  // of all that are there now
  };

  Target(AdapterShelf& shelf, AdapterModel model);
  Target(AdapterShelf& shelf, AdapterModel model, Watch watch);
  ~Target();
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  /// The adapters of rows that are computed together, packed where `ctx` computes; those that
  /// change nothing of the model are left out. They stay while the result is kept. One model at a
  /// time gets all that its step takes: it waits until the steps of others leave it room, so nobody
  /// waits for one who waits. Throws kInvalidArgument where these rows alone take more than the
  /// budget, kCancelled, and as bind_adapter().
  std::vector<std::vector<AppliedAdapter>> bind(Context& ctx, const Place& place,
                                                std::span<const std::vector<AdapterUse>> rows);

 private:
  friend class AdapterShelf;
  class Turn;
  using Held = std::map<const AdapterWeights*, int64_t>;

  std::shared_ptr<const AdapterWeights> weights_of(Context& ctx, const Place& place,
                                                   const OpenAdapter& adapter, Held& held);
  std::shared_ptr<const AdapterWeights> pack(Context& ctx, const Place& place,
                                             const OpenAdapter& adapter, int64_t& bytes);
  /// Adds weights to what is used, and drops unused ones for them. `bytes` are all of theirs, of
  /// which `taken` are in what is used already; `held` are those of the rows so far.
  void take_room(Context& ctx, Lock& lock, const OpenAdapter& adapter, int64_t bytes, int64_t taken,
                 const Held& held);
  void add_bytes(int64_t bytes);

  AdapterShelf& shelf_;
  const AdapterModel model_;
  const Watch watch_;
  int64_t bytes_ = 0;
};

/// The adapters of the images of one pipeline, by the names of their files: every step has those
/// that were open when the images began.
class AdapterSet {
 public:
  explicit AdapterSet(AdapterShelf& shelf) : shelf_(shelf) {}

  /// Opens files, also those that are open, whose place others may have taken. Throws as
  /// AdapterShelf::open().
  void open(std::span<const AdapterChoice> chosen, const FluxConfig& config);
  /// What is open of these. Throws kInternal for one that is not.
  std::vector<AdapterUse> find(std::span<const AdapterChoice> chosen) const;
  /// OpenAdapter::unused() of these.
  std::vector<std::string> unused(std::span<const AdapterChoice> chosen) const;

 private:
  AdapterShelf& shelf_;
  std::map<std::string, std::shared_ptr<const OpenAdapter>> open_;
};

}  // namespace flux
