// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/daemon/attachment.hpp"

#include <system_error>

#include "orchestrator/daemon/clock.hpp"
#include "orchestrator/io/atomic_file.hpp"

namespace weft {

namespace {
constexpr const char* refs_file = "refs.json";
constexpr const char* administrative_file = "administrative";
}  // namespace

std::shared_ptr<attachment> attachment_table::entry(const volume_id& id) {
    const std::lock_guard lock(mutex_);
    auto& held = entries_[id];
    if (!held) held = std::make_shared<attachment>(id);
    return held;
}

std::shared_ptr<attachment> attachment_table::find(const volume_id& id) const {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    return found == entries_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<attachment>> attachment_table::all() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<attachment>> entries;
    for (const auto& [id, held] : entries_) entries.push_back(held);
    return entries;
}

result<std::vector<volume_id>> attachment_table::with_references() const {
    std::vector<volume_id> ids;
    std::error_code failed;
    std::filesystem::directory_iterator at(directory_, failed);
    if (failed == std::errc::no_such_file_or_directory) return ids;
    for (; !failed && at != std::filesystem::directory_iterator(); at.increment(failed)) {
        std::string name = at->path().filename().native();
        if (is_uuid(name)) ids.emplace_back(std::move(name));
    }
    if (failed) return errno_error(failed.value(), "read " + directory_.native());
    return ids;
}

status attachment_table::load_references(attachment& of) {
    const auto directory = directory_of(of.id);
    TRY_ASSIGN(const auto text, read_file(directory / refs_file));
    TRY_ASSIGN(const auto mark, read_file(directory / administrative_file));
    mount_refs refs;
    if (text) {
        TRY_ASSIGN(refs, mount_refs::decode(*text));
    }
    const std::lock_guard lock(of.state);
    of.refs = std::move(refs);
    of.loaded_at = monotonic_now();
    of.administrative = mark.has_value();
    return ok();
}

status attachment_table::store_references(attachment& of, const mount_refs& refs, bool administrative) {
    const auto directory = directory_of(of.id);
    TRY(make_directories(directory));
    TRY(write_file_atomically(directory / refs_file, refs.encode()));
    if (administrative)
        TRY(write_file_atomically(directory / administrative_file, "attached by an administrator\n"));
    else
        TRY(remove_file(directory / administrative_file));
    const std::lock_guard lock(of.state);
    of.refs = refs;
    of.administrative = administrative;
    of.dockerd_restarted = false;
    of.idle_since.reset();
    return ok();
}

status attachment_table::forget_references(attachment& of) {
    TRY(remove_directory_tree(directory_of(of.id)));
    const std::lock_guard lock(of.state);
    of.refs.clear();
    of.administrative = false;
    of.dockerd_restarted = false;
    of.idle_since.reset();
    of.mountpoint.clear();
    of.file_system_follows = false;
    of.legs.reset();
    of.scrubs.clear();
    return ok();
}

}  // namespace weft
