// One request while the session has it: its tokens, its place in the KV cache, its answers.
//
// Belongs to the session's thread, but for what is said otherwise.
#ifndef COMPUTED_SESSION_SEQUENCE_H_
#define COMPUTED_SESSION_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "computed/sampler/sampler.h"
#include "computed/session/forward_pass.h"
#include "computed/session/request.h"
#include "computed/session/session_events.h"
#include "computed/tokenizer/text_stream.h"
#include "computed/tokenizer/tokenizer.h"

namespace gguf_offload {

class Sequence {
 public:
  // `tokenizer` may be null: then there is no text, and no end-of-text token. `events` must outlive
  // the sequence.
  static absl::StatusOr<std::unique_ptr<Sequence>> Create(
      uint64_t id, Request request, std::shared_ptr<RequestObserver> observer,
      const Tokenizer* tokenizer, SessionEvents& events = SessionEvents::Nobody());

  uint64_t id() const { return id_; }
  const Request& request() const { return request_; }
  RequestObserver& observer() { return *observer_; }

  // Tokens known so far: the prompt, then what was generated.
  std::span<const int32_t> tokens() const { return tokens_; }
  // How many of them are in the KV cache.
  int processed() const { return processed_; }
  int remaining() const { return static_cast<int>(tokens_.size()) - processed_; }
  bool in_prompt() const { return processed_ < static_cast<int>(request_.prompt.size()); }
  int generated() const { return static_cast<int>(tokens_.size() - request_.prompt.size()); }

  // Whether the logits of the token at `position` are wanted.
  bool WantsLogits(int position) const;
  // Whether the logits themselves are, not just the token with the largest one.
  bool WantsLogitValues() const;
  // Takes the logits of the token at `position`: chooses the next token or passes them on. May
  // change them, and end the sequence. Where no token can be chosen, the sequence takes no part in
  // steps from then on, until somebody ends it.
  void TakeLogits(int position, const RowLogits& row);
  // The position whose logits were of no use.
  std::optional<int> unusable_position() const { return unusable_position_; }
  // `rows` more tokens are in the KV cache now. May end the sequence.
  void Advance(int rows);

  // The sequence is over, with `status`; the first call counts.
  void End(absl::Status status);
  bool ended() const { return end_status_.has_value(); }
  // Tells the observer. Once, after End.
  void Report();

  // For the session to use as it likes, under its lock.
  std::vector<int32_t> pages;  // of the KV cache, from admission on
  absl::Time submitted;
  absl::Time admitted = absl::InfiniteFuture();
  absl::Time last_progress;   // when the observer was last ready
  absl::Status abandoned;     // why somebody wants it to end, if somebody does
  int64_t unusable_step = 0;  // which step gave logits of no use; 0: none
  // Copies of processed() and generated() that other threads may read.
  struct {
    int processed = 0;
    int generated = 0;
  } published;

 private:
  Sequence(uint64_t id, Request request, std::shared_ptr<RequestObserver> observer, Sampler sampler,
           const Tokenizer* tokenizer, SessionEvents& events);
  void AppendToken(int32_t token, std::span<const float> logits);

  const uint64_t id_;
  const Request request_;
  const std::shared_ptr<RequestObserver> observer_;
  const Tokenizer* const tokenizer_;
  SessionEvents& events_;
  Sampler sampler_;
  std::optional<TextStream> text_;
  std::vector<int32_t> tokens_;
  int processed_ = 0;
  std::optional<int> unusable_position_;
  std::optional<absl::Status> end_status_;
  FinishReason finish_reason_ = FinishReason::kNone;
  int ended_by_token_ = 0;  // 1 if the last token is the end of the text, which is not counted
  absl::Time first_token_ = absl::InfiniteFuture();
  absl::Time last_token_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_SESSION_SEQUENCE_H_
