#include "computed/prefetch/host_expert_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace gguf_offload {

HostExpertCache::HostExpertCache(WeightSource& source, HostExpertPlan plan,
                                 std::shared_ptr<uint8_t> memory)
    : source_(source), plan_(std::move(plan)), memory_(std::move(memory)) {
  entry_of_.assign(plan_.layers.size() * plan_.experts, -1);
  counters_.resize(plan_.layers.size());
  uint8_t* next = memory_.get();
  for (const HostExpertPlan::SizeClass& size_class : plan_.classes) {
    Ages& ages = ages_.emplace_back();
    for (int i = 0; i < size_class.entries; ++i) {
      ages.push_back(static_cast<int>(entries_.size()));
      entries_.push_back({.memory = next, .age = std::prev(ages.end())});
      next += size_class.entry_bytes;
    }
  }
}

void HostExpertCache::BeginStep(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  deadline_ = deadline;
}

absl::Status HostExpertCache::Check(int layer, std::span<const int32_t> experts) const {
  if (layer < 0 || static_cast<size_t>(layer) >= plan_.layers.size()) {
    return absl::InvalidArgumentError(absl::StrCat("experts of layer ", layer));
  }
  if (experts.size() > static_cast<size_t>(plan_.EntriesOf(layer))) {
    return absl::InvalidArgumentError(absl::StrCat(experts.size(), " experts of layer ", layer,
                                                   " for ", plan_.EntriesOf(layer), " entries"));
  }
  for (const int32_t expert : experts) {
    if (expert >= 0 && expert < plan_.experts) continue;
    return absl::InvalidArgumentError(absl::StrCat("expert ", expert, " of layer ", layer));
  }
  return absl::OkStatus();
}

int HostExpertCache::Replace(int layer, int expert) {
  Ages& ages = ages_[plan_.layers[layer].size_class];
  const int index = ages.front();
  Entry& entry = entries_[index];
  if (entry.owner >= 0) entry_of_[entry.owner] = -1;
  entry.owner = layer * plan_.experts + expert;
  entry_of_[entry.owner] = index;
  ages.splice(ages.end(), ages, entry.age);
  return index;
}

void HostExpertCache::AddRanges(int layer, int expert, uint8_t* entry,
                                std::vector<WeightSource::Range>& ranges) const {
  const HostExpertPlan::Layer& l = plan_.layers[layer];
  for (int i = 0; i < 3; ++i) {
    ranges.push_back({l.shards[i], l.file_offsets[i] + expert * l.file_strides[i],
                      l.matrix_bytes[i], entry + plan_.OffsetOf(layer, expert, i)});
  }
}

absl::Status HostExpertCache::Fetch(int layer, std::span<const int32_t> experts,
                                    std::span<const uint8_t*> entries) {
  if (absl::Status status = Check(layer, experts); !status.ok()) return status;
  absl::MutexLock fetching(&fetching_);
  Counters counted;
  // Those that are here first: as the youngest they do not make room for the others.
  for (const int32_t expert : experts) {
    const int index = entry_of_[layer * plan_.experts + expert];
    if (index < 0) continue;
    Ages& ages = ages_[plan_.layers[layer].size_class];
    ages.splice(ages.end(), ages, entries_[index].age);
    ++counted.hits;
  }
  std::vector<int> fetched;
  std::vector<WeightSource::Range> ranges;
  for (size_t i = 0; i < experts.size(); ++i) {
    int index = entry_of_[layer * plan_.experts + experts[i]];
    if (index < 0) {
      index = Replace(layer, experts[i]);
      fetched.push_back(index);
      AddRanges(layer, experts[i], entries_[index].memory, ranges);
    }
    entries[i] = entries_[index].memory;
  }
  if (!fetched.empty()) {
    absl::Time deadline;
    {
      absl::MutexLock lock(&mutex_);
      deadline = deadline_;
    }
    for (const WeightSource::Range& range : ranges) counted.bytes += range.bytes;
    counted.misses = fetched.size();
    if (absl::Status status = source_.Read(std::move(ranges), deadline); !status.ok()) {
      for (const int index : fetched) {
        entry_of_[std::exchange(entries_[index].owner, -1)] = -1;
        Ages& ages = ages_[plan_.layers[layer].size_class];
        ages.splice(ages.begin(), ages, entries_[index].age);
      }
      return status;
    }
  }
  absl::MutexLock lock(&mutex_);
  counters_[layer].hits += counted.hits;
  counters_[layer].misses += counted.misses;
  counters_[layer].bytes += counted.bytes;
  return absl::OkStatus();
}

std::vector<HostExpertCache::Counters> HostExpertCache::counters() const {
  absl::MutexLock lock(&mutex_);
  return counters_;
}

}  // namespace gguf_offload
