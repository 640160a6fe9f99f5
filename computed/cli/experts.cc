// offloadctl experts: which experts a worker's tokens went to, and what its cache of them does.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/heat_map.h"
#include "computed/cli/output.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

// Characters of a row of the map.
constexpr int kColumns = 64;

std::string HitRate(uint64_t hits, uint64_t misses) {
  if (hits + misses == 0) return "-";
  return absl::StrFormat("%.1f %%", 100.0 * hits / (hits + misses));
}

struct Sums {
  uint64_t hits = 0, misses = 0, bytes = 0;

  void Add(uint64_t more_hits, uint64_t more_misses, uint64_t more_bytes) {
    hits += more_hits;
    misses += more_misses;
    bytes += more_bytes;
  }
  bool empty() const { return hits + misses == 0; }
  std::string ToString() const {
    return absl::StrFormat("hits %s of %d, fetched %s", HitRate(hits, misses), hits + misses,
                           HumanBytes(bytes));
  }
};

// Those of a cache in the host's memory are shown where there is one that has been used.
void PrintExperts(const v1::GetExpertActivityResponse& activity) {
  Sums gpu, host;
  uint64_t predicted = 0, used = 0, predicted_bytes = 0;
  for (const v1::ExpertLayer& layer : activity.layers()) {
    gpu.Add(layer.hits(), layer.misses(), layer.bytes_fetched());
    host.Add(layer.host_hits(), layer.host_misses(), layer.host_bytes_fetched());
    predicted += layer.predicted();
    used += layer.predicted_used();
    predicted_bytes += layer.predicted_bytes();
  }
  std::vector<absl::string_view> columns = {">LAYER", ">EXPERTS", ">SLOTS", ">HITS", ">FETCHED"};
  if (!host.empty()) columns.insert(columns.end(), {">HOST HITS", ">RECEIVED"});
  if (predicted > 0) columns.push_back(">PREDICTED");
  columns.push_back("USE");
  Table table(columns);
  for (const v1::ExpertLayer& layer : activity.layers()) {
    const bool cached = layer.slots() > 0;
    std::vector<std::string> row = {absl::StrCat(layer.layer()), absl::StrCat(layer.experts()),
                                    cached ? absl::StrCat(layer.slots()) : "-",
                                    HitRate(layer.hits(), layer.misses()),
                                    cached ? HumanBytes(layer.bytes_fetched()) : "-"};
    if (!host.empty()) {
      row.push_back(HitRate(layer.host_hits(), layer.host_misses()));
      row.push_back(HumanBytes(layer.host_bytes_fetched()));
    }
    if (predicted > 0) {
      row.push_back(HitRate(layer.predicted_used(), layer.predicted() - layer.predicted_used()));
    }
    row.push_back(ShadesOf({layer.uses().begin(), layer.uses().end()}, kColumns));
    table.Add(row);
  }
  Print(table.ToString());
  if (!gpu.empty()) Print(gpu.ToString() + "\n");
  if (!host.empty()) Print("in the host's memory: " + host.ToString() + "\n");
  if (predicted > 0) {
    Print(absl::StrFormat("predicted %d, of which %s were wanted, fetched %s early\n", predicted,
                          HitRate(used, predicted - used), HumanBytes(predicted_bytes)));
  }
}

absl::Status RunExperts(const Arguments& arguments) {
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  grpc::ClientContext context;
  v1::GetExpertActivityResponse activity;
  const grpc::Status status =
      v1::DiagnosticsService::NewStub(*channel)->GetExpertActivity(&context, {}, &activity);
  if (!status.ok()) return RpcError(status, address);
  if (arguments.Has("png")) {
    HeatRows rows;
    for (const v1::ExpertLayer& layer : activity.layers()) {
      rows.emplace_back(layer.uses().begin(), layer.uses().end());
    }
    return WriteHeatMap(rows, arguments.Text("png"));
  }
  if (arguments.Has("json")) {
    Print(ToJson(activity));
  } else {
    PrintExperts(activity);
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> ExpertCommands() {
  const Flag png = {"png", FlagKind::kText, "FILE",
                    "Writes a picture instead: a column an expert, a row a layer."};
  return {{"experts",
           "",
           0,
           "Shows which experts a worker's tokens went to, and what was cached of them.",
           {kWorkerFlag, png, kJsonFlag},
           RunExperts}};
}

}  // namespace gguf_offload::cli
