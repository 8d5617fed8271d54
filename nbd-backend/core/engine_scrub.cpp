// SPDX-License-Identifier: Apache-2.0
// Scrub: every replica that the record trusts is read and compared, chunk by chunk under the range lock, in the
// background. See engine_impl.hpp.
//
// A piece is read from one replica after the other. When all answer and are equal it is done. Else it is looked at once
// more, block by block, to find out which blocks differ and who is right:
//   - a replica that cannot read a block (a media error, or a checksum that its server found wrong) is wrong;
//   - among those that can, the value that more than half of them have is right;
//   - else nobody can know. The block is made equal to what reads have been answered with, the replica that reads
//   prefer,
//     and counted as undecided: two replicas that say different things are worse than one answer.
// The wrong ones are overwritten with the right bytes, and so is every replica that is being resynced: it may have the
// block from one of the wrong ones.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "nbd-backend/core/engine_impl.hpp"

namespace weft::core {

namespace {
constexpr std::uint32_t scrub_notes_max = 16;  // per scrub: a drive that rots must not flood the log
}

/// Begins the scrub that the policy asks for, if it is a new one.
void engine::impl::consider_scrub(actions& out) {
    if (state_ != engine_state::serving || config_.policy.scrub <= scrub_.serial || config_.legs) return;
    scrub_ = scrub_status{};
    scrub_.serial = config_.policy.scrub;
    scrub_.running = true;
    scrub_cursor_ = 0;
    scrub_notes_ = 0;
    for (copy& it : copies_)
        if (it.used && it.purpose == copy_purpose::scrub) it.cancelled = true;
    note(out, notice::level::info,
         fmt::format("scrub {} begins: {} bytes on each replica", scrub_.serial, config_.size_bytes));
}

/// One chunk at a time, when nothing more urgent is to be copied.
bool engine::impl::next_scrub(actions& out) {
    if (!scrub_.running || !may_copy_now()) return false;
    if (std::any_of(copies_.begin(), copies_.end(),
                    [](const copy& it) { return it.used && it.purpose == copy_purpose::scrub; }))
        return false;
    const std::uint64_t offset = scrub_cursor_ * config_.chunk_bytes;
    if (offset >= config_.size_bytes) {
        scrub_.running = false;
        scrub_.done_bytes = config_.size_bytes;
        const auto level = scrub_.undecided_bytes > 0   ? notice::level::error
                           : scrub_.differing_bytes > 0 ? notice::level::warning
                                                        : notice::level::info;
        note(out, level,
             fmt::format("scrub {} has ended: {} bytes differed, {} were repaired, for {} of these nothing told which "
                         "replica was right",
                         scrub_.serial, scrub_.differing_bytes, scrub_.repaired_bytes, scrub_.undecided_bytes));
        return false;
    }
    return start_copy(copy_purpose::scrub, 0, offset, chunk_length(scrub_cursor_), scrub_cursor_, out);
}

/// The claim is held and nothing of the copy is in flight: reads the piece from the next replica, or compares.
void engine::impl::continue_scrub(std::uint32_t index, actions& out) {
    copy& it = copies_[index];
    if (it.position == it.length) {
        end_copy(index, true, out);
        return;
    }
    scrub_step& step = it.scrub;
    if (step.asked == 0) {
        const std::uint64_t left = it.length - it.position;
        step.length = it.position < step.fine_until
                          ? static_cast<std::uint32_t>(block_bytes)
                          : static_cast<std::uint32_t>(std::min<std::uint64_t>(left, config_.piece_bytes));
        step.read = step.unreadable = 0;
    }
    const slot_mask left = required_slots() & static_cast<slot_mask>(~step.asked);
    if (left == 0) {
        compare(index, out);
        return;
    }
    slot_index from = 0;
    while ((left & bit(from)) == 0) ++from;
    step.asked |= bit(from);
    step.data[from].resize(config_.piece_bytes);
    const std::uint32_t fetch =
        new_job(op_kind::read, job_owner::copy, it.offset + it.position, step.length, step.data[from].data());
    jobs_[fetch].copy = index;
    jobs_[fetch].tried = static_cast<slot_mask>(~bit(from));
    run(fetch, out);
}

/// A job of the scrub has finished: one replica's bytes, or the repair of a piece.
void engine::impl::on_scrub_job(std::uint32_t index, const job& done, actions& /*out*/) {
    copy& it = copies_[index];
    scrub_step& step = it.scrub;
    if (done.kind == op_kind::read) {
        if (done.answered != 0) {
            step.read |= done.answered;
            pace(done.length);
        } else if (done.error != 0) {
            // Of those that it was not to ask it says that they were tried; the last one that was asked answered so.
            const slot_mask last = step.asked & static_cast<slot_mask>(~(step.read | step.unreadable));
            step.unreadable |= last;
        }  // else the record trusts it no more: it does not count
    } else {
        if ((done.answered & required_slots()) != 0) scrub_.repaired_bytes += done.length;
        it.position += step.length;
        step.asked = 0;
    }
    granted_.push_back(index | copy_owner);
}

/// All have answered.
void engine::impl::compare(std::uint32_t index, actions& out) {
    copy& it = copies_[index];
    scrub_step& step = it.scrub;
    const slot_mask trusted = required_slots();
    const slot_mask able = step.read & trusted;
    const auto same = [&](slot_index a, slot_index b) {
        return std::memcmp(step.data[a].data(), step.data[b].data(), step.length) == 0;
    };
    slot_index right = max_slots;
    int best = 0;
    int voters = 0;
    for (slot_index i = 0; i < max_slots; ++i) {
        if ((able & bit(i)) == 0) continue;
        ++voters;
        int votes = 0;
        for (slot_index j = 0; j < max_slots; ++j)
            if ((able & bit(j)) != 0 && same(i, j)) ++votes;
        const bool preferred = right != max_slots && votes == best && slots_[i].member.local;
        if (votes > best || preferred) {
            best = votes;
            right = i;
        }
    }
    slot_mask wrong = step.unreadable & trusted;
    for (slot_index i = 0; i < max_slots && right != max_slots; ++i)
        if ((able & bit(i)) != 0 && !same(right, i)) wrong |= bit(i);

    const bool fine = step.length == block_bytes;
    // Equal, or nobody can read the block: then nobody can read different bytes. Of a larger piece each may lack
    // another block.
    if (wrong == 0 || (right == max_slots && fine)) {
        if (right == max_slots && wrong != 0) scrub_.differing_bytes += step.length;
        it.position += step.length;
        step.asked = 0;
        granted_.push_back(index | copy_owner);
        return;
    }
    if (!fine) {
        step.fine_until = it.position + step.length;
        step.asked = 0;
        granted_.push_back(index | copy_owner);
        return;
    }
    scrub_.differing_bytes += step.length;
    if ((wrong & able) != 0 && best * 2 <= voters) scrub_.undecided_bytes += step.length;
    std::string who;
    for (slot_index i = 0; i < max_slots; ++i)
        if ((wrong & bit(i)) != 0) who += fmt::format("{}{}", who.empty() ? "" : " and ", describe(i));
    if (++scrub_notes_ <= scrub_notes_max)
        note(out, notice::level::warning,
             fmt::format("scrub: {} bytes at {} are wrong on {}: making them equal to {}{}", step.length,
                         it.offset + it.position, who, describe(right),
                         scrub_notes_ == scrub_notes_max ? "; further ones are only counted" : ""));
    const std::uint32_t mend =
        new_job(op_kind::write, job_owner::copy, it.offset + it.position, step.length, step.data[right].data());
    jobs_[mend].copy = index;
    run_change(mend, wrong | syncing_slots(), out);
}

void engine::impl::end_scrub_copy(const copy& it, bool done) {
    if (!scrub_.running || it.chunk != scrub_cursor_) return;
    if (!done) return;  // interrupted (a recovery came between): this chunk is compared again
    ++scrub_cursor_;
    scrub_.done_bytes = std::min(scrub_cursor_ * config_.chunk_bytes, config_.size_bytes);
}

}  // namespace weft::core
