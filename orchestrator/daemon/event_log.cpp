// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/event_log.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"

namespace weft {

namespace {

constexpr std::size_t batch_max = 64;           // events per commit
constexpr std::size_t trim_every = 100;         // events written between two looks at how many there are
constexpr std::chrono::seconds retry_pause{1};  // while the store does not answer

log_level level_of(severity level) {
    switch (level) {
        case severity::info: return log_level::info;
        case severity::warning: return log_level::warning;
        case severity::error: return log_level::error;
    }
    return log_level::error;
}

event_view view_of(const event_record& record) {
    return {render_time(record.time_ms), record.node.str(), std::string(to_string(record.level)), record.subject,
            record.text};
}

}  // namespace

event_log::event_log(store& target, node_name me) : target_(target), me_(std::move(me)), writer_([this] { run(); }) {}

event_log::~event_log() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    writer_.join();
}

void event_log::emit(severity level, std::string subject, std::string text) {
    log(level_of(level), "event", text, {{"subject", subject}});
    {
        const std::lock_guard lock(mutex_);
        waiting_.push_back({unix_now_ms(), sequence_++, me_, level, std::move(subject), std::move(text)});
        if (waiting_.size() > events_kept) {
            waiting_.pop_front();
            ++dropped_;
        }
    }
    changed_.notify_all();
}

result<std::vector<event_view>> event_log::newest(std::size_t count) {
    TRY_ASSIGN(const auto stored, target_.list(std::string(event_prefix)));
    std::map<std::string, event_record> all;  // by key: what waits here may be in the store already
    for (const auto& entry : stored.entries) {
        auto record = decode_event(entry.value);
        if (record.has_value()) all[entry.key] = std::move(*record);
    }
    {
        const std::lock_guard lock(mutex_);
        for (const auto& record : waiting_) all[event_key(record)] = record;
    }
    std::vector<event_view> views;
    auto from = all.begin();
    if (all.size() > count) std::advance(from, all.size() - count);
    std::transform(from, all.end(), std::back_inserter(views), [](const auto& item) { return view_of(item.second); });
    return views;
}

bool event_log::flush_some() {
    store_commit change;
    {
        const std::lock_guard lock(mutex_);
        if (dropped_ > 0) {
            waiting_.push_front({unix_now_ms(), sequence_++, me_, severity::warning, "node " + me_.str(),
                                 fmt::format("{} events were dropped while the store did not answer", dropped_)});
            dropped_ = 0;
        }
        for (std::size_t i = 0; i < std::min(batch_max, waiting_.size()); ++i)
            change.puts.push_back({event_key(waiting_[i]), encode(waiting_[i])});
    }
    if (change.puts.empty()) return true;
    // A commit whose outcome is unknown is repeated: the keys are the same, so nothing is told twice.
    if (target_.commit(change).has_error()) return false;
    {
        const std::lock_guard lock(mutex_);
        for (const auto& put : change.puts) {
            const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                            [&](const event_record& r) { return event_key(r) == put.key; });
            if (found != waiting_.end()) waiting_.erase(found);
        }
    }
    trim_now_and_then(change.puts.size());
    return true;
}

void event_log::trim_now_and_then(std::size_t written) {
    since_trim_ += written;
    if (since_trim_ < trim_every) return;
    since_trim_ = 0;
    const auto stored = target_.list(std::string(event_prefix));
    if (stored.has_error()) return;  // the next hundred events bring us back here
    std::vector<std::string> keys;
    for (const auto& entry : stored->entries) keys.push_back(entry.key);
    store_commit change;
    change.erases = events_to_trim(keys);
    if (change.erases.empty()) return;
    if (const auto trimmed = target_.commit(change); trimmed.has_error())
        log(log_level::debug, "events", "could not trim, trying again later", {{"error", trimmed.error().text}});
}

void event_log::run() {
    std::unique_lock lock(mutex_);
    while (true) {
        changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        lock.unlock();
        const bool flushed = flush_some();
        lock.lock();
        if (flushed) continue;
        if (stopping_) return;
        changed_.wait_for(lock, retry_pause, [this] { return stopping_; });
    }
}

}  // namespace weft
