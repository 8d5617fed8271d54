// SPDX-License-Identifier: Apache-2.0
// Docker's mount references of one volume on one node, as a value that is written to disk before Docker is answered.
//
// Docker's Mount and Unmount carry an ID, one per container mount. Facts of moby that shape this:
//   - the same ID is mounted several times (`docker cp` on a running container): it must be counted;
//   - after a kill -9 of dockerd no Unmount comes; the container's next start Mounts the *same* ID again and then sends
//     one Unmount: a plain counter would leak;
//   - with live-restore dockerd says nothing at its restart and later Unmounts the old ID.
// So every ID has `count` (all its Mounts less its Unmounts) and `current` (those of them since dockerd last started,
// that is since the last Plugin.Activate). 0 <= current <= count, count >= 1. An ID is *suspect* while count > current:
// some of its references are of an earlier dockerd, which will perhaps never give them up. Unmount takes a current one
// first. unused() is true when no current reference is left; the suspect ones alone do not hold the volume, but the
// caller must then also see that no other mount namespace holds the file system, now and after a grace time (they may
// belong to a container that live-restore kept running). Keeping a mount too long is safe, unmounting under a container
// is not.
//
// A Mount whose answer nobody took gets no Unmount (docker-plugin facts, 3.4). So a reference is *pending* from before
// the answer is given until it was taken: 0 <= pending <= current. What a weftd that was killed left pending may have
// been answered or not. The same ID asked for again is taken for not answered (wrong only if `docker cp` uses a
// container's ID right then: the container's mount namespace holds the volume); otherwise doubt() makes it suspect,
// when no container can be on its way to its mount any more. Pure values; not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft {

struct mount_ref {
    std::uint64_t count = 0;    // >= 1: Mounts less Unmounts
    std::uint64_t current = 0;  // of these, since the present dockerd started
    std::uint64_t pending = 0;  // of these, not known to have been answered
    [[nodiscard]] bool suspect() const noexcept { return count > current; }
    friend bool operator==(const mount_ref&, const mount_ref&) = default;
};

class mount_refs {
public:
    /// Mount(id): one more reference of the present dockerd, pending; or one that is pending already, because it was
    /// never answered. `under_way`: how many Mounts of the ID this weftd is about to answer.
    void add(const std::string& id, std::uint64_t under_way = 0);
    /// The answer was taken. False if nothing of the ID is pending (any more).
    bool answered(const std::string& id);
    /// Nobody was there to take it: as if it had not been asked for. False as above.
    bool unanswered(const std::string& id);
    [[nodiscard]] bool any_pending() const;
    /// What is pending is not current: perhaps nobody has it.
    void doubt();
    /// Unmount(id): one less. False if the ID is unknown, which is success for Docker.
    bool remove(const std::string& id);
    /// Plugin.Activate: a new dockerd; whatever was counted so far is of an earlier one.
    void activate();

    /// No reference of the present dockerd is left. See above for what must hold besides before unmounting.
    [[nodiscard]] bool unused() const;
    /// No reference at all, not even a suspect one: nothing needs to be looked at but the mount namespaces.
    [[nodiscard]] bool empty() const { return refs_.empty(); }
    /// Forget everything; the volume was really unmounted (or the node was rebooted).
    void clear() { refs_.clear(); }

    /// Number of Plugin.Activate that this value has seen.
    [[nodiscard]] std::uint64_t dockerd_epoch() const noexcept { return dockerd_epoch_; }
    [[nodiscard]] const std::map<std::string, mount_ref>& refs() const noexcept { return refs_; }

    /// {"version":1,"dockerd_epoch":3,"refs":{"<id>":{"count":2,"current":1,"pending":1}}}, `pending` where it is not 0
    [[nodiscard]] std::string encode() const;
    /// Errors: corrupt, naming the field.
    static result<mount_refs> decode(std::string_view json);

    friend bool operator==(const mount_refs&, const mount_refs&) = default;

private:
    std::uint64_t dockerd_epoch_ = 0;
    std::map<std::string, mount_ref> refs_;
};

/// Docker's IDs are 64 hexadecimal digits; accepted is [a-zA-Z0-9_.-], 1..128. Errors: invalid_argument.
status check_mount_id(std::string_view id);

}  // namespace weft
