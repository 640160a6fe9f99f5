// The CUDA runtime's functions for the emulator: host memory for device memory, a thread for each
// stream, events, captured graphs. Only what the project calls.
#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace cuda_emulator {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kMemory = size_t{8} << 30;

struct Shared {
  std::mutex mutex;
  std::map<uintptr_t, size_t> device;      // allocations
  std::map<uintptr_t, size_t> registered;  // host memory
  size_t device_bytes = 0;
};
Shared& shared() {
  static Shared* const instance = new Shared;
  return *instance;
}

// One recording of an event.
struct Recording {
  std::mutex mutex;
  std::condition_variable done_changed;
  bool done = false;
  Clock::time_point when;

  void Finish() {
    std::lock_guard lock(mutex);
    when = Clock::now();
    done = true;
    done_changed.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex);
    done_changed.wait(lock, [this] { return done; });
  }
};

// What was captured: the work of a stream, and of those that waited for its events (lanes).
struct Graph {
  struct Node {
    int lane = 0;
    std::function<void()> work;
    int records = -1;  // the recording that this finishes
    int waits = -1;    // the recording that this waits for
  };
  std::vector<Node> nodes;
  int lanes = 0;
  int recordings = 0;

  // Whether what other lanes have done is waited for by the first, directly or not.
  bool Joined() const {
    std::vector<bool> joined(lanes, false), awaited(recordings, false);
    joined[0] = true;
    for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
      if (node->records >= 0 && awaited[node->records]) joined[node->lane] = true;
      if (!joined[node->lane] && node->records < 0) return false;
      if (joined[node->lane] && node->waits >= 0) awaited[node->waits] = true;
    }
    return true;
  }
};

class Stream {
 public:
  explicit Stream(bool blocking) : blocking_(blocking), thread_([this] { Loop(); }) {}
  ~Stream() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  void Put(std::function<void()> work) {
    if (captured_ != nullptr) {
      captured_->nodes.push_back({.lane = lane_, .work = std::move(work)});
      return;
    }
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    changed_.notify_all();
  }
  void Synchronize() {
    auto recording = std::make_shared<Recording>();
    Put([recording] { recording->Finish(); });
    recording->Wait();
  }
  // Begins to take part in a capture, and ends it.
  void Capture(std::shared_ptr<Graph> graph) {
    lane_ = graph->lanes++;
    captured_ = std::move(graph);
  }
  std::shared_ptr<Graph> EndCapture() { return std::move(captured_); }
  const std::shared_ptr<Graph>& captured() const { return captured_; }
  bool capturing() const { return captured_ != nullptr; }
  int lane() const { return lane_; }
  // Work on the default stream waits for it.
  bool blocking() const { return blocking_; }

 private:
  void Loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      std::function<void()> work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      lock.lock();
    }
  }

  const bool blocking_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::shared_ptr<Graph> captured_;  // of the capturing thread
  int lane_ = 0;
  std::thread thread_;
};

Stream& Of(cudaStream_t stream) {
  static Stream* const default_stream = new Stream(true);
  return stream == nullptr ? *default_stream : *reinterpret_cast<Stream*>(stream);
}

// All streams that there are, but the default one.
std::mutex streams_mutex;
std::vector<Stream*> streams;
void SynchronizeAll(bool non_blocking_too) {
  std::lock_guard lock(streams_mutex);
  for (Stream* stream : streams) {
    if ((stream->blocking() || non_blocking_too) && !stream->capturing()) stream->Synchronize();
  }
  Of(cudaStream_t(nullptr)).Synchronize();
}

struct Event {
  std::mutex mutex;
  std::shared_ptr<Recording> last;
  // Where it was last recorded in a capture, if it was; of the capturing thread.
  std::weak_ptr<Graph> graph;
  int recording = -1;

  std::shared_ptr<Recording> Last() {
    std::lock_guard lock(mutex);
    return last;
  }
};
Event& Of(cudaEvent_t event) { return *reinterpret_cast<Event*>(event); }

// A graph that can be launched. Lanes but the first have streams of their own.
struct GraphExec {
  explicit GraphExec(const Graph& captured) : graph(captured) {
    for (int lane = 1; lane < graph.lanes; ++lane) {
      lanes.push_back(std::make_unique<Stream>(/*blocking=*/false));
    }
  }

  void Launch(Stream& first) {
    std::vector<std::shared_ptr<Recording>> recordings;
    for (int i = 0; i < graph.recordings; ++i) recordings.push_back(std::make_shared<Recording>());
    for (const Graph::Node& node : graph.nodes) {
      Stream& stream = node.lane == 0 ? first : *lanes[node.lane - 1];
      if (node.records >= 0) {
        stream.Put([recording = recordings[node.records]] { recording->Finish(); });
      } else if (node.waits >= 0) {
        stream.Put([recording = recordings[node.waits]] { recording->Wait(); });
      } else {
        stream.Put(node.work);
      }
    }
  }

  const Graph graph;
  std::vector<std::unique_ptr<Stream>> lanes;
};

// Whether [p, p + bytes) lies in one entry, or outside all.
bool InOne(const std::map<uintptr_t, size_t>& ranges, const void* p, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
  auto next = ranges.upper_bound(begin);
  if (next != ranges.begin()) {
    const auto& [start, size] = *std::prev(next);
    if (begin < start + size) return begin + bytes <= start + size;
  }
  return next == ranges.end() || begin + bytes <= next->first;
}

thread_local cudaError_t last_error = cudaSuccess;
cudaError_t Fail(cudaError_t error) { return last_error = error; }

cudaError_t CheckCopy(const void* to, const void* from, size_t bytes) {
  std::lock_guard lock(shared().mutex);
  for (const void* p : {to, from}) {
    if (!InOne(shared().registered, p, bytes) || !InOne(shared().device, p, bytes)) {
      return Fail(cudaErrorInvalidValue);
    }
  }
  return cudaSuccess;
}

cudaError_t Allocate(void** pointer, size_t bytes) {
  *pointer = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return *pointer == nullptr ? Fail(cudaErrorMemoryAllocation) : cudaSuccess;
}

}  // namespace

void LaunchOn(cudaStream_t stream, std::function<void()> grid) { Of(stream).Put(std::move(grid)); }

}  // namespace cuda_emulator

using namespace cuda_emulator;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  std::memset(properties, 0, sizeof(*properties));
  std::strcpy(properties->name, "emulated GPU");
  properties->multiProcessorCount = 4;
  properties->l2CacheSize = 1 << 20;
  properties->major = 9;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = 227 << 10;
      break;
    default:
      *value = 1;
  }
  return cudaSuccess;
}
// How often the host has waited for the device.
std::atomic<int64_t> host_waits = 0;
extern "C" int64_t CudaEmulatorHostWaits() { return host_waits; }

cudaError_t cudaDeviceSynchronize() {
  ++host_waits;
  SynchronizeAll(true);
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess                 ? "no error"
         : error == cudaErrorInvalidValue     ? "invalid argument"
         : error == cudaErrorMemoryAllocation ? "out of memory"
                                              : "an error";
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  std::lock_guard lock(shared().mutex);
  *total = kMemory;
  *free = kMemory - shared().device_bytes;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  {
    std::lock_guard lock(shared().mutex);
    if (bytes > kMemory - shared().device_bytes) return Fail(cudaErrorMemoryAllocation);
  }
  const cudaError_t error = Allocate(pointer, bytes);
  if (error != cudaSuccess) return error;
  std::memset(*pointer, 0xff, bytes);  // NaN
  std::lock_guard lock(shared().mutex);
  shared().device[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  shared().device_bytes += bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  {
    std::lock_guard lock(shared().mutex);
    const auto found = shared().device.find(reinterpret_cast<uintptr_t>(pointer));
    if (found == shared().device.end()) return Fail(cudaErrorInvalidValue);
    shared().device_bytes -= found->second;
    shared().device.erase(found);
  }
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int flags) {
  return Allocate(pointer, bytes);
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned int flags) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned int flags) {
  std::lock_guard lock(shared().mutex);
  const uintptr_t begin = reinterpret_cast<uintptr_t>(pointer);
  const auto next = shared().registered.lower_bound(begin);
  if (next != shared().registered.end() && next->first < begin + bytes) {
    return Fail(cudaErrorHostMemoryAlreadyRegistered);
  }
  shared().registered[begin] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* pointer) {
  std::lock_guard lock(shared().mutex);
  return shared().registered.erase(reinterpret_cast<uintptr_t>(pointer)) == 1
             ? cudaSuccess
             : Fail(cudaErrorInvalidValue);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const cudaError_t error = CheckCopy(to, from, bytes); error != cudaSuccess) return error;
  Of(stream).Put([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  ++host_waits;
  if (const cudaError_t error = CheckCopy(to, from, bytes); error != cudaSuccess) return error;
  SynchronizeAll(false);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Of(stream).Put([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  ++host_waits;
  SynchronizeAll(false);
  std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  auto* const created = new Stream((flags & cudaStreamNonBlocking) == 0);
  *stream = reinterpret_cast<cudaStream_t>(created);
  std::lock_guard lock(streams_mutex);
  streams.push_back(created);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int priority) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    std::lock_guard lock(streams_mutex);
    std::erase(streams, &Of(stream));
  }
  delete &Of(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (Of(stream).capturing()) return Fail(cudaErrorStreamCaptureUnsupported);
  ++host_waits;
  Of(stream).Synchronize();
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  if (Of(event).recording >= 0) {
    // Recorded in a capture, in which the stream takes part from here on.
    const std::shared_ptr<Graph> graph = Of(event).graph.lock();
    if (graph == nullptr || (Of(stream).capturing() && Of(stream).captured() != graph)) {
      return Fail(cudaErrorStreamCaptureIsolation);
    }
    if (!Of(stream).capturing()) Of(stream).Capture(graph);
    graph->nodes.push_back({.lane = Of(stream).lane(), .waits = Of(event).recording});
    return cudaSuccess;
  }
  if (Of(stream).capturing()) return Fail(cudaErrorStreamCaptureIsolation);
  if (std::shared_ptr<Recording> last = Of(event).Last()) {
    Of(stream).Put([last] { last->Wait(); });
  }
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Of(stream).Put([=] { function(data); });
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new Event);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete &Of(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const std::shared_ptr<Graph>& graph = Of(stream).captured(); graph != nullptr) {
    Of(event).graph = graph;
    Of(event).recording = graph->recordings++;
    graph->nodes.push_back({.lane = Of(stream).lane(), .records = Of(event).recording});
    return cudaSuccess;
  }
  Of(event).recording = -1;
  auto recording = std::make_shared<Recording>();
  {
    std::lock_guard lock(Of(event).mutex);
    Of(event).last = recording;
  }
  Of(stream).Put([recording] { recording->Finish(); });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++host_waits;
  if (std::shared_ptr<Recording> last = Of(event).Last()) last->Wait();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::shared_ptr<Recording> last = Of(event).Last();
  if (last == nullptr) return cudaSuccess;
  std::lock_guard lock(last->mutex);
  return last->done ? cudaSuccess : Fail(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  std::shared_ptr<Recording> from = Of(start).Last(), to = Of(end).Last();
  if (from == nullptr || to == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  for (Recording* recording : {from.get(), to.get()}) {
    std::lock_guard lock(recording->mutex);
    if (!recording->done) return Fail(cudaErrorNotReady);
  }
  *milliseconds = std::chrono::duration<float, std::milli>(to->when - from->when).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Of(stream).Capture(std::make_shared<Graph>());
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::shared_ptr<Graph> captured = Of(stream).EndCapture();
  {
    std::lock_guard lock(streams_mutex);
    for (Stream* other : streams) {
      if (other->captured() == captured) other->EndCapture();
    }
  }
  *graph = nullptr;
  if (!captured->Joined()) return Fail(cudaErrorStreamCaptureUnjoined);
  *graph = reinterpret_cast<cudaGraph_t>(new Graph(*captured));
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new GraphExec(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<GraphExec*>(executable);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  reinterpret_cast<GraphExec*>(executable)->Launch(Of(stream));
  return cudaSuccess;
}

}  // extern "C"
