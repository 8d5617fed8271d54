// SPDX-License-Identifier: Apache-2.0
// volume_keeper: who uses an attachment (core/mount_refs.hpp): dockerd's restarts, answers that nobody took, and how
// long what is suspect is left alone.
#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/daemon/log.hpp"
#include "orchestrator/daemon/volume_keeper.hpp"

namespace weft {

namespace {

// References of an earlier dockerd hold an otherwise free volume for so long: time for a restarted dockerd to mount
// again what its containers use.
constexpr std::chrono::seconds suspect_grace{10};
// dockerd waits 2 minutes for each of a container's volumes (docker-plugin facts, 3.2), one after the other, before the
// container holds any of them in a mount namespace of its own.
constexpr std::chrono::minutes unanswered_grace{10};

}  // namespace

volume_keeper::use_set volume_keeper::uses_of(const attachment& of) {
    const std::lock_guard lock(of.state);
    use_set copy{of.refs, of.administrative};
    if (of.dockerd_restarted) copy.refs.activate();
    return copy;
}

void volume_keeper::note_restart(attachment& of) {
    {
        const std::lock_guard lock(of.state);
        if (!of.dockerd_restarted) return;
    }
    const auto noted = uses_of(of);
    if (const auto stored = env_.table.store_references(of, noted.refs, noted.administrative); stored.has_error())
        log(log_level::error, "volumes", "cannot note that dockerd was restarted",
            {{"volume", of.volume_name()}, {"error", stored.error().text}});
}

std::uint64_t volume_keeper::answers_under_way(const attachment& of, const std::string& mount_id) {
    const std::lock_guard lock(of.state);
    const auto found = of.answering.find(mount_id);
    return found == of.answering.end() ? 0 : found->second;
}

void volume_keeper::mount_answered(const std::string& name, const std::string& mount_id, bool delivered) {
    for (const auto& of : env_.table.all()) {
        if (of->volume_name() != name || answers_under_way(*of, mount_id) == 0) continue;
        const std::lock_guard operation(of->operation);
        auto uses = uses_of(*of);
        const bool known = delivered ? uses.refs.answered(mount_id) : uses.refs.unanswered(mount_id);
        status stored;  // not when it has gone meanwhile: with it went the directory
        if (known) stored = env_.table.store_references(*of, uses.refs, uses.administrative);
        {
            const std::lock_guard lock(of->state);
            if (--of->answering[mount_id] == 0) of->answering.erase(mount_id);
            if (stored.has_error()) of->loaded_at = monotonic_now();  // pending still, and to be doubted as late
        }
        if (stored.has_error())
            log(log_level::error, "volumes", "cannot note whether a mount was answered",
                {{"volume", name}, {"error", stored.error().text}});
        if (delivered || !known || stored.has_error()) return;
        log(log_level::warning, "volumes", "nobody took the answer to a mount, so it is given up", {{"volume", name}});
        if (uses.refs.empty() && !uses.administrative) go_down_unused(*of, name);
        return;
    }
}

/// What a killed weftd left.
void volume_keeper::doubt_unanswered(attachment& of) {
    {
        const std::lock_guard lock(of.state);
        if (!of.refs.any_pending() || !of.answering.empty() || monotonic_now() - of.loaded_at < unanswered_grace)
            return;
    }
    auto uses = uses_of(of);
    uses.refs.doubt();
    if (const auto stored = env_.table.store_references(of, uses.refs, uses.administrative); stored.has_error())
        log(log_level::error, "volumes", "cannot note that a mount was perhaps never answered",
            {{"volume", of.volume_name()}, {"error", stored.error().text}});
}

bool volume_keeper::count_as_used(attachment& of, bool held) {
    const std::lock_guard lock(of.state);
    if (of.administrative || !of.refs.unused()) return true;
    if (of.refs.empty() || held) {
        of.idle_since.reset();
        return false;
    }
    if (!of.idle_since) of.idle_since = monotonic_now();
    return monotonic_now() - *of.idle_since < suspect_grace;
}

}  // namespace weft
