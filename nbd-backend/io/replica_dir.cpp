// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/replica_dir.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "nbd-backend/base/crash_point.hpp"
#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/core/replica_meta.hpp"
#include "nbd-backend/io/drive_dir.hpp"
#include "nbd-backend/io/posix_file.hpp"
#include "nbd-backend/io/replica_file.hpp"

namespace weft::io {

namespace {

std::string replicas_path(const std::string& drive) {
    return drive + "/replicas";
}
std::string trash_path(const std::string& drive) {
    return drive + "/trash";
}
std::string birth_path(const std::string& drive, const replica_id& id) {
    return fmt::format("{}/.tmp-{}", replicas_path(drive), id.str());
}

status sync_file(const unique_fd& fd, const std::string& shown) {
    if (::fsync(fd.get()) != 0) return errno_error(errno, fmt::format("sync {}", shown));
    return ok();
}

status move(const std::string& from, const std::string& to) {
    if (::rename(from.c_str(), to.c_str()) != 0) return errno_error(errno, fmt::format("rename {} to {}", from, to));
    return ok();
}

core::replica_meta meta_at_birth(const replica_birth& birth) {
    core::replica_meta meta;
    meta.incompat = core::incompat_bitmap_kept | (birth.thick ? core::incompat_thick : 0) |
                    (birth.checksums ? core::incompat_sums_kept : 0);
    meta.replica = birth.id;
    meta.volume = birth.volume;
    meta.size_bytes = birth.size_bytes;
    meta.born_equal = birth.born_equal;
    return meta;
}

status write_meta_file(const std::string& path, core::replica_meta meta) {
    TRY_ASSIGN(const auto fd, open_file(path, O_RDWR | O_CREAT | O_EXCL));
    const auto put = [&](std::span<const std::byte> bytes, std::uint64_t offset) -> status {
        if (const int problem = write_at(fd.get(), bytes, offset); problem != 0)
            return errno_error(problem, fmt::format("write {}", path));
        return ok();
    };
    for (meta.generation = 1; meta.generation <= core::meta_slots; ++meta.generation)
        TRY(put(core::encode_meta(meta), core::slot_of(meta.generation) * core::meta_slot_bytes));
    for (std::uint64_t page = 0; page < core::bitmap_page_count(meta); ++page)
        TRY(put(core::encode_birth_page(meta, page), core::bitmap_offset_bytes + page * core::bitmap_page_bytes));
    return sync_file(fd, path);
}

error no_room(const std::string& drive, std::uint64_t wanted_bytes) {
    const auto space = measure_drive(drive);
    return error{errc::no_space, ENOSPC,
                 fmt::format("a thick replica takes {} at once, {} are free on {}", render_size(wanted_bytes),
                             space.has_value() ? render_size(space->free_bytes) : std::string("not so many"), drive)};
}

/// All space of the data of a thick replica.
status allocate(const unique_fd& fd, const std::string& drive, std::uint64_t size_bytes) {
    // Before the attempt: a large one that fails fills the drive for others meanwhile.
    TRY_ASSIGN(const auto space, measure_drive(drive));
    if (space.free_bytes < size_bytes) return no_room(drive, size_bytes);
    int problem = 0;
    do {
        problem = ::fallocate(fd.get(), 0, 0, static_cast<off_t>(size_bytes)) == 0 ? 0 : errno;
    } while (problem == EINTR);
    if (problem == 0) return ok();
    if (problem == ENOSPC) return no_room(drive, size_bytes);
    if (problem == EOPNOTSUPP)
        return error{errc::unsupported, EOPNOTSUPP,
                     fmt::format("the file system of {} cannot allocate space for a thick replica: use XFS or ext4, or "
                                 "create it thin",
                                 drive)};
    return errno_error(problem, fmt::format("allocate {}", render_size(size_bytes)));
}

status write_data_file(const std::string& drive, const std::string& path, const replica_birth& birth) {
    TRY_ASSIGN(const auto fd, open_file(path, O_RDWR | O_CREAT | O_EXCL));
    if (::ftruncate(fd.get(), static_cast<off_t>(birth.size_bytes)) != 0)
        return errno_error(errno, fmt::format("give {} {} bytes", path, birth.size_bytes));
    if (birth.thick) TRY(allocate(fd, drive, birth.size_bytes));
    return sync_file(fd, path);
}

/// All zeros (the sums of holes), with all the space that it will ever need: keeping sums never meets a full drive.
status write_sums_file(const std::string& path, std::uint64_t bytes) {
    TRY_ASSIGN(const auto fd, open_file(path, O_RDWR | O_CREAT | O_EXCL));
    // Where a file system cannot allocate, the C library writes a byte into every block instead.
    int problem = 0;
    do {
        problem = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes));
    } while (problem == EINTR);
    if (problem != 0)
        return errno_error(problem, fmt::format("allocate {} for the checksums {}", render_size(bytes), path));
    return sync_file(fd, path);
}

/// From nothing below .tmp- to a whole replica under its name.
status bear(const std::string& drive, const replica_birth& birth, const core::replica_meta& meta) {
    const std::string unborn = birth_path(drive, birth.id);
    TRY(make_directory(unborn));
    TRY(write_data_file(drive, unborn + "/data", birth));
    WEFT_CRASH_POINT("create.data-written");
    if (birth.checksums) TRY(write_sums_file(unborn + "/sums", core::sums_file_bytes(meta)));
    TRY(write_meta_file(unborn + "/meta", meta));
    TRY(sync_directory(unborn));
    WEFT_CRASH_POINT("create.meta-written");
    return move(unborn, replica_path(drive, birth.id));
}

/// There already: is it the one that is wanted?
status check_same(const std::string& drive, const replica_birth& birth) {
    TRY_ASSIGN(const auto there, replica_file::open(drive, birth.id));
    const auto differs = [&birth](std::string_view what, const auto& is, const auto& wanted) {
        return error{errc::already_exists, fmt::format("replica {} exists with another {}: {} instead of {}",
                                                       birth.id.str(), what, is, wanted)};
    };
    const auto& meta = there.meta();
    if (meta.volume != birth.volume) return differs("volume", meta.volume.str(), birth.volume.str());
    if (meta.size_bytes != birth.size_bytes) return differs("size", meta.size_bytes, birth.size_bytes);
    if (meta.born_equal != birth.born_equal)
        return differs("birth", meta.born_equal ? "equal" : "added", birth.born_equal ? "equal" : "added");
    if (meta.is_thick() != birth.thick)
        return differs("allocation", meta.is_thick() ? "thick" : "thin", birth.thick ? "thick" : "thin");
    if (meta.keeps_sums() != birth.checksums)
        return differs("checksums", meta.keeps_sums() ? "kept" : "off", birth.checksums ? "kept" : "off");
    return ok();
}

status check_id(const replica_id& id) {
    if (is_uuid(id.str())) return ok();
    return error{errc::invalid_argument, "the replica's id is not a UUID"};
}

/// Names in a directory. Errors: not_found, io_failed.
result<std::vector<std::string>> names_in(const std::string& path) {
    std::error_code problem;
    std::vector<std::string> names;
    for (std::filesystem::directory_iterator entry{path, problem}, end; !problem && entry != end;
         entry.increment(problem))
        names.push_back(entry->path().filename().string());
    if (problem) return errno_error(problem.value(), fmt::format("list {}", path));
    return names;
}

}  // namespace

std::string replica_path(const std::string& drive, const replica_id& id) {
    INVARIANT(is_uuid(id.str()), "a path from an id that is not a UUID");
    return fmt::format("{}/{}", replicas_path(drive), id.str());
}

status create_replica(const std::string& drive, const replica_birth& birth) {
    const auto meta = meta_at_birth(birth);
    if (auto fit = core::check(meta); fit.has_error()) return std::move(fit).error().within("create replica");
    const auto context = fmt::format("create replica {} on {}", birth.id.str(), drive);
    const auto make = [&]() -> status {
        const std::string path = replica_path(drive, birth.id);
        TRY_ASSIGN(const bool there, exists(path));
        if (there) {
            TRY(check_same(drive, birth));
        } else {
            const std::string unborn = birth_path(drive, birth.id);
            TRY(remove_tree(unborn));  // of an attempt that was killed
            auto born = bear(drive, birth, meta);
            if (born.has_error()) {
                (void)remove_tree(unborn);  // it may be what fills the drive; the first error is the one to tell
                return born;
            }
            WEFT_CRASH_POINT("create.replica-named");
        }
        // Also when it was there: the attempt that made it may have been killed between rename and sync.
        return sync_directory(replicas_path(drive));
    };
    auto made = make();
    if (made.has_error()) return std::move(made).error().within(context);
    return ok();
}

status remove_replica(const std::string& drive, const replica_id& id) {
    TRY(check_id(id));
    const auto context = fmt::format("remove replica {} from {}", id.str(), drive);
    const auto remove = [&]() -> status {
        const std::string path = replica_path(drive, id);
        const std::string grave = fmt::format("{}/{}", trash_path(drive), id.str());
        // A drive that is not mounted now must not pass for one that does not have the replica.
        TRY(open_directory(replicas_path(drive)));
        TRY(remove_tree(birth_path(drive, id)));
        TRY(remove_tree(grave));
        TRY_ASSIGN(const bool there, exists(path));
        if (there) {
            TRY(make_directory(trash_path(drive)));
            TRY(move(path, grave));
            WEFT_CRASH_POINT("remove.replica-buried");
        }
        // Also when it was gone: a killed attempt may have renamed it without the sync.
        TRY(sync_directory(replicas_path(drive)));
        if (there) TRY(sync_directory(trash_path(drive)));
        return remove_tree(grave);
    };
    auto removed = remove();
    if (removed.has_error()) return std::move(removed).error().within(context);
    return ok();
}

result<std::vector<replica_id>> list_replicas(const std::string& drive) {
    TRY_ASSIGN(auto names, names_in(replicas_path(drive)));
    std::sort(names.begin(), names.end());
    std::vector<replica_id> ids;
    for (auto& name : names)
        if (is_uuid(name)) ids.emplace_back(std::move(name));
    return ids;
}

status empty_trash(const std::string& drive) {
    auto names = names_in(trash_path(drive));
    if (names.has_error()) return names.error().code == errc::not_found ? ok() : status{std::move(names).error()};
    for (const auto& name : *names) TRY(remove_tree(fmt::format("{}/{}", trash_path(drive), name)));
    return ok();
}

}  // namespace weft::io
