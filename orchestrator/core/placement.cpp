// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/placement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/base/units.hpp"
#include "orchestrator/core/names.hpp"

namespace weft {

namespace {

constexpr std::uint64_t reserve_min_bytes = 64 * mib;
constexpr std::uint64_t reserve_divisor = 50;  // 2 % of a drive

std::uint64_t reserve_of(const drive_record& drive) {
    return std::max(reserve_min_bytes, drive.size_bytes / reserve_divisor);
}

std::uint64_t without(std::uint64_t amount, std::uint64_t taken) {
    return amount > taken ? amount - taken : 0;
}

/// A drive while a volume is being placed.
struct candidate {
    const pool_drive* drive = nullptr;
    bool thick = false;              // the volume is
    std::uint64_t placed_bytes = 0;  // of this volume
    std::uint64_t placed_replicas = 0;
    std::uint64_t in_segment = 0;  // of the striped segment that is being placed

    [[nodiscard]] const drive_record& record() const { return drive->record; }

    /// Free, and not spoken for.
    [[nodiscard]] std::uint64_t free() const {
        return without(without(record().free_bytes, drive->reserved_bytes), thick ? placed_bytes : 0);
    }

    [[nodiscard]] bool fits(std::uint64_t size) const {
        const bool large_enough = size <= record().size_bytes && placed_bytes <= record().size_bytes - size;
        const std::uint64_t reserve = reserve_of(record());
        return large_enough &&
               (thick ? free() >= reserve && free() - reserve >= size : free() >= std::min(size, reserve));
    }

    [[nodiscard]] std::uint64_t headroom() const {
        return std::min(free(), without(record().size_bytes, drive->promised_bytes + placed_bytes));
    }

    /// The smaller, the better. `node_in_segment`: replicas of the striped segment on the drive's node.
    [[nodiscard]] auto rank(std::uint64_t node_in_segment) const {
        return std::make_tuple(in_segment, node_in_segment, ~headroom(), drive->replicas + placed_replicas,
                               record().node, record().id);
    }
};

class placer {
public:
    placer(const std::vector<pool_drive>& pool, const std::set<node_name>& alive, const std::set<drive_id>& avoid,
           bool thick) {
        for (const auto& drive : pool) {
            if (!alive.contains(drive.record.node) || drive.record.draining || drive.record.down ||
                avoid.contains(drive.record.id))
                continue;
            candidates_.push_back({&drive, thick, 0, 0});
        }
    }

    /// What is placed from now on until the next call is spread, if it is striped.
    void begin_segment(bool striped) {
        striped_ = striped;
        for (auto& drive : candidates_) drive.in_segment = 0;
    }

    [[nodiscard]] std::size_t drives_of_segment() const {
        return static_cast<std::size_t>(
            std::count_if(candidates_.begin(), candidates_.end(), [](const auto& one) { return one.in_segment > 0; }));
    }

    /// `count` drives on distinct nodes outside of `taken`, `local` first; nothing if there are not so many.
    std::optional<std::vector<placed_replica>> place(std::uint64_t size, std::uint32_t count, const node_name& local,
                                                     std::set<node_name> taken) {
        std::vector<candidate*> chosen;
        while (chosen.size() < count) {
            candidate* best = chosen.empty() && !local.empty() ? find_best(size, taken, local) : nullptr;
            if (best == nullptr) best = find_best(size, taken, node_name{});
            if (best == nullptr) return std::nullopt;
            chosen.push_back(best);
            taken.insert(best->record().node);
        }
        std::vector<placed_replica> placed;
        for (candidate* drive : chosen) {
            drive->placed_bytes += size;
            drive->placed_replicas += 1;
            if (striped_) drive->in_segment += 1;
            placed.push_back({drive->record().id, drive->record().node});
        }
        return placed;
    }

private:
    [[nodiscard]] auto rank(const candidate& of) const {
        std::uint64_t on_node = 0;
        for (const auto& drive : candidates_)
            if (drive.record().node == of.record().node) on_node += drive.in_segment;
        return of.rank(on_node);
    }

    candidate* find_best(std::uint64_t size, const std::set<node_name>& taken, const node_name& only) {
        candidate* best = nullptr;
        for (auto& drive : candidates_) {
            if (taken.contains(drive.record().node) || !drive.fits(size)) continue;
            if (!only.empty() && drive.record().node != only) continue;
            if (best == nullptr || rank(drive) < rank(*best)) best = &drive;
        }
        return best;
    }

    std::vector<candidate> candidates_;
    bool striped_ = false;
};

std::optional<std::vector<std::vector<placed_replica>>> try_place(const std::vector<pool_drive>& pool,
                                                                  const std::set<node_name>& alive,
                                                                  const placement_request& request,
                                                                  const node_name& local) {
    placer attempt(pool, alive, {}, request.thick);
    std::vector<std::vector<placed_replica>> extents;
    for (const auto stripes : request.stripes) {
        attempt.begin_segment(stripes > 1);
        for (std::uint32_t i = 0; i < stripes; ++i) {
            auto placed = attempt.place(request.extent_sizes[extents.size()], request.replicas,
                                        stripes > 1 ? node_name{} : local, {});
            if (!placed) return std::nullopt;
            extents.push_back(std::move(*placed));
        }
        if (stripes > 1 && attempt.drives_of_segment() < stripes) return std::nullopt;
    }
    return extents;
}

/// What one node has to offer, for the error: "n1 (/srv/d1: 12 GiB, 3 GiB free)".
struct node_offer {
    bool able = false;  // has a drive that could take one replica
    std::string text;
};

node_offer offer_of(const node_name& node, const std::vector<pool_drive>& pool, bool is_alive, std::uint64_t size,
                    const std::set<drive_id>& avoid, bool thick) {
    node_offer offer;
    const std::string name = printable(node.str());
    if (!is_alive) return {false, name + " does not answer"};
    std::string drives;
    for (const auto& drive : pool) {
        if (drive.record.node != node) continue;
        const bool refused = drive.record.draining || drive.record.down || avoid.contains(drive.record.id);
        offer.able = offer.able || (!refused && candidate{&drive, thick, 0, 0}.fits(size));
        drives += fmt::format("{}{}: {}, {} free{}{}", drives.empty() ? "" : "; ", printable(drive.record.path),
                              render_size(drive.record.size_bytes), render_size(drive.record.free_bytes),
                              drive.reserved_bytes == 0 ? ""
                                                        : fmt::format(", {} of it for thick replicas being made",
                                                                      render_size(drive.reserved_bytes)),
                              refused ? ", takes nothing new" : "");
    }
    offer.text = drives.empty() ? name + " has no drive" : fmt::format("{} ({})", name, drives);
    return offer;
}

/// Says of every node that is not in `taken` what it has and why it does not do.
error no_place(const std::vector<pool_drive>& pool, const std::set<node_name>& alive, std::uint64_t size,
               std::uint32_t replicas, const std::set<node_name>& taken, const std::set<drive_id>& avoid, bool thick) {
    std::set<node_name> nodes(alive);
    for (const auto& drive : pool) nodes.insert(drive.record.node);
    std::size_t able = 0;
    std::size_t with_drive = 0;
    std::string can;
    std::string cannot;
    for (const auto& node : nodes) {
        if (taken.contains(node)) continue;
        const auto offer = offer_of(node, pool, alive.contains(node), size, avoid, thick);
        const bool has_drive = std::any_of(pool.begin(), pool.end(), [&](const pool_drive& drive) {
            return drive.record.node == node && alive.contains(node) && !drive.record.draining && !drive.record.down &&
                   !avoid.contains(drive.record.id);
        });
        if (has_drive) ++with_drive;
        if (offer.able) ++able;
        std::string& list = offer.able ? can : cannot;
        list += (list.empty() ? "" : ", ") + offer.text;
    }
    std::string text =
        fmt::format("{} {}replica{} of {} need{} {}{} node{} with a drive that has {}; ", replicas,
                    thick ? "thick " : "", replicas == 1 ? "" : "s", render_size(size), replicas == 1 ? "s" : "",
                    replicas, taken.empty() ? "" : " other", replicas == 1 ? "" : "s",
                    thick ? fmt::format("{} free beside a reserve of 2 %, at least {}", render_size(size),
                                        render_size(reserve_min_bytes))
                          : std::string("room"));
    text += able == 0 ? std::string("no node has one") : fmt::format("{} ha{}: {}", able, able == 1 ? "s" : "ve", can);
    if (!cannot.empty()) text += "; not usable: " + cannot;
    text += "; add a drive with `weft drive add PATH` on another node or ask for fewer replicas or a smaller size";
    if (thick) text += ", or for provisioning=thin";
    return error{with_drive < replicas ? errc::no_quorum : errc::no_space, std::move(text)};
}

}  // namespace

std::vector<pool_drive> make_pool(const std::vector<drive_record>& drives, const std::vector<volume_record>& volumes) {
    std::map<drive_id, pool_drive> by_id;
    for (const auto& drive : drives) by_id[drive.id].record = drive;
    for (const auto& volume : volumes)
        for (const auto* extent : all_extents(volume))
            for (const auto& replica : extent->replicas) {
                const auto found = by_id.find(replica.drive);
                if (found == by_id.end()) continue;  // its drive was removed from the pool
                found->second.promised_bytes += extent->size_bytes;
                if (volume.thick && !replica.created) found->second.reserved_bytes += extent->size_bytes;
                found->second.replicas += 1;
            }
    std::vector<pool_drive> pool;
    for (auto& [id, drive] : by_id) pool.push_back(std::move(drive));
    return pool;
}

result<std::vector<std::vector<placed_replica>>> place_volume(const std::vector<pool_drive>& pool,
                                                              const std::set<node_name>& alive,
                                                              const placement_request& wanted) {
    INVARIANT(wanted.replicas >= 1 && !wanted.extent_sizes.empty(), "a placement of nothing");
    placement_request request = wanted;
    if (request.stripes.empty()) request.stripes.assign(request.extent_sizes.size(), 1);
    INVARIANT(
        std::accumulate(request.stripes.begin(), request.stripes.end(), std::size_t{0}) == request.extent_sizes.size(),
        "{} extents in other segments", request.extent_sizes.size());
    if (auto placed = try_place(pool, alive, request, request.local)) return std::move(*placed);
    // Filling the local drive first can use up what the last extents would have needed; without the preference they
    // fit.
    if (auto placed = try_place(pool, alive, request, node_name{})) return std::move(*placed);
    const std::uint64_t largest = *std::max_element(request.extent_sizes.begin(), request.extent_sizes.end());
    auto problem = no_place(pool, alive, largest, request.replicas, {}, {}, request.thick);
    if (const auto widest = *std::max_element(request.stripes.begin(), request.stripes.end()); widest > 1) {
        const std::string drives = fmt::format("{} stripes need {} drives", widest, widest);
        // Room for the replicas is there, so it is the drives that are too few.
        placement_request unstriped = request;
        unstriped.stripes.assign(request.extent_sizes.size(), 1);
        if (try_place(pool, alive, unstriped, node_name{}))
            return error{errc::no_quorum,
                         fmt::format("{}, each with room for a replica of {}, and there are fewer; add drives with "
                                     "`weft drive add PATH` or ask for fewer stripes",
                                     drives, render_size(largest))};
        problem = problem.within(drives);
    }
    if (request.extent_sizes.size() > 1) {
        std::uint64_t total = 0;
        for (const auto size : request.extent_sizes) total += size;
        problem = problem.within(fmt::format("{} in {} extents", render_size(total), request.extent_sizes.size()));
    }
    return problem;
}

result<placed_replica> place_replacement(const std::vector<pool_drive>& pool, const std::set<node_name>& alive,
                                         const extent_record& extent, const std::set<drive_id>& avoid, bool thick) {
    std::set<node_name> taken;
    for (const auto& replica : extent.replicas) taken.insert(replica.node);
    placer attempt(pool, alive, avoid, thick);
    if (auto placed = attempt.place(extent.size_bytes, 1, node_name{}, taken)) return std::move(placed->front());
    return no_place(pool, alive, extent.size_bytes, 1, taken, avoid, thick);
}

extent_split split_extents(std::uint64_t volume_bytes, std::uint64_t extent_bytes, std::uint32_t stripes,
                           bool mirrored) {
    INVARIANT(volume_bytes > 0 && extent_bytes > 0 && stripes > 0 && volume_bytes % stripes == 0,
              "split {} into {} with {} stripes", volume_bytes, extent_bytes, stripes);
    extent_split split;
    for (std::uint64_t left = volume_bytes / stripes; left > 0;) {
        const std::uint64_t size = std::min(left, extent_bytes);
        split.sizes.insert(split.sizes.end(), stripes, size + (mirrored ? core::mirror_meta_bytes : 0));
        split.stripes.push_back(stripes);
        left -= size;
    }
    return split;
}

}  // namespace weft
