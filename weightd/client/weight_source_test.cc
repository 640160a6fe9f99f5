// Both transports against a real daemon in this process, and the streaming one against a daemon
// that is not to be trusted.
#include "weightd/client/weight_source.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>
#include <xxhash.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>

#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "weightd/service/testing/test_daemon.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload {
namespace {

using ::testing::HasSubstr;

constexpr size_t kLarge = 9 << 20;

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

// Collects log lines.
class Lines {
 public:
  std::function<void(std::string_view)> Sink() {
    return [this](std::string_view line) {
      absl::MutexLock lock(&mutex_);
      lines_.emplace_back(line);
    };
  }
  int Count(std::string_view text) {
    absl::MutexLock lock(&mutex_);
    int count = 0;
    for (const std::string& line : lines_) count += line.find(text) != std::string::npos;
    return count;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> lines_;
};

class WeightSourceTest : public ::testing::TestWithParam<bool> {
 protected:
  WeightSourceTest() : file_(TwoTensorModel(kLarge)) {
    folder_.Write("m.gguf", file_);
    daemon_ = std::make_unique<TestDaemon>(
        WeightDaemon::Options{.models = {{"m", folder_.Path("m.gguf")}}});
  }
  bool shared_memory() const { return GetParam(); }

  std::unique_ptr<WeightSource> Attach() {
    auto source = WeightSource::Attach(
        {.address = shared_memory() ? daemon_->unix_address() : daemon_->tcp_address(),
         .model = "m",
         .worker = "tester",
         .credit_bytes = 4 << 20,
         .log = lines_.Sink()});
    EXPECT_TRUE(source.ok()) << source.status();
    return source.ok() ? *std::move(source) : nullptr;
  }
  // Whether a range reads as the file has it.
  absl::Status ReadAndCompare(WeightSource& source, uint64_t offset, uint64_t bytes,
                              const std::string& expected) {
    std::string read(bytes, '?');
    const absl::Status status =
        source.Read({{0, offset, bytes, reinterpret_cast<uint8_t*>(read.data())}}, Soon());
    if (status.ok()) {
      EXPECT_TRUE(read == expected.substr(offset, bytes)) << offset << " " << bytes;
    }
    return status;
  }
  void Replace(const std::string& contents) {
    ASSERT_EQ(std::rename(folder_.Write("next", contents).c_str(), folder_.Path("m.gguf").c_str()),
              0);
  }

  store::TempFolder folder_;
  const std::string file_;
  Lines lines_;
  std::unique_ptr<TestDaemon> daemon_;
};

INSTANTIATE_TEST_SUITE_P(Transports, WeightSourceTest, ::testing::Bool(), [](const auto& info) {
  return info.param ? "SharedMemory" : "Streaming";
});

TEST_P(WeightSourceTest, ReadsWhatTheFileHas) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  EXPECT_TRUE(source->attached());
  EXPECT_EQ(source->manifest().tensors_size(), 2);
  EXPECT_EQ(source->manifest().architecture(), "llama");
  EXPECT_EQ(source->MappedShard(0) != nullptr, shared_memory());
  EXPECT_EQ(source->MappedShard(1), nullptr);
  if (shared_memory()) {
    EXPECT_EQ(std::memcmp(source->MappedShard(0), file_.data(), file_.size()), 0);
  }
  EXPECT_TRUE(ReadAndCompare(*source, 0, file_.size(), file_).ok());
  EXPECT_TRUE(ReadAndCompare(*source, 12345, 1, file_).ok());
  EXPECT_TRUE(ReadAndCompare(*source, file_.size(), 0, file_).ok());
  EXPECT_EQ(source->bytes_received(), shared_memory() ? 0 : file_.size() + 1);
  EXPECT_TRUE(source->CheckIntact().ok());
}

TEST_P(WeightSourceTest, KeepsTheDescriptorsOfItsShards) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->ShardDescriptor(1), -1);
  const int descriptor = source->ShardDescriptor(0);
  if (!shared_memory()) {
    EXPECT_EQ(descriptor, -1);
    return;
  }
  daemon_->Stop();  // and with it the daemon's own descriptor
  EXPECT_EQ(source->ShardDescriptor(0), descriptor);
  std::string read(5000, '?');
  ASSERT_EQ(pread(descriptor, read.data(), read.size(), 777), 5000);
  EXPECT_TRUE(read == file_.substr(777, 5000));
  EXPECT_EQ(fcntl(descriptor, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(fcntl(descriptor, F_GETFD), FD_CLOEXEC);
}

TEST_P(WeightSourceTest, ManyReadsAtOnceEndInOrder) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  constexpr int kReads = 1500;  // more than a stream takes at once
  std::vector<uint8_t> memory(kReads * 1000);
  absl::Mutex mutex;
  std::vector<int> order;
  for (int i = 0; i < kReads; ++i) {
    source->ReadAsync({{0, static_cast<uint64_t>(i) * 777, 400, &memory[i * 1000]},
                       {0, static_cast<uint64_t>(i) * 333, 600, &memory[i * 1000 + 400]}},
                      Soon(), [&, i](absl::Status status) {
                        EXPECT_TRUE(status.ok()) << status;
                        absl::MutexLock lock(&mutex);
                        order.push_back(i);
                      });
  }
  absl::MutexLock lock(&mutex);
  const auto all = [&] { return order.size() == kReads; };
  ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&all), absl::Seconds(60)));
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  for (int i = 0; i < kReads; ++i) {
    EXPECT_EQ(std::memcmp(&memory[i * 1000], &file_[i * 777], 400), 0);
    EXPECT_EQ(std::memcmp(&memory[i * 1000 + 400], &file_[i * 333], 600), 0);
  }
}

TEST_P(WeightSourceTest, Case33_RefusesRangesOutsideTheFile) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  uint8_t byte;
  const uint64_t bad[][3] = {
      {0, file_.size(), 1}, {0, UINT64_MAX, 2}, {0, 2, UINT64_MAX - 1}, {1, 0, 1}};
  for (const auto& [shard, offset, bytes] : bad) {
    EXPECT_TRUE(absl::IsOutOfRange(
        source->Read({{static_cast<uint32_t>(shard), offset, bytes, &byte}}, Soon())));
  }
}

TEST_P(WeightSourceTest, UnknownModelsAreNotFound) {
  EXPECT_TRUE(
      absl::IsNotFound(WeightSource::Attach({.address = shared_memory() ? daemon_->unix_address()
                                                                        : daemon_->tcp_address(),
                                             .model = "nobody"})
                           .status()));
}

TEST_P(WeightSourceTest, GivesUpWithoutADaemon) {
  daemon_->Stop();
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      WeightSource::Attach(
          {.address = shared_memory() ? daemon_->unix_address() : daemon_->tcp_address(),
           .model = "m",
           .attach_timeout = absl::Milliseconds(100)})
          .status()));
}

TEST_P(WeightSourceTest, Case28_TruncationIsDataLoss) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  ASSERT_TRUE(ReadAndCompare(*source, 0, 5000, file_).ok());
  folder_.Truncate("m.gguf", 4096);
  EXPECT_TRUE(absl::IsDataLoss(ReadAndCompare(*source, 1 << 20, 1 << 20, file_)));
  EXPECT_TRUE(Eventually([&] { return absl::IsDataLoss(source->CheckIntact()); }));
  if (shared_memory()) {
    EXPECT_EQ(source->MappedShard(0)[2 << 20], 0);  // and this process lives
  }
}

TEST_P(WeightSourceTest, Case29_GoesOnWithItsGenerationAfterAReplacement) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  Replace(TwoTensorModel(kLarge, 99));
  ASSERT_TRUE(daemon_->daemon().store().Load("m", "").ok());
  EXPECT_TRUE(ReadAndCompare(*source, 1 << 20, 3 << 20, file_).ok());
  EXPECT_TRUE(Eventually([this] { return lines_.Count("has a new generation") == 1; }));
  EXPECT_TRUE(source->CheckIntact().ok());
}

TEST_P(WeightSourceTest, ReattachesToARestartedDaemon) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  for (int i = 0; i < 2; ++i) {
    daemon_->Stop();
    EXPECT_TRUE(Eventually([&] { return !source->attached(); }));
    if (shared_memory()) {
      EXPECT_TRUE(ReadAndCompare(*source, 1000, 1 << 20, file_).ok());
    }
    // A streaming source's read waits for the daemon.
    std::string read(1 << 20, '?');
    absl::Notification done;
    source->ReadAsync({{0, 4321, read.size(), reinterpret_cast<uint8_t*>(read.data())}}, Soon(),
                      [&](absl::Status status) {
                        EXPECT_TRUE(status.ok()) << status;
                        done.Notify();
                      });
    daemon_->Start();
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(60)));
    EXPECT_TRUE(read == file_.substr(4321, read.size()));
    EXPECT_TRUE(Eventually([&] { return source->attached(); }));
    // One line a change.
    EXPECT_TRUE(Eventually([&] { return lines_.Count("again") == 2 * (i + 1); }));
  }
}

TEST_P(WeightSourceTest, ANewDaemonWithAnotherGenerationIsNotUsed) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  daemon_->Stop();
  Replace(TwoTensorModel(kLarge, 99));
  daemon_->Start();
  EXPECT_TRUE(Eventually([this] { return lines_.Count("FAILED_PRECONDITION") == 1; }));
  EXPECT_FALSE(source->attached());
  const absl::Status status = ReadAndCompare(*source, 1 << 20, 1 << 20, file_);
  if (shared_memory()) {
    EXPECT_TRUE(status.ok()) << status;
  } else {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
  EXPECT_EQ(lines_.Count("FAILED_PRECONDITION"), 1);
}

TEST_P(WeightSourceTest, LetsItsLeaseGo) {
  auto source = Attach();
  ASSERT_TRUE(Eventually([this] {
    const auto sessions = daemon_->Sessions();
    return sessions.size() == 1 && sessions[0].peer() == "tester";
  }));
  source.reset();
  EXPECT_TRUE(Eventually([this] { return daemon_->Sessions().empty(); }));
}

TEST_P(WeightSourceTest, DestructionCancelsReads) {
  auto source = Attach();
  ASSERT_NE(source, nullptr);
  if (!shared_memory()) daemon_->Stop();
  std::vector<uint8_t> memory(file_.size());
  std::atomic<int> ended = 0;
  for (int i = 0; i < 20; ++i) {
    source->ReadAsync({{0, 0, memory.size(), memory.data()}}, Soon(), [&](absl::Status status) {
      EXPECT_TRUE(status.ok() || absl::IsCancelled(status)) << status;
      ++ended;
    });
  }
  source.reset();
  EXPECT_EQ(ended, 20);
}

TEST_P(WeightSourceTest, ReadsEndAtTheirDeadline) {
  const auto source = Attach();
  ASSERT_NE(source, nullptr);
  if (!shared_memory()) daemon_->Stop();
  std::vector<uint8_t> memory(file_.size());
  const absl::Time deadline =
      shared_memory() ? absl::InfinitePast() : absl::Now() + absl::Milliseconds(50);
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(source->Read({{0, 0, memory.size(), memory.data()}}, deadline)));
}

// ---------------------------------------------------------------------------------------------
// A daemon that lies.

class LyingService final : public v1::WeightService::Service {
 public:
  // Changes a chunk before it is sent; `number` counts all chunks from 0. Returning false ends the
  // stream instead.
  std::function<bool(int number, v1::StreamChunk& chunk)> tamper = [](int, v1::StreamChunk&) {
    return true;
  };
  std::function<void(v1::Manifest&)> tamper_manifest = [](v1::Manifest&) {};
  // A stream ends after so many reads.
  int reads_per_stream = std::numeric_limits<int>::max();
  std::string data = gguf::GgufBuilder::Pattern(1 << 20);
  std::atomic<int> chunks = 0;

  grpc::Status Attach(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::AttachResponse, v1::AttachRequest>* stream) override {
    v1::AttachRequest request;
    stream->Read(&request);
    v1::Manifest manifest;
    manifest.set_name("m");
    manifest.set_generation(5);
    manifest.add_shards()->set_bytes(data.size());
    tamper_manifest(manifest);
    const std::string serialized = manifest.SerializeAsString();
    v1::AttachResponse response;
    response.mutable_started()->set_generation(5);
    if (request.start().generation() == 0) {
      response.mutable_started()->set_manifest_bytes(serialized.size());
    }
    stream->Write(response);
    if (request.start().generation() == 0) {
      response.mutable_manifest()->set_data(serialized);
      response.mutable_manifest()->set_last(true);
      stream->Write(response);
    }
    while (stream->Read(&request)) {
    }
    return grpc::Status::OK;
  }

  grpc::Status StreamBlocks(grpc::ServerContext*,
                            grpc::ServerReaderWriter<v1::StreamBlocksResponse,
                                                     v1::StreamBlocksRequest>* stream) override {
    v1::StreamBlocksRequest request;
    v1::StreamBlocksResponse response;
    int reads = 0;
    while (stream->Read(&request)) {
      if (!request.has_read()) continue;
      if (reads++ == reads_per_stream) {
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
      }
      const v1::ByteRange& range = request.read().range();
      for (uint64_t at = 0; at < range.bytes(); at += 100000) {
        v1::StreamChunk& chunk = *response.mutable_chunk();
        chunk.set_read_id(request.read().read_id());
        chunk.set_offset(range.offset() + at);
        chunk.set_data(
            data.substr(range.offset() + at, std::min<uint64_t>(100000, range.bytes() - at)));
        chunk.set_last(at + 100000 >= range.bytes());
        chunk.set_xxh64(XXH64(chunk.data().data(), chunk.data().size(), 0));
        if (!tamper(chunks++, chunk)) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone");
        if (!stream->Write(response)) return grpc::Status::CANCELLED;
      }
    }
    return grpc::Status::OK;
  }
};

class LyingDaemonTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<WeightSource>> Attach() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    return WeightSource::Attach({.address = absl::StrCat("127.0.0.1:", port),
                                 .model = "m",
                                 .attach_timeout = absl::Seconds(30),
                                 .log = lines_.Sink()});
  }
  absl::Status ReadAll(WeightSource& source, absl::Time deadline = Soon()) {
    std::string read(service_.data.size(), '?');
    const absl::Status status =
        source.Read({{0, 0, read.size(), reinterpret_cast<uint8_t*>(read.data())}}, deadline);
    if (status.ok()) {
      EXPECT_TRUE(read == service_.data);
    }
    return status;
  }

  Lines lines_;
  LyingService service_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(LyingDaemonTest, AWrongChecksumIsReadOnceMore) {
  service_.tamper = [](int number, v1::StreamChunk& chunk) {
    if (number == 3) (*chunk.mutable_data())[17] ^= 1;
    return true;
  };
  const auto source = Attach();
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_TRUE(ReadAll(**source).ok());
  EXPECT_EQ(service_.chunks, 12);
  EXPECT_EQ(lines_.Count("wrong checksum"), 1);
}

TEST_F(LyingDaemonTest, AWrongChecksumTwiceIsDataLoss) {
  service_.tamper = [](int, v1::StreamChunk& chunk) {
    if (chunk.offset() == 300000) (*chunk.mutable_data())[17] ^= 1;
    return true;
  };
  const auto source = Attach();
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE(absl::IsDataLoss(ReadAll(**source)));
}

TEST_F(LyingDaemonTest, ABrokenStreamIsResumedWhereItBroke) {
  service_.tamper = [](int number, v1::StreamChunk& chunk) {
    if (number == 4) {
      EXPECT_EQ(chunk.offset(), 400000u);
      return false;
    }
    if (number == 5) {
      EXPECT_EQ(chunk.offset(), 400000u);
    }
    return true;
  };
  const auto source = Attach();
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE(ReadAll(**source).ok());
  EXPECT_EQ(service_.chunks, 12);
}

// As a daemon that is told to stop does it: what was asked for before is still sent, and what the
// client writes meanwhile fails.
TEST_F(LyingDaemonTest, Case41_AStreamThatEndsAmongReadsIsResumed) {
  service_.reads_per_stream = 4;
  const auto source = Attach();
  ASSERT_TRUE(source.ok());
  constexpr uint64_t kPiece = 16 << 10;
  for (int round = 0; round < 5; ++round) {
    std::string read(service_.data.size(), '?');
    absl::BlockingCounter left(static_cast<int>(read.size() / kPiece));
    for (uint64_t at = 0; at < read.size(); at += kPiece) {
      (*source)->ReadAsync({{0, at, kPiece, reinterpret_cast<uint8_t*>(read.data()) + at}}, Soon(),
                           [&](const absl::Status& status) {
                             EXPECT_TRUE(status.ok()) << status;
                             left.DecrementCount();
                           });
    }
    left.Wait();
    ASSERT_TRUE(read == service_.data);
  }
}

TEST_F(LyingDaemonTest, ChunksNobodyAskedForAreNotStored) {
  std::vector<std::function<void(v1::StreamChunk&)>> lies = {
      [](v1::StreamChunk& chunk) { chunk.set_offset(UINT64_MAX); },
      [](v1::StreamChunk& chunk) { chunk.set_read_id(99); },
      [](v1::StreamChunk& chunk) { chunk.mutable_data()->resize(3 << 20); },
      [](v1::StreamChunk& chunk) { chunk.clear_data(); },
      [](v1::StreamChunk& chunk) { chunk.set_last(!chunk.last()); },
  };
  service_.tamper = [&](int number, v1::StreamChunk& chunk) {
    // Every second stream is honest for a chunk, then lies.
    if (number % 2 == 1 && static_cast<size_t>(number / 2) < lies.size()) lies[number / 2](chunk);
    return true;
  };
  const auto source = Attach();
  ASSERT_TRUE(source.ok());
  EXPECT_TRUE(ReadAll(**source).ok());
}

TEST_F(LyingDaemonTest, AManifestThatLeavesItsFileIsRefused) {
  service_.tamper_manifest = [](v1::Manifest& manifest) {
    v1::TensorInfo& tensor = *manifest.add_tensors();
    tensor.set_name("evil");
    tensor.add_dimensions(1);
    tensor.set_offset(UINT64_MAX);
    tensor.set_bytes(2);
  };
  const auto source = Attach();
  EXPECT_TRUE(absl::IsFailedPrecondition(source.status()));
  EXPECT_THAT(source.status().ToString(), HasSubstr("evil"));
}

}  // namespace
}  // namespace gguf_offload
