#include "weightd/shm/ticket_book.h"

#include <gtest/gtest.h>

#include <set>

namespace gguf_offload::shm {
namespace {

Handoff Demo() { return {{7}, nullptr, "demo"}; }

TEST(TicketBook, ATicketIsWorthItsHandoffOnce) {
  TicketBook book;
  const auto ticket = book.Issue(Demo());
  ASSERT_TRUE(ticket.ok());
  const auto handoff = book.Redeem(*ticket);
  ASSERT_TRUE(handoff.has_value());
  EXPECT_EQ(handoff->model, "demo");
  EXPECT_EQ(handoff->descriptors, std::vector<int>{7});
  EXPECT_FALSE(book.Redeem(*ticket).has_value());
}

TEST(TicketBook, UnknownAndRevokedTicketsAreWorthNothing) {
  TicketBook book;
  EXPECT_FALSE(book.Redeem(Ticket{}).has_value());
  const auto ticket = book.Issue(Demo());
  Ticket other = *ticket;
  other[0] ^= 1;
  EXPECT_FALSE(book.Redeem(other).has_value());
  book.Revoke(*ticket);
  EXPECT_FALSE(book.Redeem(*ticket).has_value());
}

TEST(TicketBook, TicketsExpireAndLetGo) {
  absl::Time now = absl::FromUnixSeconds(1000);
  TicketBook book([&now] { return now; });
  auto owner = std::make_shared<int>(1);
  const auto ticket = book.Issue({{}, owner, "demo"});
  EXPECT_EQ(owner.use_count(), 2);
  now += TicketBook::kLifetime - absl::Seconds(1);
  EXPECT_EQ(book.size(), 1u);
  now += absl::Seconds(1);
  EXPECT_FALSE(book.Redeem(*ticket).has_value());
  EXPECT_EQ(owner.use_count(), 1);
}

TEST(TicketBook, TheirNumberIsBounded) {
  TicketBook book;
  std::set<Ticket> seen;
  for (size_t i = 0; i < TicketBook::kMaxTickets; ++i) {
    const auto ticket = book.Issue({});
    ASSERT_TRUE(ticket.ok());
    seen.insert(*ticket);
  }
  EXPECT_EQ(seen.size(), TicketBook::kMaxTickets);
  EXPECT_TRUE(absl::IsResourceExhausted(book.Issue({}).status()));
}

}  // namespace
}  // namespace gguf_offload::shm
