// SPDX-License-Identifier: Apache-2.0
#include "nbd-backend/io/drive_dir.hpp"

#include <boost/json.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <span>

#include "nbd-backend/base/invariant.hpp"
#include "nbd-backend/io/posix_file.hpp"

namespace weft::io {

namespace json = boost::json;

namespace {

constexpr std::size_t identity_bytes_max = 64 * kib;
constexpr std::int64_t identity_version = 1;
/// Room for the longest name below a drive: /replicas/.tmp-<uuid>/data.
constexpr std::size_t drive_path_max = PATH_MAX - 64;

std::string identity_path(const std::string& drive) {
    return drive + "/weft.json";
}

error bad_identity(std::string_view what) {
    return error{errc::corrupt, fmt::format("weft.json: {}", what)};
}

result<std::string> text_field(const json::object& object, std::string_view name) {
    const auto* field = object.if_contains(name);
    if (field == nullptr || !field->is_string() || field->get_string().empty())
        return bad_identity(fmt::format("field '{}' is missing or is not a text", name));
    return std::string(field->get_string());
}

/// Absolute, there, a directory.
status check_directory(const std::string& path) {
    TRY(check_drive_path(path));
    struct stat found {};
    if (::stat(path.c_str(), &found) != 0) {
        if (errno == ENOENT)
            return error{errc::not_found, ENOENT, fmt::format("drive {} does not exist: create the directory", path)};
        if (errno == ENOTDIR)
            return error{errc::invalid_argument, ENOTDIR, fmt::format("drive {}: a part of it is no directory", path)};
        return errno_error(errno, fmt::format("drive {}", path));
    }
    if (!S_ISDIR(found.st_mode))
        return error{
            errc::invalid_argument,
            fmt::format("drive {} is not a directory: name the directory where its file system is mounted", path)};
    return ok();
}

/// Can a replica live here? Tried, not guessed: mount options do not tell everything.
status check_usable(const std::string& path) {
    struct statvfs now {};
    if (::statvfs(path.c_str(), &now) != 0) return errno_error(errno, fmt::format("drive {}", path));
    const auto read_only = [&path] {
        return error{errc::invalid_argument, EROFS,
                     fmt::format("drive {} is read-only: mount it read-write or name another one", path)};
    };
    if ((now.f_flag & ST_RDONLY) != 0) return read_only();
    if (::access(path.c_str(), W_OK | X_OK) != 0) {
        if (errno == EROFS) return read_only();
        return errno_error(errno, fmt::format("drive {} cannot be written to", path));
    }
    return ok();
}

status check_room(const std::string& path) {
    TRY_ASSIGN(const auto space, measure_drive(path));
    if (space.free_bytes < drive_free_min_bytes)
        return error{errc::no_space, fmt::format("drive {} is full: {} are free, at least {} are needed", path,
                                                 render_size(space.free_bytes), render_size(drive_free_min_bytes))};
    return ok();
}

status make_layout(const std::string& path) {
    TRY(make_directory(path + "/replicas"));
    TRY(make_directory(path + "/trash"));
    // The lock's file is there from the start, so that taking the lock never has to create anything.
    TRY(open_file(path + "/lock", O_RDWR | O_CREAT));
    return sync_directory(path);
}

/// The complete file appears under its name, unless there is one already: link(2) decides between racing processes.
status publish_identity(const std::string& path, const drive_identity& identity) {
    const std::string text = encode_drive_identity(identity) + "\n";
    const std::string temporary = fmt::format("{}/.weft.json.{}", path, make_uuid());
    TRY_ASSIGN(const auto fd, open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, 0644));
    int problem = write_at(fd.get(), std::as_bytes(std::span(text)), 0);
    if (problem == 0 && ::fsync(fd.get()) != 0) problem = errno;
    if (problem == 0 && ::link(temporary.c_str(), identity_path(path).c_str()) != 0 && errno != EEXIST) problem = errno;
    (void)::unlink(temporary.c_str());
    if (problem != 0) return errno_error(problem, fmt::format("write {}", identity_path(path)));
    return sync_directory(path);
}

status check_owner(const std::string& path, const drive_identity& found, const drive_identity& wanted) {
    if (found.cluster != wanted.cluster)
        return error{errc::busy,
                     fmt::format("drive {} belongs to another cluster, {} (this one is {}): if nothing on it "
                                 "is needed, empty the directory and add it again",
                                 path, found.cluster, wanted.cluster)};
    if (found.node != wanted.node)
        return error{errc::busy, fmt::format("drive {} belongs to node '{}', this is node '{}': add it there", path,
                                             found.node.str(), wanted.node.str())};
    return ok();
}

}  // namespace

std::string encode_drive_identity(const drive_identity& identity) {
    INVARIANT(is_uuid(identity.drive.str()) && is_uuid(identity.cluster) && !identity.node.empty(),
              "an incomplete identity of a drive");
    return json::serialize(json::object{{"version", identity_version},
                                        {"drive", identity.drive.str()},
                                        {"cluster", identity.cluster},
                                        {"node", identity.node.str()}});
}

result<drive_identity> decode_drive_identity(std::string_view text) {
    boost::system::error_code problem;
    const json::value parsed = json::parse(text, problem);
    if (problem) return bad_identity(fmt::format("not JSON: {}", problem.message()));
    if (!parsed.is_object()) return bad_identity("not a JSON object");
    const json::object& object = parsed.get_object();
    const auto* version = object.if_contains("version");
    if (version == nullptr || !version->is_int64())
        return bad_identity("field 'version' is missing or is not a number");
    if (version->get_int64() != identity_version)
        return error{errc::unsupported, fmt::format("weft.json: version {}, this Weft knows {}: upgrade it",
                                                    version->get_int64(), identity_version)};
    TRY_ASSIGN(auto drive, text_field(object, "drive"));
    TRY_ASSIGN(auto cluster, text_field(object, "cluster"));
    TRY_ASSIGN(auto node, text_field(object, "node"));
    if (!is_uuid(drive)) return bad_identity("field 'drive' is not a UUID");
    if (!is_uuid(cluster)) return bad_identity("field 'cluster' is not a UUID");
    return drive_identity{drive_id{std::move(drive)}, std::move(cluster), node_name{std::move(node)}};
}

status check_drive_path(const std::string& path) {
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
    if (std::any_of(path.begin(), path.end(), is_control))
        return error{errc::invalid_argument, "the drive's path contains control characters"};
    if (path.empty() || path[0] != '/')
        return error{errc::invalid_argument,
                     fmt::format("'{}' is not an absolute path: a drive is named from the root, such as /srv/weft",
                                 path.substr(0, 200))};
    if (path.size() > drive_path_max)
        return error{errc::invalid_argument, fmt::format("the drive's path has {} bytes, at most {} are possible: {}…",
                                                         path.size(), drive_path_max, path.substr(0, 100))};
    return ok();
}

result<drive_identity> init_drive(const std::string& path, const drive_identity& wanted) {
    INVARIANT(is_uuid(wanted.drive.str()) && is_uuid(wanted.cluster) && !wanted.node.empty(),
              "an incomplete identity for drive {}", path);
    TRY(check_directory(path));
    TRY_ASSIGN(const bool published, exists(identity_path(path)));
    if (published) {
        TRY_ASSIGN(auto found, read_drive(path));
        TRY(check_owner(path, found, wanted));
    }
    TRY(check_usable(path));
    if (!published) TRY(check_room(path));  // a drive that became full is still a drive
    TRY(make_layout(path));
    if (!published) TRY(publish_identity(path, wanted));
    TRY_ASSIGN(auto identity, read_drive(path));
    TRY(check_owner(path, identity, wanted));
    return identity;
}

result<drive_identity> read_drive(const std::string& path) {
    TRY(check_directory(path));
    auto text = read_small_file(identity_path(path), identity_bytes_max);
    if (text.has_error()) {
        if (text.error().code == errc::not_found)
            return error{errc::not_found, ENOENT,
                         fmt::format("{} is not a drive yet, it has no weft.json: `weft drive add {}`", path, path)};
        return std::move(text).error().within(fmt::format("drive {}", path));
    }
    auto identity = decode_drive_identity(*text);
    if (identity.has_error()) return std::move(identity).error().within(fmt::format("drive {}", path));
    return identity;
}

result<drive_space> measure_drive(const std::string& path) {
    struct statvfs now {};
    if (::statvfs(path.c_str(), &now) != 0) return errno_error(errno, fmt::format("drive {}", path));
    return drive_space{now.f_blocks * now.f_frsize, now.f_bavail * now.f_frsize};
}

}  // namespace weft::io
