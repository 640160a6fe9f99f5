#include "weightd/store/model_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "weightd/gguf/testing/gguf_builder.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload::store {
namespace {

using gguf::GgufBuilder;
using quant::TensorType;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Published xxh64 values of "abc" and of "" (xxHash's own test vectors, seed 0).
constexpr uint64_t kHashOfAbc = 0x44BC2CF5AD770999;

std::string SmallModel(std::string_view tensor = "t", std::string_view data = "abc") {
  return GgufBuilder()
      .String("general.architecture", "llama")
      .Tensor(tensor, TensorType::kI8, {data.size()}, data)
      .Build();
}

// A model of `pages` pages and a bit.
std::string LargeModel(size_t pages) {
  const std::string data = GgufBuilder::Pattern(pages * 4096);
  return GgufBuilder().Tensor("big", TensorType::kI8, {data.size()}, data).Build();
}

void ReplaceByRename(const TempFolder& folder, const std::string& name, std::string_view bytes) {
  folder.Write("replacement", bytes);
  ASSERT_EQ(rename(folder.Path("replacement").c_str(), folder.Path(name).c_str()), 0);
}

// Collects what a lease is told.
class EventLog {
 public:
  std::function<void(const ModelEvent&)> Callback() {
    return [this](const ModelEvent& event) {
      std::lock_guard lock(mutex_);
      kinds_.push_back(event.kind);
      last_ = event;
    };
  }
  std::vector<ModelEvent::Kind> kinds() {
    std::lock_guard lock(mutex_);
    return kinds_;
  }
  ModelEvent last() {
    std::lock_guard lock(mutex_);
    return last_;
  }

 private:
  std::mutex mutex_;
  std::vector<ModelEvent::Kind> kinds_;
  ModelEvent last_;
};

class ModelStoreTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Model> Load(const std::string& name, const std::string& path) {
    auto model = store_.Load(name, path);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *model : nullptr;
  }
  ModelStatus Status(const std::string& name) {
    const auto status = store_.Status(name);
    EXPECT_TRUE(status.ok()) << status.status();
    return status.value_or(ModelStatus());
  }
  absl::StatusCode FindCode(const std::string& name, uint64_t generation = 0) {
    return store_.Find(name, generation).status().code();
  }

  TempFolder folder_;
  ModelStore store_{{}};
};

TEST_F(ModelStoreTest, LoadsFindsAndLists) {
  const auto model = Load("b", folder_.Write("b.gguf", SmallModel()));
  Load("a", folder_.Write("a.gguf", SmallModel()));
  EXPECT_EQ(*store_.Find("b"), model);
  EXPECT_EQ(*store_.Find("b", model->generation()), model);
  EXPECT_EQ(FindCode("c"), absl::StatusCode::kNotFound);
  EXPECT_EQ(FindCode("b", 12345), absl::StatusCode::kFailedPrecondition);
  const auto list = store_.List();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "a");
  EXPECT_EQ(list[1].name, "b");
  EXPECT_EQ(list[1].state, ModelState::kReady);
  EXPECT_EQ(list[1].path, folder_.Path("b.gguf"));
  EXPECT_EQ(list[1].generation, model->generation());
  EXPECT_EQ(list[1].architecture, "llama");
  EXPECT_EQ(list[1].tensor_count, 1u);
  EXPECT_EQ(list[1].bytes, SmallModel().size());
  EXPECT_EQ(list[1].shard_count, 1u);
  EXPECT_EQ(list[1].residency, Residency::kLazy);
  EXPECT_EQ(list[1].leases, 0u);
}

TEST_F(ModelStoreTest, FailedModelsAreListedWithTheirError) {
  const auto failed = store_.Load("bad", folder_.Write("bad.gguf", "garbage"));
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FindCode("bad"), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Status("bad").state, ModelState::kFailed);
  EXPECT_THAT(Status("bad").error, HasSubstr("bad.gguf: offset 0: this is not a GGUF file"));
  EXPECT_EQ(Status("bad").path, folder_.Path("bad.gguf"));
  // Repaired, it loads by its name alone.
  folder_.Write("bad.gguf", SmallModel());
  EXPECT_TRUE(store_.Load("bad", "").ok());
  EXPECT_EQ(Status("bad").state, ModelState::kReady);
  EXPECT_EQ(Status("bad").error, "");
}

TEST_F(ModelStoreTest, BadNames) {
  const std::string path = folder_.Write("m.gguf", SmallModel());
  for (const std::string& name : {std::string(), std::string("a\nb"), std::string("\xff"),
                                  std::string(256, 'a'), std::string("a\0", 2)}) {
    EXPECT_EQ(store_.Load(name, path).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(store_.Load("never", "").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(store_.List(), IsEmpty());
}

TEST_F(ModelStoreTest, Case24ImplausibleHyperparametersAreServed) {
  for (uint32_t layers : {0u, 1000000000u}) {
    const auto model =
        store_.Load("m", folder_.Write("m.gguf", GgufBuilder()
                                                     .String("general.architecture", "llama")
                                                     .Uint32("llama.block_count", layers)
                                                     .Build()));
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->header().FindUnsigned("llama.block_count"), layers);
  }
}

TEST_F(ModelStoreTest, LoadDirectory) {
  folder_.Write("good.gguf", SmallModel());
  folder_.Write("bad.gguf", "garbage");
  folder_.Write("X.GGUF", SmallModel());
  folder_.Write("notes.txt", "no model");
  folder_.Write(".hidden.gguf", SmallModel());
  folder_.Write("orphan-00002-of-00002.gguf", SmallModel());
  for (uint16_t i = 0; i < 2; ++i) {
    folder_.Write("split-0000" + std::to_string(i + 1) + "-of-00002.gguf",
                  GgufBuilder()
                      .Number("split.no", gguf::ValueType::kUint16, i)
                      .Number("split.count", gguf::ValueType::kUint16, uint16_t{2})
                      .Build());
  }
  ASSERT_EQ(mkdir(folder_.Path("folder.gguf").c_str(), 0700), 0);
  ASSERT_EQ(mkfifo(folder_.Path("fifo.gguf").c_str(), 0600), 0);
  const auto loaded = store_.LoadDirectory(folder_.path());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(*loaded, 3u);
  std::vector<std::string> ready, failed;
  for (const ModelStatus& status : store_.List()) {
    (status.state == ModelState::kReady ? ready : failed).push_back(status.name);
  }
  EXPECT_THAT(ready, ElementsAre("X", "good", "split"));
  EXPECT_THAT(failed, ElementsAre("bad", "fifo", "folder", "orphan"));
  EXPECT_EQ(Status("split").shard_count, 2u);
  EXPECT_EQ(store_.LoadDirectory(folder_.Path("absent")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ModelStoreTest, Case26LinksOutOfTheModelFolder) {
  const TempFolder elsewhere;
  elsewhere.Write("m.gguf", SmallModel());
  ASSERT_EQ(symlink(elsewhere.Path("m.gguf").c_str(), folder_.Path("link.gguf").c_str()), 0);
  ModelStore store({.allowed_roots = {folder_.path()}});
  EXPECT_EQ(*store.LoadDirectory(folder_.path()), 0u);
  EXPECT_THAT(store.Status("link")->error, HasSubstr("outside the allowed folders"));
  EXPECT_EQ(store.Load("m", elsewhere.Path("m.gguf")).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(ModelStoreTest, ReloadOfUnchangedFilesKeepsTheModel) {
  const std::string path = folder_.Write("m.gguf", SmallModel());
  const auto model = Load("m", path);
  EXPECT_EQ(Load("m", path), model);
  EXPECT_EQ(Load("m", ""), model);
}

TEST_F(ModelStoreTest, Case29OldGenerationServesOnWhileLeased) {
  const auto old = Load("m", folder_.Write("m.gguf", SmallModel("t", "abc")));
  EventLog events;
  auto lease = store_.AcquireLease(old, events.Callback());
  ASSERT_TRUE(lease.ok()) << lease.status();
  ReplaceByRename(folder_, "m.gguf", SmallModel("t", "xyz"));
  EXPECT_EQ(*store_.Find("m"), old);  // until it is loaded again
  const auto fresh = Load("m", "");
  ASSERT_NE(fresh, old);
  EXPECT_EQ(*store_.Find("m"), fresh);
  EXPECT_EQ(*store_.Find("m", old->generation()), old);
  EXPECT_THAT(Status("m").old_generations, ElementsAre(old->generation()));
  EXPECT_EQ(Status("m").leases, 1u);
  EXPECT_THAT(events.kinds(), ElementsAre(ModelEvent::Kind::kNewGeneration));
  EXPECT_EQ(events.last().generation, fresh->generation());
  EXPECT_EQ(store_.HashTensor(*old, 0)->xxh64, kHashOfAbc);
  EXPECT_NE(store_.HashTensor(*fresh, 0)->xxh64, kHashOfAbc);
  // A worker may attach again to the generation it has mapped.
  auto second = store_.AcquireLease(old);
  ASSERT_TRUE(second.ok()) << second.status();
  *lease = Lease();
  EXPECT_EQ(*store_.Find("m", old->generation()), old);
  *second = Lease();
  EXPECT_EQ(FindCode("m", old->generation()), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Status("m").old_generations, IsEmpty());
  EXPECT_EQ(store_.AcquireLease(old).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ModelStoreTest, GoingBackToLeasedFilesServesTheSameMapping) {
  const auto old = Load("m", folder_.Write("m.gguf", SmallModel("t", "abc")));
  auto lease = store_.AcquireLease(old);
  ASSERT_TRUE(lease.ok());
  ASSERT_EQ(link(folder_.Path("m.gguf").c_str(), folder_.Path("backup").c_str()), 0);
  ReplaceByRename(folder_, "m.gguf", SmallModel("t", "xyz"));
  const auto fresh = Load("m", "");
  auto fresh_lease = store_.AcquireLease(fresh);
  ASSERT_TRUE(fresh_lease.ok());
  ASSERT_EQ(rename(folder_.Path("backup").c_str(), folder_.Path("m.gguf").c_str()), 0);
  EXPECT_EQ(Load("m", ""), old);
  EXPECT_THAT(Status("m").old_generations, ElementsAre(fresh->generation()));
  EXPECT_EQ(Status("m").leases, 2u);
}

TEST_F(ModelStoreTest, FailedReloadLeavesWhatWasServed) {
  const auto model = Load("m", folder_.Write("m.gguf", SmallModel()));
  ReplaceByRename(folder_, "m.gguf", "garbage");
  EXPECT_FALSE(store_.Load("m", "").ok());
  EXPECT_EQ(*store_.Find("m"), model);
  EXPECT_EQ(Status("m").state, ModelState::kReady);
  EXPECT_THAT(Status("m").error, HasSubstr("not a GGUF file"));
}

TEST_F(ModelStoreTest, UnloadTellsLeases) {
  const std::string path = folder_.Write("m.gguf", SmallModel());
  const auto model = Load("m", path);
  EventLog events;
  auto lease = store_.AcquireLease(model, events.Callback());
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(*store_.Unload("m"), 1u);
  EXPECT_THAT(events.kinds(), ElementsAre(ModelEvent::Kind::kUnloaded));
  EXPECT_EQ(FindCode("m"), absl::StatusCode::kNotFound);
  EXPECT_THAT(store_.List(), IsEmpty());
  EXPECT_EQ(*store_.Find("m", model->generation()), model);  // the leased one goes on
  EXPECT_EQ(store_.Unload("m").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_.AcquireLease(model).status().code(), absl::StatusCode::kFailedPrecondition);
  // Loaded again it is the same mapping.
  EXPECT_EQ(Load("m", path), model);
  EXPECT_EQ(*store_.Unload("m"), 1u);
  *lease = Lease();
  EXPECT_EQ(FindCode("m", model->generation()), absl::StatusCode::kNotFound);
  EXPECT_EQ(store_.Load("m", "").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelStoreTest, DroppedModelsAreUnmapped) {
  const std::weak_ptr<const Model> model = Load("m", folder_.Write("m.gguf", SmallModel()));
  EXPECT_FALSE(model.expired());
  EXPECT_EQ(*store_.Unload("m"), 0u);
  EXPECT_TRUE(model.expired());
}

TEST_F(ModelStoreTest, Case27FlippedBit) {
  std::string bytes = SmallModel("t", "abc");
  folder_.Write("m.gguf", bytes);
  const auto model = Load("m", folder_.Path("m.gguf"));
  const auto first = store_.HashTensor(*model, 0);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(first->xxh64, kHashOfAbc);
  EXPECT_FALSE(first->changed);
  EXPECT_FALSE(store_.HashTensor(*model, 0)->changed);
  EXPECT_FALSE(Status("m").modified_in_place);

  const off_t at = static_cast<off_t>(model->tensors()[0].entry->offset);
  folder_.Overwrite("m.gguf", at, "acc");  // 'b' ^ 1
  const auto flipped = store_.HashTensor(*model, 0);
  ASSERT_TRUE(flipped.ok()) << flipped.status();
  EXPECT_TRUE(flipped->changed);
  EXPECT_NE(flipped->xxh64, kHashOfAbc);
  EXPECT_EQ(Status("m").state, ModelState::kReady);  // a warning, not damage

  folder_.Overwrite("m.gguf", at, "abc");
  EXPECT_FALSE(store_.HashTensor(*model, 0)->changed);
  EXPECT_EQ(store_.HashTensor(*model, 1).status().code(), absl::StatusCode::kOutOfRange);
}

// Bits that rot leave the times of a file alone, so that loading it again finds the same
// generation.
TEST_F(ModelStoreTest, Case27FlippedBitBehindUnloadAndLoad) {
  const std::string path = folder_.Write("m.gguf", SmallModel("t", "abc"));
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  auto model = Load("m", path);
  const uint64_t generation = model->generation();
  ASSERT_TRUE(store_.HashTensor(*model, 0).ok());
  folder_.Overwrite("m.gguf", static_cast<off_t>(model->tensors()[0].entry->offset), "acc");
  const timespec times[2] = {info.st_atim, info.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  model = nullptr;
  ASSERT_TRUE(store_.Unload("m").ok());
  model = Load("m", path);
  EXPECT_EQ(model->generation(), generation);
  EXPECT_TRUE(store_.HashTensor(*model, 0)->changed);
}

TEST_F(ModelStoreTest, Case28TruncatedWhileMapped) {
  const auto model = Load("m", folder_.Write("m.gguf", LargeModel(64)));
  EventLog events;
  const auto lease = store_.AcquireLease(model, events.Callback());
  ASSERT_TRUE(lease.ok());
  EXPECT_TRUE(store_.CheckIntact(*model).ok());
  folder_.Truncate("m.gguf", 8 * 4096);
  const auto hash = store_.HashTensor(*model, 0);  // reads pages that are not there any more
  EXPECT_EQ(hash.status().code(), absl::StatusCode::kDataLoss) << hash.status();
  EXPECT_THAT(std::string(hash.status().message()), HasSubstr("m.gguf: truncated from"));
  EXPECT_THAT(std::string(hash.status().message()), HasSubstr("tensor 'big'"));
  EXPECT_TRUE(model->quarantined());
  EXPECT_EQ(FindCode("m"), absl::StatusCode::kDataLoss);
  EXPECT_EQ(FindCode("m", model->generation()), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Status("m").state, ModelState::kQuarantined);
  EXPECT_THAT(Status("m").error, HasSubstr("truncated"));
  EXPECT_THAT(events.kinds(), ElementsAre(ModelEvent::Kind::kQuarantined));
  EXPECT_EQ(store_.AcquireLease(model).status().code(), absl::StatusCode::kDataLoss);
  store_.Quarantine(*model, absl::DataLossError("again"));
  EXPECT_EQ(events.kinds().size(), 1u);
  // A sound file in its place is served again.
  ReplaceByRename(folder_, "m.gguf", SmallModel());
  const auto fresh = Load("m", "");
  EXPECT_EQ(*store_.Find("m"), fresh);
  EXPECT_EQ(Status("m").state, ModelState::kReady);
}

TEST_F(ModelStoreTest, WarmPopulatesAllPages) {
  const std::string bytes = LargeModel(300);
  const auto model = store_.Load("m", folder_.Write("m.gguf", bytes), Residency::kWarm);
  ASSERT_TRUE(model.ok()) << model.status();
  store_.WaitForResidency();
  EXPECT_EQ(Status("m").populated_bytes, bytes.size());
  EXPECT_EQ(Status("m").residency, Residency::kWarm);
  EXPECT_EQ(Status("m").residency_note, "");
  // Asking again for the same does not start over, asking for none forgets.
  ASSERT_TRUE(store_.Load("m", "", Residency::kLazy).ok());
  EXPECT_EQ(Status("m").residency, Residency::kLazy);
}

// Pages of the mapping that are locked, in KiB, as the kernel counts them for this process.
uint64_t LockedKib() {
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;) {
    if (word == "VmLck:") {
      uint64_t kib = 0;
      in >> kib;
      return kib;
    }
  }
  return 0;
}

TEST_F(ModelStoreTest, LockLocksAndUnlocks) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers make mlock do nothing";
#endif
  const uint64_t before = LockedKib();
  ASSERT_TRUE(store_.Load("m", folder_.Write("m.gguf", LargeModel(100)), Residency::kLock).ok());
  store_.WaitForResidency();
  if (Status("m").residency != Residency::kLock) {
    GTEST_SKIP() << "mlock is not allowed here: " << Status("m").residency_note;
  }
  EXPECT_GE(LockedKib(), before + 400);
  ASSERT_TRUE(store_.Load("m", "", Residency::kLazy).ok());
  EXPECT_EQ(LockedKib(), before);
}

TEST_F(ModelStoreTest, FailingLockFallsBackToWarm) {
  std::mutex mutex;
  std::string log;
  ModelStore store({.log =
                        [&](std::string_view line) {
                          std::lock_guard lock(mutex);
                          log += std::string(line) + "\n";
                        },
                    .lock_pages =
                        [](const void*, size_t) {
                          errno = ENOMEM;
                          return -1;
                        }});
  const std::string bytes = LargeModel(100);
  ASSERT_TRUE(store.Load("m", folder_.Write("m.gguf", bytes), Residency::kLock).ok());
  store.WaitForResidency();
  const auto status = store.Status("m");
  EXPECT_EQ(status->residency, Residency::kWarm);
  EXPECT_EQ(status->populated_bytes, bytes.size());
  EXPECT_THAT(status->residency_note, HasSubstr("cannot be locked (mlock: Cannot allocate"));
  std::lock_guard lock(mutex);
  EXPECT_THAT(log, HasSubstr("cannot be locked"));
}

// Found by whoever populates, before anybody has asked for a byte.
TEST_F(ModelStoreTest, Case28PopulatingATruncatedFileQuarantines) {
  ModelStore store({.lock_pages = [&](const void*, size_t) {
    folder_.Truncate("m.gguf", 4096);
    return 0;
  }});
  ASSERT_TRUE(store.Load("m", folder_.Write("m.gguf", LargeModel(300)), Residency::kLock).ok());
  store.WaitForResidency();
  EXPECT_EQ(store.Status("m")->state, ModelState::kQuarantined);
  EXPECT_EQ(store.Find("m").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ModelStoreTest, PrefetchIgnoresRangesOutsideTheFile) {
  const auto model = Load("m", folder_.Write("m.gguf", LargeModel(10)));
  store_.Prefetch(*model, 0, 5000, 100);
  store_.Prefetch(*model, 0, 0, ~uint64_t{0});
  store_.Prefetch(*model, 0, ~uint64_t{0}, 10);
  store_.Prefetch(*model, 7, 0, 10);
  EXPECT_TRUE(store_.CheckIntact(*model).ok());
}

TEST_F(ModelStoreTest, ManyThreads) {
  const std::string path = folder_.Write("m.gguf", SmallModel());
  std::atomic<int> events{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        auto model = store_.Load("m", path, i % 2 == 0 ? Residency::kWarm : Residency::kLazy);
        ASSERT_TRUE(model.ok()) << model.status();
        auto lease = store_.AcquireLease(*model, [&](const ModelEvent&) { events.fetch_add(1); });
        if (lease.ok()) {
          ASSERT_TRUE(store_.HashTensor(**model, 0).ok());
        }
        if (t == 0 && i % 10 == 0) (void)store_.Unload("m");
        (void)store_.List();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  store_.WaitForResidency();
  ASSERT_TRUE(store_.Load("m", path).ok());
  EXPECT_EQ(Status("m").leases, 0u);
  EXPECT_THAT(Status("m").old_generations, IsEmpty());
}

}  // namespace
}  // namespace gguf_offload::store
