// StreamBlocks and Attach over a real server.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstdio>
#include <string>

#include "weightd/service/block_stream.h"
#include "weightd/service/testing/test_daemon.h"
#include "weightd/shm/receive.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload {
namespace {

using ::testing::HasSubstr;

constexpr size_t kLarge = 24 << 20;
using Stream = grpc::ClientReaderWriter<v1::StreamBlocksRequest, v1::StreamBlocksResponse>;
using AttachCall = grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>;

class StreamsTest : public ::testing::Test {
 protected:
  StreamsTest() : file_(TwoTensorModel(kLarge)) {
    folder_.Write("m.gguf", file_);
    Restart(absl::Seconds(60));
  }
  void Restart(absl::Duration stream_timeout) {
    daemon_ = std::make_unique<TestDaemon>(WeightDaemon::Options{
        .models = {{"m", folder_.Path("m.gguf")}}, .stream_timeout = stream_timeout});
  }

  std::unique_ptr<Stream> Open(grpc::ClientContext& context, uint64_t credit,
                               uint32_t chunk_bytes = 0, uint64_t generation = 0,
                               bool no_checksums = false) {
    auto stream = daemon_->weights().StreamBlocks(&context);
    v1::StreamBlocksRequest request;
    request.mutable_start()->set_model("m");
    request.mutable_start()->set_generation(generation);
    request.mutable_start()->set_chunk_bytes(chunk_bytes);
    request.mutable_start()->set_initial_credit(credit);
    request.mutable_start()->set_no_checksums(no_checksums);
    EXPECT_TRUE(stream->Write(request));
    return stream;
  }
  static void AskFor(Stream& stream, uint64_t id, uint64_t offset, uint64_t bytes,
                     uint32_t shard = 0) {
    v1::StreamBlocksRequest request;
    v1::StreamRead& read = *request.mutable_read();
    read.set_read_id(id);
    read.mutable_range()->set_shard(shard);
    read.mutable_range()->set_offset(offset);
    read.mutable_range()->set_bytes(bytes);
    stream.Write(request);
  }
  static void Grant(Stream& stream, uint64_t bytes) {
    v1::StreamBlocksRequest request;
    request.mutable_credit()->set_bytes(bytes);
    stream.Write(request);
  }
  grpc::Status EndOf(Stream& stream) {
    v1::StreamBlocksResponse response;
    while (stream.Read(&response)) {
    }
    return stream.Finish();
  }
  std::unique_ptr<AttachCall> Attach(grpc::ClientContext& context, v1::Transport transport,
                                     uint64_t generation = 0) {
    auto call = daemon_->weights().Attach(&context);
    v1::AttachRequest request;
    request.mutable_start()->set_model("m");
    request.mutable_start()->set_transport(transport);
    request.mutable_start()->set_worker("the-worker");
    request.mutable_start()->set_generation(generation);
    EXPECT_TRUE(call->Write(request));
    return call;
  }
  // Reads up to the first event that is not about populated bytes.
  static v1::AttachEvent NextEvent(AttachCall& call) {
    v1::AttachResponse response;
    while (call.Read(&response)) {
      if (response.has_event() && !response.event().has_populated_bytes()) return response.event();
    }
    return {};
  }
  bool NoSessions() {
    return Eventually([this] { return daemon_->Sessions().empty(); });
  }
  uint32_t Leases() {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    EXPECT_TRUE(daemon_->weights().ListModels(&context, {}, &response).ok());
    return response.models(0).leases();
  }

  store::TempFolder folder_;
  const std::string file_;
  std::unique_ptr<TestDaemon> daemon_;
};

TEST_F(StreamsTest, SendsChunksInOrderWithChecksums) {
  grpc::ClientContext context;
  const auto stream = Open(context, 64 << 20, 64 << 10);
  AskFor(*stream, 7, 100, 200000);
  AskFor(*stream, 5, 0, 1);
  AskFor(*stream, 9, file_.size(), 0);
  stream->WritesDone();
  v1::StreamBlocksResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.started().chunk_bytes(), 64u << 10);
  uint64_t at = 100;
  while (at < 200100) {
    ASSERT_TRUE(stream->Read(&response));
    const v1::StreamChunk& chunk = response.chunk();
    EXPECT_EQ(chunk.read_id(), 7u);
    EXPECT_EQ(chunk.offset(), at);
    EXPECT_TRUE(chunk.data() == file_.substr(at, chunk.data().size()));
    EXPECT_EQ(chunk.xxh64(), XXH64(chunk.data().data(), chunk.data().size(), 0));
    at += chunk.data().size();
    EXPECT_EQ(chunk.last(), at == 200100);
  }
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.chunk().read_id(), 5u);
  EXPECT_EQ(response.chunk().data(), "G");
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.chunk().read_id(), 9u);
  EXPECT_TRUE(response.chunk().last());
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(StreamsTest, NeverSendsMoreThanWasGranted) {
  grpc::ClientContext context;
  const auto stream = Open(context, 10000, 4096);
  AskFor(*stream, 1, 0, 1 << 20);
  v1::StreamBlocksResponse response;
  ASSERT_TRUE(stream->Read(&response));
  uint64_t received = 0;
  while (received < 10000 && stream->Read(&response)) received += response.chunk().data().size();
  EXPECT_EQ(received, 10000u);
  // Waiting for credit: everything granted is in flight and nothing more.
  ASSERT_TRUE(Eventually([&] { return daemon_->Sessions().size() == 1; }));
  v1::Session session = daemon_->Sessions()[0];
  EXPECT_EQ(session.kind(), "stream");
  EXPECT_EQ(session.bytes_sent(), 10000u);
  EXPECT_EQ(session.bytes_in_flight(), 10000u);
  Grant(*stream, 5000);
  while (received < 15000 && stream->Read(&response)) received += response.chunk().data().size();
  EXPECT_EQ(received, 15000u);
  session = daemon_->Sessions()[0];
  EXPECT_EQ(session.bytes_sent(), 15000u);
  EXPECT_EQ(session.bytes_in_flight(), 10000u);
  context.TryCancel();
  EndOf(*stream);
}

TEST_F(StreamsTest, Case33_RefusesRangesThatWrap) {
  const uint64_t size = file_.size();
  const uint64_t bad[][3] = {{0, size, 1},           {0, 1, size},      {0, UINT64_MAX, 2},
                             {0, 2, UINT64_MAX - 1}, {1, 0, 1},         {UINT32_MAX, 0, 1},
                             {0, size + 1, 0},       {0, UINT64_MAX, 0}};
  for (const auto& [shard, offset, bytes] : bad) {
    grpc::ClientContext context;
    const auto stream = Open(context, 1 << 20);
    AskFor(*stream, 1, offset, bytes, static_cast<uint32_t>(shard));
    EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << shard << " " << offset << " " << bytes;
  }
}

TEST_F(StreamsTest, RefusesWhatIsOutOfOrderOrOutOfBounds) {
  {
    grpc::ClientContext context;
    const auto stream = daemon_->weights().StreamBlocks(&context);
    AskFor(*stream, 1, 0, 1);
    EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  for (const uint32_t chunk_bytes : {1u, 4095u, (3u << 20) + 1, UINT32_MAX}) {
    grpc::ClientContext context;
    EXPECT_EQ(EndOf(*Open(context, 0, chunk_bytes)).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    grpc::ClientContext context;
    EXPECT_EQ(EndOf(*Open(context, kMaxCredit + 1)).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    grpc::ClientContext context;
    const auto stream = Open(context, kMaxCredit);
    Grant(*stream, UINT64_MAX);
    EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  {
    grpc::ClientContext context;
    const auto stream = Open(context, 0);
    for (size_t i = 0; i <= kMaxQueuedReads; ++i) AskFor(*stream, i, 0, 1);
    EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  {
    grpc::ClientContext context;
    EXPECT_EQ(EndOf(*Open(context, 0, 0, /*generation=*/12345)).error_code(),
              grpc::StatusCode::FAILED_PRECONDITION);
  }
  EXPECT_TRUE(NoSessions());
}

TEST_F(StreamsTest, Case28_TruncationEndsTheStreamWithDataLossAndTellsTheLease) {
  for (const bool no_checksums : {false, true}) {
    Restart(absl::Seconds(60));
    grpc::ClientContext attach_context;
    const auto call = Attach(attach_context, v1::TRANSPORT_STREAM);
    v1::AttachResponse attached;
    ASSERT_TRUE(call->Read(&attached));
    grpc::ClientContext context;
    const auto stream = Open(context, kMaxCredit, 0, 0, no_checksums);
    v1::StreamBlocksResponse response;
    ASSERT_TRUE(stream->Read(&response));
    folder_.Truncate("m.gguf", 1 << 20);
    AskFor(*stream, 1, 0, file_.size());
    EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::DATA_LOSS);
    EXPECT_TRUE(NextEvent(*call).has_data_loss());
    grpc::ClientContext again;
    EXPECT_EQ(EndOf(*Open(again, 0)).error_code(), grpc::StatusCode::DATA_LOSS);
    attach_context.TryCancel();
    folder_.Write("m.gguf", file_);
  }
}

TEST_F(StreamsTest, Case29_AReplacedFileServesOnForItsLease) {
  grpc::ClientContext attach_context;
  const auto call = Attach(attach_context, v1::TRANSPORT_STREAM);
  v1::AttachResponse attached;
  ASSERT_TRUE(call->Read(&attached));
  const uint64_t old_generation = attached.started().generation();

  const std::string other = TwoTensorModel(kLarge, 77);
  ASSERT_EQ(std::rename(folder_.Write("next", other).c_str(), folder_.Path("m.gguf").c_str()), 0);
  grpc::ClientContext load_context;
  v1::LoadModelRequest load;
  load.set_model("m");
  v1::LoadModelResponse loaded;
  ASSERT_TRUE(daemon_->weights().LoadModel(&load_context, load, &loaded).ok());
  EXPECT_NE(loaded.status().generation(), old_generation);
  EXPECT_EQ(NextEvent(*call).new_generation(), loaded.status().generation());

  for (const uint64_t generation : {old_generation, uint64_t{0}}) {
    grpc::ClientContext context;
    const auto stream = Open(context, 1 << 20, 0, generation);
    AskFor(*stream, 1, 5000, 1000);
    stream->WritesDone();
    v1::StreamBlocksResponse response;
    ASSERT_TRUE(stream->Read(&response));
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.chunk().data(),
              (generation == old_generation ? file_ : other).substr(5000, 1000));
    EXPECT_TRUE(EndOf(*stream).ok());
  }
  // With the lease goes the old generation.
  attach_context.TryCancel();
  ASSERT_TRUE(Eventually([this] { return Leases() == 0; }));
  grpc::ClientContext context;
  EXPECT_EQ(EndOf(*Open(context, 0, 0, old_generation)).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(StreamsTest, Case34_AClientThatStopsReadingIsBoundedAndThenEnded) {
  Restart(absl::Milliseconds(300));
  grpc::ClientContext context;
  const auto stream = Open(context, kMaxCredit);
  AskFor(*stream, 1, 0, file_.size());
  // Nothing is read here: what the daemon hands out is bounded by HTTP/2's window and two chunks,
  // and the stream ends by itself.
  uint64_t most = 0;
  ASSERT_TRUE(Eventually([&] {
    const auto sessions = daemon_->Sessions();
    for (const v1::Session& session : sessions) most = std::max(most, session.bytes_sent());
    return most > 0 && sessions.empty();
  }));
  EXPECT_LT(most, 8u << 20);
  EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(StreamsTest, Case34_AClientThatGrantsNoCreditIsEndedButAnIdleOneIsNot) {
  Restart(absl::Milliseconds(300));
  grpc::ClientContext idle_context, context;
  const auto idle = Open(idle_context, 1000);
  const auto stream = Open(context, 1000);
  AskFor(*stream, 1, 0, 1001);
  EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  AskFor(*idle, 1, 0, 1000);
  idle->WritesDone();
  EXPECT_TRUE(EndOf(*idle).ok());
}

TEST_F(StreamsTest, Case35_CancelInMidStreamFreesEverything) {
  grpc::ClientContext attach_context, context;
  const auto call = Attach(attach_context, v1::TRANSPORT_STREAM);
  const auto stream = Open(context, kMaxCredit);
  AskFor(*stream, 1, 0, file_.size());
  v1::StreamBlocksResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_TRUE(stream->Read(&response));
  v1::AttachResponse attached;
  ASSERT_TRUE(call->Read(&attached));
  EXPECT_EQ(Leases(), 1u);
  EXPECT_EQ(daemon_->Sessions().size(), 2u);
  context.TryCancel();
  attach_context.TryCancel();
  EXPECT_EQ(EndOf(*stream).error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(NoSessions());
  EXPECT_TRUE(Eventually([this] { return Leases() == 0; }));
  // The model's memory goes with the last who refers to it.
  const std::weak_ptr<const store::Model> model = *daemon_->daemon().store().Find("m");
  grpc::ClientContext unload_context;
  v1::UnloadModelRequest unload;
  unload.set_model("m");
  v1::UnloadModelResponse unloaded;
  ASSERT_TRUE(daemon_->weights().UnloadModel(&unload_context, unload, &unloaded).ok());
  EXPECT_EQ(unloaded.leases(), 0u);
  EXPECT_TRUE(Eventually([&] { return model.expired(); }));
}

TEST_F(StreamsTest, AttachSendsTheManifestAndATicket) {
  grpc::ClientContext context;
  const auto call = Attach(context, v1::TRANSPORT_SHARED_MEMORY);
  v1::AttachResponse response;
  ASSERT_TRUE(call->Read(&response));
  const v1::AttachStarted started = response.started();
  EXPECT_EQ(started.socket_path(), daemon_->socket_path());
  std::string serialized;
  do {
    ASSERT_TRUE(call->Read(&response));
    serialized += response.manifest().data();
  } while (!response.manifest().last());
  EXPECT_EQ(serialized.size(), started.manifest_bytes());
  v1::Manifest manifest;
  ASSERT_TRUE(manifest.ParseFromString(serialized));
  EXPECT_EQ(manifest.generation(), started.generation());
  ASSERT_EQ(manifest.shards_size(), 1);
  EXPECT_EQ(manifest.shards(0).bytes(), file_.size());
  EXPECT_EQ(manifest.tensors_size(), 2);

  const auto sessions = daemon_->Sessions();
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_EQ(sessions[0].id(), started.lease_id());
  EXPECT_EQ(sessions[0].kind(), "lease");
  EXPECT_EQ(sessions[0].peer(), "the-worker");
  EXPECT_EQ(sessions[0].transport(), "shared_memory");
  EXPECT_EQ(sessions[0].model(), "m");

  const absl::Time soon = absl::Now() + absl::Seconds(20);
  EXPECT_TRUE(shm::ReceiveDescriptors(started.socket_path(), started.ticket(), 1, soon).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(
      shm::ReceiveDescriptors(started.socket_path(), started.ticket(), 1, soon).status()));
  context.TryCancel();
}

TEST_F(StreamsTest, ATicketEndsWithItsLease) {
  grpc::ClientContext context;
  auto call = Attach(context, v1::TRANSPORT_SHARED_MEMORY);
  v1::AttachResponse response;
  ASSERT_TRUE(call->Read(&response));
  const v1::AttachStarted started = response.started();
  context.TryCancel();
  call.reset();
  EXPECT_TRUE(NoSessions());
  EXPECT_TRUE(
      absl::IsPermissionDenied(shm::ReceiveDescriptors(started.socket_path(), started.ticket(), 1,
                                                       absl::Now() + absl::Seconds(20))
                                   .status()));
}

TEST_F(StreamsTest, AttachFollowsHintsAndToleratesBadOnes) {
  grpc::ClientContext context;
  const auto call = Attach(context, v1::TRANSPORT_STREAM);
  v1::AttachResponse response;
  ASSERT_TRUE(call->Read(&response));
  const uint64_t ranges[][3] = {
      {0, 0, 4096}, {0, UINT64_MAX, UINT64_MAX}, {99, 0, 1}, {0, 4096, UINT64_MAX}};
  for (int i = 0; i < 3; ++i) {
    v1::AttachRequest request;
    for (const auto& [shard, offset, bytes] : ranges) {
      v1::ByteRange& range = *request.mutable_hint()->add_ranges();
      range.set_shard(static_cast<uint32_t>(shard));
      range.set_offset(offset);
      range.set_bytes(bytes);
    }
    EXPECT_TRUE(call->Write(request));
  }
  call->WritesDone();
  while (call->Read(&response)) {
  }
  EXPECT_TRUE(call->Finish().ok());
  EXPECT_TRUE(NoSessions());
}

TEST_F(StreamsTest, AttachRefusesBadRequests) {
  const auto attach = [&](const v1::AttachRequest& request) {
    grpc::ClientContext context;
    const auto call = daemon_->weights().Attach(&context);
    call->Write(request);
    v1::AttachResponse response;
    EXPECT_FALSE(call->Read(&response));
    return call->Finish().error_code();
  };
  v1::AttachRequest request;
  EXPECT_EQ(attach(request), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_start()->set_model("m");
  EXPECT_EQ(attach(request), grpc::StatusCode::INVALID_ARGUMENT);  // no transport
  request.mutable_start()->set_transport(v1::TRANSPORT_STREAM);
  request.mutable_start()->set_generation(5);
  EXPECT_EQ(attach(request), grpc::StatusCode::FAILED_PRECONDITION);
  request.mutable_start()->set_model("nobody");
  EXPECT_EQ(attach(request), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(NoSessions());
}

TEST_F(StreamsTest, UnloadingTellsTheWorkerToDrain) {
  grpc::ClientContext context;
  const auto call = Attach(context, v1::TRANSPORT_STREAM);
  v1::AttachResponse response;
  ASSERT_TRUE(call->Read(&response));
  grpc::ClientContext unload_context;
  v1::UnloadModelRequest unload;
  unload.set_model("m");
  v1::UnloadModelResponse unloaded;
  ASSERT_TRUE(daemon_->weights().UnloadModel(&unload_context, unload, &unloaded).ok());
  EXPECT_EQ(unloaded.leases(), 1u);
  EXPECT_THAT(NextEvent(*call).drain(), HasSubstr("unloaded"));
  context.TryCancel();
}

TEST_F(StreamsTest, Case41_DrainingEndsLeasesAndLetsReadsFinish) {
  grpc::ClientContext attach_context, context, idle_context;
  const auto call = Attach(attach_context, v1::TRANSPORT_STREAM);
  v1::AttachResponse attached;
  ASSERT_TRUE(call->Read(&attached));
  const auto idle = Open(idle_context, 1000);
  const auto stream = Open(context, kMaxCredit);
  AskFor(*stream, 1, 0, file_.size());
  v1::StreamBlocksResponse response;
  ASSERT_TRUE(idle->Read(&response));
  ASSERT_TRUE(stream->Read(&response));
  uint64_t received = 0;
  ASSERT_TRUE(stream->Read(&response));
  received += response.chunk().data().size();

  bool clean = false;
  std::thread stop([&] { clean = daemon_->daemon().daemon().Stop(absl::Seconds(60)); });
  EXPECT_THAT(NextEvent(*call).drain(), HasSubstr("stop"));
  EXPECT_EQ(call->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(EndOf(*idle).error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext late_context;
  v1::ListModelsResponse models;
  EXPECT_EQ(daemon_->weights().ListModels(&late_context, {}, &models).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  while (stream->Read(&response)) received += response.chunk().data().size();
  EXPECT_EQ(received, file_.size());
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  stop.join();
  EXPECT_TRUE(clean);
}

}  // namespace
}  // namespace gguf_offload
