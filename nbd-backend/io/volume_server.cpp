// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/volume_server.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "nbd-backend/base/invariant.hpp"

namespace weft::io {

namespace {

constexpr std::string_view extent_prefix = "extent/";

bool carries_data(core::op_kind kind) {
    return kind == core::op_kind::read || kind == core::op_kind::write;
}

}  // namespace

volume_server::volume_server(core::attach_config config)
    : config_(std::move(config)),
      control_({config_.id, config_.epoch, ::getpid()}, config_.extents.size(), *this),
      timer_([this] {
          for (const auto& host : hosts_) host->tick();
      }) {
    std::uint64_t start = 0;
    for (std::uint32_t i = 0; i < config_.extents.size(); ++i) {
        starts_.push_back(start);
        start += config_.extents[i].size_bytes;
        hosts_.push_back(std::make_unique<engine_host>(i, config_, control_.out(), timer_, budget_));
    }
    starts_.push_back(start);
}

volume_server::~volume_server() {
    stop();
}

weft::status volume_server::listen(const std::string& control_path) {
    return control_.listen(control_path);
}

weft::status volume_server::start() {
    TRY(timer_.start());
    control_.start();
    for (const auto& host : hosts_) TRY(host->start());
    return ok();
}

void volume_server::stop() {
    timer_.stop();
    for (const auto& host : hosts_) host->stop();
    control_.stop();
}

std::size_t volume_server::extent_at(std::uint64_t offset) const {
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), offset);
    return static_cast<std::size_t>(after - starts_.begin()) - 1;
}

result<volume_window> volume_server::find_export(std::string_view name) const {
    if (name.empty() || name == "volume") return volume_window{0, starts_.back()};
    if (name.starts_with(extent_prefix)) {
        const std::string_view digits = name.substr(extent_prefix.size());
        std::size_t n = 0;
        const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
        const bool one_spelling = digits.size() == 1 || (digits.size() > 1 && digits[0] != '0');
        if (problem == std::errc{} && end == digits.data() + digits.size() && one_spelling && n < hosts_.size())
            return volume_window{starts_[n], config_.extents[n].size_bytes};
    }
    return error{errc::not_found,
                 fmt::format("no such export; there are 'volume' and 'extent/0' to 'extent/{}'", hosts_.size() - 1)};
}

std::vector<std::string> volume_server::export_names() const {
    std::vector<std::string> names{"volume"};
    for (std::size_t i = 0; i < hosts_.size(); ++i) names.push_back(fmt::format("{}{}", extent_prefix, i));
    return names;
}

std::string volume_server::describe() const {
    return fmt::format("weft-volume {} epoch={}", config_.id.str(), config_.epoch);
}

int volume_server::submit(request_waiter& waiter, const volume_window& window, const core::request& what) {
    if (what.kind == core::op_kind::flush) return flush(waiter, window);
    if (what.length == 0 || what.offset > window.size_bytes || what.length > window.size_bytes - what.offset)
        return EINVAL;

    struct piece {
        std::size_t extent;
        core::request request;
    };
    thread_local std::vector<piece> pieces;
    pieces.clear();
    std::uint64_t at = window.offset + what.offset;
    for (std::uint32_t done = 0; done < what.length;) {
        const std::size_t extent = extent_at(at);
        const std::uint64_t room = starts_[extent + 1] - at;
        // Replica servers advertise max_request_bytes; a longer zero or trim is legal here and cut there.
        const auto length = std::min<std::uint64_t>({room, what.length - done, core::max_request_bytes});
        core::request part = what;
        part.offset = at - starts_[extent];
        part.length = static_cast<std::uint32_t>(length);
        if (carries_data(what.kind)) part.data = what.data + done;
        pieces.push_back({extent, part});
        done += part.length;
        at += part.length;
    }
    auto& parts = waiter.prepare(pieces.size());
    for (std::size_t i = 0; i < pieces.size(); ++i) hosts_[pieces[i].extent]->submit(parts[i], pieces[i].request);
    if (pieces.front().extent == pieces.back().extent)
        hosts_[pieces.front().extent]->attend(waiter);
    else
        for (const piece& one : pieces) hosts_[one.extent]->see_to_answers();
    return waiter.wait();
}

/// A flush covers every write of the window that has been answered, on whatever connection it came.
int volume_server::flush(request_waiter& waiter, const volume_window& window) {
    const std::size_t first = extent_at(window.offset);
    const std::size_t last = extent_at(window.offset + window.size_bytes - 1);
    auto& parts = waiter.prepare(last - first + 1);
    core::request one;
    one.kind = core::op_kind::flush;
    for (std::size_t i = first; i <= last; ++i) hosts_[i]->submit(parts[i - first], one);
    if (first == last)
        hosts_[first]->attend(waiter);
    else
        for (std::size_t i = first; i <= last; ++i) hosts_[i]->see_to_answers();
    return waiter.wait();
}

std::vector<core::engine_status> volume_server::status() {
    std::vector<core::engine_status> all;
    for (const auto& host : hosts_) all.push_back(host->status());
    return all;
}

void volume_server::on_result(std::uint32_t extent, std::uint64_t proposal, core::proposal_outcome outcome) {
    INVARIANT(extent < hosts_.size(), "an answer for extent {}", extent);
    hosts_[extent]->on_proposal_result(proposal, outcome);
}

weft::status volume_server::on_members(const core::members_message& members) {
    const bool same =
        std::equal(members.extents.begin(), members.extents.end(), config_.extents.begin(), config_.extents.end(),
                   [](const auto& a, const auto& b) { return a.size_bytes == b.size_bytes; });
    if (!same) return error{errc::invalid_argument, "its members are not of this volume's extents"};
    for (std::size_t i = 0; i < hosts_.size(); ++i) hosts_[i]->on_members(members.extents[i], members.policy);
    return ok();
}

void volume_server::on_lease(core::instant until) {
    for (const auto& host : hosts_) host->on_lease(until);
}

void volume_server::on_detach() {
    for (const auto& host : hosts_) host->detach();
}

}  // namespace weft::io
