// SPDX-License-Identifier: Apache-2.0
// R2 at a replica: which connection may touch it now. A state machine without lock, wait or file.
//
//   opener (higher key)                     fence                       requests under the old key
//     announce(key) ───────────────▶ gate closes at once ──────────▶ admit: no (ESHUTDOWN)
//     next(key) = wait  ◀─────────── in flight > 0                    … retire, the last one wakes the opener
//     next(key) = persist ◀───────── drained, the epoch rose
//       (epoch made durable)
//     persisted() ; next(key) = joined ◀── gate opens with a new ticket
//
// Invariants: the highest announced key never falls; a request is in flight only under the ticket of the key that was
// current when it was admitted; while a request of a lower key is in flight no higher key has a ticket and no higher
// epoch is durable. The key is (epoch, session), see engine_types.hpp for why the session is in it.
//
// Thread rule: admission_gate is lock-free, from any thread; fence belongs under its owner's lock, which the owner must
// not hold while it waits or makes an epoch durable.
#pragma once

#include <atomic>
#include <compare>
#include <cstdint>

namespace weft::core {

struct fence_key {
    std::uint64_t epoch = 0;
    std::uint64_t session = 0;
    friend auto operator<=>(const fence_key&, const fence_key&) = default;
};

/// Counts admitted requests and knows the one ticket that is admitted now: one atomic word, ticket << 32 | count.
class admission_gate {
public:
    using ticket = std::uint32_t;  // 0: closed, admits nobody

    /// True: the caller is counted and must call retire. False: fenced.
    [[nodiscard]] bool admit(ticket t) noexcept;
    /// True: the gate is closed and this was the last request; wake whoever drains.
    [[nodiscard]] bool retire() noexcept;
    /// Admit nobody from now on. Those inside go on.
    void close() noexcept;
    /// Admit the holders of a new ticket. Precondition: closed and drained.
    ticket open();
    [[nodiscard]] bool is_drained() const noexcept;

private:
    std::atomic<std::uint64_t> word_{0};
    ticket last_ = 0;  // under the owner's lock
};

enum class fence_verdict : std::uint8_t {
    joined,   // use the ticket
    stale,    // a higher key is known: nothing will ever be admitted
    wait,     // ask again when the gate drained, an epoch became durable or another opener joined
    persist,  // make this epoch durable now, then call persisted (or broke), then ask again
    broken,   // an epoch could not be made durable: nobody is admitted any more
};

struct fence_step {
    fence_verdict verdict = fence_verdict::stale;
    admission_gate::ticket ticket = 0;  // of `joined`
};

class fence {
public:
    /// `known`: the durable epoch with the highest session that is remembered for it (0: none).
    explicit fence(fence_key known) noexcept : durable_epoch_(known.epoch), highest_(known) {}

    /// A connection with this key arrived; a higher one than all before fences those at once.
    void announce(fence_key key) noexcept;

    /// What the opener with this (announced) key has to do next. `persist` is told to one opener at a time.
    fence_step next(fence_key key);

    /// The epoch of the last `persist` is durable.
    void persisted();
    /// It is not, and may or may not be on the disk: the gate stays closed for good.
    void broke() noexcept;

    [[nodiscard]] fence_key highest() const noexcept { return highest_; }
    [[nodiscard]] std::uint64_t durable_epoch() const noexcept { return durable_epoch_; }
    /// The hot path, without the owner's lock.
    [[nodiscard]] admission_gate& gate() noexcept { return gate_; }

private:
    admission_gate gate_;
    std::uint64_t durable_epoch_;
    fence_key highest_;
    admission_gate::ticket ticket_ = 0;  // of highest_; 0: it has not joined yet
    std::uint64_t persisting_ = 0;       // the epoch that an opener makes durable now; 0: none does
    bool broken_ = false;
};

}  // namespace weft::core
