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
constexpr std::string_view leg_prefix = "leg/";

/// An index below `count`, in its one spelling.
std::optional<std::size_t> parse_index(std::string_view digits, std::size_t count) {
    std::size_t n = 0;
    const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), n);
    const bool one_spelling = digits.size() == 1 || (digits.size() > 1 && digits[0] != '0');
    if (problem != std::errc{} || end != digits.data() + digits.size() || !one_spelling || n >= count)
        return std::nullopt;
    return n;
}

bool carries_data(core::op_kind kind) {
    return kind == core::op_kind::read || kind == core::op_kind::write;
}

std::vector<std::uint64_t> sizes_of(const std::vector<core::extent_members>& extents) {
    std::vector<std::uint64_t> sizes;
    for (const auto& extent : extents) sizes.push_back(extent.size_bytes);
    return sizes;
}

struct request_piece {
    std::size_t extent;
    core::request request;
};

/// A long trim of a striped volume is many chunks, but one range of each extent: lets the piece that ends where `part`
/// begins have it. Looks at one round of stripes only.
bool extend(std::vector<request_piece>& pieces, std::size_t extent, const core::request& part) {
    for (std::size_t back = 1; back <= std::min<std::size_t>(pieces.size(), core::stripes_max); ++back) {
        request_piece& one = pieces[pieces.size() - back];
        if (one.extent != extent) continue;
        if (one.request.offset + one.request.length != part.offset ||
            one.request.length > core::max_request_bytes - part.length)
            return false;
        one.request.length += part.length;
        return true;
    }
    return false;
}

}  // namespace

volume_server::volume_server(core::attach_config config)
    : config_(std::move(config)),
      control_({config_.id, config_.epoch, ::getpid()}, config_.extents.size(), *this),
      timer_([this] {
          for (auto* host : now().hosts) host->tick();
      }) {
    for (std::uint32_t i = 0; i < config_.extents.size(); ++i)
        hosts_.push_back(std::make_unique<engine_host>(i, config_, control_.out(), timer_, budget_));
    auto map = core::volume_map::make(config_.layout, sizes_of(config_.extents));
    INVARIANT(map.has_value(), "attach.json was decoded with a layout that does not fit");
    publish(std::move(*map));
}

volume_server::~volume_server() {
    stop();
}

/// With growth_, or before anybody else knows the server.
void volume_server::publish(core::volume_map map) {
    std::vector<engine_host*> hosts;
    for (const auto& host : hosts_) hosts.push_back(host.get());
    shapes_.push_back(std::make_unique<const shape>(shape{std::move(map), std::move(hosts)}));
    shape_.store(shapes_.back().get(), std::memory_order_release);
}

weft::status volume_server::listen(const std::string& control_path) {
    return control_.listen(control_path);
}

weft::status volume_server::start() {
    TRY(timer_.start());
    control_.start();
    for (auto* host : now().hosts) TRY(host->start());
    return ok();
}

void volume_server::stop() {
    timer_.stop();
    {
        const std::lock_guard lock(growth_);
        stopped_ = true;
    }
    for (auto* host : now().hosts) host->stop();
    control_.stop();
}

result<volume_window> volume_server::find_export(std::string_view name) const {
    const shape& shown = now();
    if (config_.layout.mirrored) return find_leg(name);
    if (name.empty() || name == "volume") return volume_window{std::nullopt, shown.map.size_bytes()};
    if (name.starts_with(extent_prefix)) {
        const auto n = parse_index(name.substr(extent_prefix.size()), shown.hosts.size());
        if (n) return volume_window{*n, shown.hosts[*n]->size_bytes()};
    }
    return error{errc::not_found, fmt::format("no such export; there are 'volume' and 'extent/0' to 'extent/{}'",
                                              shown.hosts.size() - 1)};
}

result<volume_window> volume_server::find_leg(std::string_view name) const {
    const shape& shown = now();
    const auto slash = name.rfind('/');
    if (name.starts_with(leg_prefix) && slash >= leg_prefix.size()) {
        const auto n = parse_index(name.substr(leg_prefix.size(), slash - leg_prefix.size()), shown.hosts.size());
        const replica_id leg{std::string(name.substr(slash + 1))};
        if (n && shown.hosts[*n]->has_leg(leg)) return volume_window{*n, shown.hosts[*n]->size_bytes(), leg};
    }
    return error{errc::not_found,
                 "no such export; this volume is mirrored by the kernel, so there is no export of the volume itself, "
                 "only 'leg/EXTENT/REPLICA' of its replicas"};
}

std::vector<std::string> volume_server::export_names() const {
    std::vector<std::string> names;
    if (config_.layout.mirrored) {
        for (std::size_t i = 0; i < now().hosts.size(); ++i)
            for (const auto& leg : now().hosts[i]->legs())
                names.push_back(fmt::format("{}{}/{}", leg_prefix, i, leg.str()));
        return names;
    }
    names.emplace_back("volume");
    for (std::size_t i = 0; i < now().hosts.size(); ++i) names.push_back(fmt::format("{}{}", extent_prefix, i));
    return names;
}

std::string volume_server::describe() const {
    return fmt::format("weft-volume {} epoch={}", config_.id.str(), config_.epoch);
}

int volume_server::submit(request_waiter& waiter, const volume_window& window, const core::request& what) {
    if (what.kind == core::op_kind::flush) return flush(waiter, window);
    if (what.length == 0 || what.offset > window.size_bytes || what.length > window.size_bytes - what.offset)
        return EINVAL;

    const shape& served = now();
    thread_local std::vector<request_piece> pieces;
    pieces.clear();
    for (std::uint32_t done = 0; done < what.length;) {
        const std::uint64_t at = what.offset + done;
        const auto run =
            window.extent ? core::volume_map::run{*window.extent, at, what.length - done} : served.map.at(at);
        // Replica servers advertise max_request_bytes; a longer zero or trim is legal here and cut there.
        const auto length = static_cast<std::uint32_t>(
            std::min<std::uint64_t>({run.length, what.length - done, core::max_request_bytes}));
        core::request part = what;
        part.offset = run.offset;
        part.length = length;
        if (carries_data(what.kind)) part.data = what.data + done;
        done += length;
        if (carries_data(what.kind) || !extend(pieces, run.extent, part)) pieces.push_back({run.extent, part});
    }
    auto& parts = waiter.prepare(pieces.size());
    for (std::size_t i = 0; i < pieces.size(); ++i)
        served.hosts[pieces[i].extent]->submit(parts[i], pieces[i].request, window.leg);
    const bool one_extent = std::all_of(pieces.begin(), pieces.end(),
                                        [](const request_piece& one) { return one.extent == pieces.front().extent; });
    if (one_extent)
        served.hosts[pieces.front().extent]->attend(waiter);
    else
        for (const request_piece& one : pieces) served.hosts[one.extent]->see_to_answers();
    return waiter.wait();
}

/// A flush covers every write of the window that has been answered, on whatever connection it came.
int volume_server::flush(request_waiter& waiter, const volume_window& window) {
    const shape& served = now();
    const std::size_t first = window.extent.value_or(0);
    const std::size_t last = window.extent.value_or(served.hosts.size() - 1);
    auto& parts = waiter.prepare(last - first + 1);
    core::request one;
    one.kind = core::op_kind::flush;
    for (std::size_t i = first; i <= last; ++i) served.hosts[i]->submit(parts[i - first], one, window.leg);
    if (first == last)
        served.hosts[first]->attend(waiter);
    else
        for (std::size_t i = first; i <= last; ++i) served.hosts[i]->see_to_answers();
    return waiter.wait();
}

std::vector<core::engine_status> volume_server::status() {
    std::vector<core::engine_status> all;
    for (auto* host : now().hosts) all.push_back(host->status());
    return all;
}

void volume_server::on_result(std::uint32_t extent, std::uint64_t proposal, core::proposal_outcome outcome) {
    const shape& served = now();
    INVARIANT(extent < served.hosts.size(), "an answer for extent {}", extent);
    served.hosts[extent]->on_proposal_result(proposal, outcome);
}

/// The control thread: only it grows, so `config_` and the shape cannot move under it.
weft::status volume_server::grow(const core::members_message& members) {
    const auto& known = config_.layout.stripes;
    const auto& grown = members.layout.stripes;
    if (members.layout.chunk_bytes != config_.layout.chunk_bytes ||
        members.layout.mirrored != config_.layout.mirrored || grown.size() <= known.size() ||
        !std::equal(known.begin(), known.end(), grown.begin()))
        return error{errc::invalid_argument, "its members have more extents, but not in segments after the known ones"};
    TRY_ASSIGN(auto map, core::volume_map::make(members.layout, sizes_of(members.extents)));
    const std::lock_guard lock(growth_);
    if (stopped_ || detached_) return ok();  // the end: there is nobody to serve more to
    core::attach_config config = config_;
    config.extents = members.extents;
    config.layout = members.layout;
    // All of them or none: what failed is tried again with the next members.
    std::vector<std::unique_ptr<engine_host>> fresh;
    for (std::size_t i = config_.extents.size(); i < config.extents.size(); ++i) {
        fresh.push_back(
            std::make_unique<engine_host>(static_cast<std::uint32_t>(i), config, control_.out(), timer_, budget_));
        TRY(fresh.back()->start());
        fresh.back()->on_lease(lease_);
    }
    for (auto& host : fresh) hosts_.push_back(std::move(host));
    config_ = std::move(config);
    publish(std::move(map));
    return ok();
}

weft::status volume_server::on_members(const core::members_message& members) {
    const auto& mine = config_.extents;
    const bool same = members.extents.size() >= mine.size() &&
                      std::equal(mine.begin(), mine.end(), members.extents.begin(),
                                 [](const auto& a, const auto& b) { return a.size_bytes == b.size_bytes; });
    if (!same) return error{errc::invalid_argument, "its members are not of this volume's extents"};
    if (members.extents.size() > mine.size()) TRY(grow(members));
    const shape& served = now();
    for (std::size_t i = 0; i < served.hosts.size(); ++i)
        served.hosts[i]->on_members(members.extents[i], members.policy);
    return ok();
}

void volume_server::on_lease(core::instant until) {
    {
        const std::lock_guard lock(growth_);
        lease_ = until;
    }
    for (auto* host : now().hosts) host->on_lease(until);
}

void volume_server::on_leg(const core::leg_message& leg) {
    const shape& served = now();
    if (leg.extent < served.hosts.size()) served.hosts[leg.extent]->on_leg(leg.replica, leg.what);
}

void volume_server::on_detach() {
    {
        const std::lock_guard lock(growth_);
        detached_ = true;
    }
    for (auto* host : now().hosts) host->detach();
}

}  // namespace weft::io
