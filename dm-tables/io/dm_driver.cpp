// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/io/dm_driver.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <libdevmapper.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <memory>

#include "dm-tables/core/crypt_device.hpp"
#include "dm-tables/core/dm_name.hpp"
#include "dm-tables/core/text.hpp"
#include "dm-tables/io/kernel_log.hpp"
#include "dm-tables/io/leg_superblock.hpp"
#include "dm-tables/io/udev_cookie.hpp"

namespace weft::dm {

namespace {

constexpr std::chrono::seconds udev_limit{
    120};  // udevd itself gives up an event after 180 s; a scan takes milliseconds

/// What libdevmapper complained of since the library was entered. Guarded by the mutex.
std::string* complaints = nullptr;

__attribute__((format(printf, 5, 6))) void collect(int level, const char* /*file*/, int /*line*/, int /*code*/,
                                                   const char* format, ...) {
    constexpr int log_error = 3;  // syslog(3)'s; bits above 7 are libdevmapper's flags
    if (complaints == nullptr || (level & 7) > log_error) return;
    std::array<char, 512> text{};
    va_list arguments;
    va_start(arguments, format);
    (void)std::vsnprintf(text.data(), text.size(), format, arguments);
    va_end(arguments);
    if (complaints->size() < 1000) *complaints += (complaints->empty() ? "" : "; ") + std::string(text.data());
}

/// Being inside the library: mutex, log.
class visit {
public:
    visit() : visit(std::nullopt) {}
    /// Waits for no longer than that to get inside; `holds` tells whether it is.
    explicit visit(std::optional<std::chrono::milliseconds> patience)
        : lock_(patience ? std::unique_lock(library_mutex(), *patience) : std::unique_lock(library_mutex())) {
        if (!holds()) return;
        complaints = &said_;
        dm_log_with_errno_init(collect);
    }
    [[nodiscard]] bool holds() const { return lock_.owns_lock(); }
    ~visit() {
        if (!holds()) return;
        dm_lib_release();
        dm_log_with_errno_init(nullptr);
        complaints = nullptr;
    }
    visit(const visit&) = delete;
    visit& operator=(const visit&) = delete;
    /// What was said since the last call.
    std::string said() { return std::exchange(said_, {}); }

private:
    std::unique_lock<std::timed_mutex> lock_;
    std::string said_;
};

struct task_deleter {
    void operator()(dm_task* task) const { dm_task_destroy(task); }
};
using task_pointer = std::unique_ptr<dm_task, task_deleter>;

std::string number_text(std::uint64_t major, std::uint64_t minor) {
    return fmt::format("{}:{}", major, minor);
}

/// Some targets end their words with a space, which a table of ours does not.
std::string with_single_spaces(const std::string& params) {
    std::string words;
    for (const std::string_view word : words_of(params)) words += (words.empty() ? "" : " ") + std::string(word);
    return words;
}

/// One request to the kernel.
class request {
public:
    request(visit& inside, int type, const std::string& name)
        : inside_(inside), name_(name), task_(dm_task_create(type)) {
        good_ = task_ != nullptr;
        if (!name.empty()) set(dm_task_set_name(task_.get(), name.c_str()));
    }

    request& set(int outcome) {
        good_ = good_ && outcome != 0;
        return *this;
    }
    dm_task* get() { return task_.get(); }

    /// Errors by errno: ENXIO is not_found, EBUSY busy, EINVAL invalid_argument.
    status run() {
        const kernel_log log;
        if (good_ && dm_task_run(task_.get()) != 0) return ok();
        const int problem = task_ == nullptr ? ENOMEM : dm_task_get_errno(task_.get());
        std::string reason = log.said();
        const std::string library = inside_.said();
        if (reason.empty()) reason = library.empty() ? "libdevmapper gave no reason" : library;
        if (problem == ENXIO) return error{errc::not_found, problem, fmt::format("device {} is not there", name_)};
        error failed = errno_error(problem == 0 ? EIO : problem, name_);
        if (problem == EINVAL) failed.code = errc::invalid_argument;
        failed.text += " (" + reason + ")";
        return failed;
    }

    /// The rows of a table or status request that was run.
    raw_table rows() {
        raw_table found;
        void* next = nullptr;
        do {
            std::uint64_t start = 0;
            std::uint64_t length = 0;
            char* type = nullptr;
            char* params = nullptr;
            next = dm_get_next_target(task_.get(), next, &start, &length, &type, &params);
            if (type == nullptr) break;
            found.push_back(
                {start, length, type, with_single_spaces(without_key(type, params == nullptr ? "" : params))});
        } while (next != nullptr);
        return found;
    }

private:
    visit& inside_;
    std::string name_;
    task_pointer task_;
    bool good_;
};

/// libdevmapper would make a node for a kernel that has no device-mapper, so we look before it does.
status look_for_kernel() {
    const int fd = ::open("/dev/mapper/control", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)::close(fd);
        return ok();
    }
    const int problem = errno;
    if (problem == EACCES || problem == EPERM)
        return error{errc::unavailable, problem, "device-mapper cannot be used: /dev/mapper/control is for root only"};
    return error{
        errc::unavailable, problem,
        fmt::format("this kernel offers no device-mapper (/dev/mapper/control: {}): load it with `modprobe dm-mod`, "
                    "or use the portable attach, which needs none",
                    errno_error(problem, "open").text)};
}

result<std::optional<device_info>> info_of(visit& inside, const std::string& name) {
    request ask(inside, DM_DEVICE_INFO, name);
    const status ran = ask.run();
    if (ran.has_error() && ran.error().code == errc::not_found) return std::optional<device_info>{};
    TRY(ran);
    dm_info it{};
    if (dm_task_get_info(ask.get(), &it) == 0 || it.exists == 0) return std::optional<device_info>{};
    const char* uuid = dm_task_get_uuid(ask.get());
    return std::optional<device_info>{device_info{name, uuid == nullptr ? "" : uuid, number_text(it.major, it.minor),
                                                  it.suspended != 0, it.live_table != 0, it.inactive_table != 0,
                                                  static_cast<std::uint64_t>(it.open_count), it.event_nr}};
}

result<raw_table> rows_of(visit& inside, int type, const std::string& name, bool inactive = false) {
    request ask(inside, type, name);
    ask.set(dm_task_no_flush(ask.get())).set(dm_task_secure_data(ask.get()));
    if (inactive) ask.set(dm_task_query_inactive_table(ask.get()));
    TRY(ask.run());
    return ask.rows();
}

result<std::vector<std::string>> names_of_all(visit& inside) {
    request ask(inside, DM_DEVICE_LIST, "");
    TRY(ask.run());
    std::vector<std::string> names;
    const dm_names* it = dm_task_get_names(ask.get());
    if (it == nullptr || it->dev == 0) return names;
    while (true) {
        names.emplace_back(it->name);
        if (it->next == 0) return names;
        it = reinterpret_cast<const dm_names*>(reinterpret_cast<const char*>(it) + it->next);
    }
}

/// The number of a block device that exists.
std::optional<std::string> number_of_path(const std::string& path) {
    struct stat it {};
    if (::stat(path.c_str(), &it) != 0 || !S_ISBLK(it.st_mode)) return std::nullopt;
    return number_text(major(it.st_rdev), minor(it.st_rdev));
}

constexpr std::string_view mapper_folder = "/dev/mapper/";

/// Numbers for all that a table maps; device-mapper's own devices by name, so that no node needs to be there yet.
result<device_numbers> numbers_for(visit& inside, const raw_table& rows) {
    device_numbers numbers;
    for (const std::string& path : devices_of(rows)) {
        std::optional<std::string> number;
        if (path.starts_with(mapper_folder)) {
            TRY_ASSIGN(const auto lower, info_of(inside, path.substr(mapper_folder.size())));
            if (lower) number = lower->number;
        } else {
            number = number_of_path(path);
        }
        if (!number) return error{errc::not_found, fmt::format("{} is not a block device that is there", path)};
        numbers[path] = *number;
    }
    return numbers;
}

/// What udev shall do with a device of ours. The parts of a volume are nobody's business: a leg of raid1 looks like the
/// whole file system to blkid, and whoever opened it would keep us from removing it.
std::uint16_t udev_flags(const raw_step& it) {
    const auto who = parse_uuid(it.uuid);
    const bool volume =
        is_crypt_device(it.name, it.uuid) || (who.has_value() && who->role.what == device_role::part::volume);
    return volume ? 0 : DM_UDEV_DISABLE_DISK_RULES_FLAG | DM_UDEV_DISABLE_OTHER_RULES_FLAG;
}

class stepper {
public:
    stepper(visit& inside, udev_cookie& cookie) : inside_(inside), cookie_(cookie) {}

    status carry_out(const raw_step& it) {
        TRY_ASSIGN(const auto there, info_of(inside_, it.name));
        if (there && there->uuid != it.uuid)
            return error{errc::conflict, fmt::format("the name belongs to UUID '{}' now", shown(there->uuid))};
        if (it.what == step::verb::create) return there ? ok() : create(it);
        if (it.what == step::verb::remove) return there ? remove(it) : ok();
        if (!there) return error{errc::not_found, "there is no such device"};
        switch (it.what) {
            case step::verb::load: return load(it);
            case step::verb::doubt: return doubt(it);
            case step::verb::clear: return request(inside_, DM_DEVICE_CLEAR, it.name).run();
            case step::verb::suspend: return suspend(it);
            case step::verb::resume: return resume(it);
            case step::verb::create:
            case step::verb::remove: break;
        }
        return error{errc::unsupported, "no such verb"};
    }

private:
    status create(const raw_step& it) {
        request ask(inside_, DM_DEVICE_CREATE, it.name);
        return ask.set(dm_task_set_uuid(ask.get(), it.uuid.c_str())).run();
    }

    status load(const raw_step& it) {
        TRY_ASSIGN(const device_numbers numbers, numbers_for(inside_, it.rows));
        const auto numbered = by_number(it.rows, numbers);  // numbers_for found each
        request ask(inside_, DM_DEVICE_RELOAD, it.name);
        for (const raw_row& row : *numbered)
            ask.set(dm_task_add_target(ask.get(), row.start_sectors, row.length_sectors, row.type.c_str(),
                                       row.params.c_str()));
        return ask.run();
    }

    /// Where it is, and not by the device's own node, which udev may not have made yet.
    status doubt(const raw_step& it) {
        const auto words = it.rows.empty() ? std::vector<std::string_view>{} : words_of(it.rows.front().params);
        if (words.size() != 2 || it.rows.front().type != "linear" || words[1] != "0")
            return error{errc::invalid_argument, "a leg's metadata are not at the beginning of a device"};
        return doubt_leg(std::string(words[0]));
    }

    status suspend(const raw_step& it) {
        request ask(inside_, DM_DEVICE_SUSPEND, it.name);
        return unless_it_is(it, true, ask.set(dm_task_no_flush(ask.get())).set(dm_task_skip_lockfs(ask.get())).run());
    }

    status resume(const raw_step& it) {
        request ask(inside_, DM_DEVICE_RESUME, it.name);
        ask.set(dm_task_set_read_ahead(ask.get(), DM_READ_AHEAD_AUTO, 0))
            .set(dm_task_set_cookie(ask.get(), cookie_.value(), udev_flags(it)));
        return unless_it_is(it, false, ask.run());
    }

    /// The kernel refuses what is done already (dm_suspend, dm_resume: EINVAL), perhaps by somebody who was killed
    /// before and came to it only now.
    status unless_it_is(const raw_step& it, bool suspended, status outcome) {
        if (!outcome.has_error() || outcome.error().code != errc::invalid_argument) return outcome;
        const auto now = info_of(inside_, it.name);
        return now.has_value() && *now && (*now)->suspended == suspended ? ok() : outcome;
    }

    /// A device that was just closed may be open once more for a moment: udev looks at what was written. When it has
    /// nothing left to do and the device is still busy, somebody uses it.
    status remove(const raw_step& it) {
        const status first = try_remove(it);
        if (!first.has_error() || first.error().code != errc::busy || !wait_for_idle_udev(udev_limit)) return first;
        return try_remove(it);
    }

    status try_remove(const raw_step& it) {
        request ask(inside_, DM_DEVICE_REMOVE, it.name);
        return ask.set(dm_task_set_cookie(ask.get(), cookie_.value(), udev_flags(it))).run();
    }

    visit& inside_;
    udev_cookie& cookie_;
};

result<std::optional<observed_device>> observe_device(visit& inside, const device_info& it) {
    observed_device seen{it.name, it.uuid, it.number, {}, {}, it.suspended, it.open_count, {}};
    if (it.has_active) {
        TRY_ASSIGN(seen.active, rows_of(inside, DM_DEVICE_TABLE, it.name));
        TRY_ASSIGN(seen.status, rows_of(inside, DM_DEVICE_STATUS, it.name));
        for (const raw_row& row : seen.status) {
            const auto set = row.type == "raid" ? parse_raid_status(row.params) : result<raid_status>(raid_status{});
            if (set.has_error()) return set.error().within(it.name);
            for (unsigned leg = 0; leg < set->legs.size(); ++leg)
                if (set->legs[leg] == leg_health::failed) seen.failed_legs.push_back(leg);
        }
    }
    if (it.has_inactive) {
        TRY_ASSIGN(seen.inactive, rows_of(inside, DM_DEVICE_TABLE, it.name, true));
    }
    return std::optional<observed_device>{std::move(seen)};
}

bool is_wanted_name(const std::vector<volume_stack>& wanted, const std::string& name) {
    return std::any_of(wanted.begin(), wanted.end(), [&name](const volume_stack& stack) {
        return std::any_of(stack.devices.begin(), stack.devices.end(),
                           [&name](const dm_device& device) { return device.name == name; });
    });
}

}  // namespace

std::timed_mutex& library_mutex() {
    static std::timed_mutex mutex;
    return mutex;
}

status driver::check_available() {
    return look_for_kernel();
}

result<std::string> driver::version() {
    TRY(look_for_kernel());
    visit inside;
    request ask(inside, DM_DEVICE_VERSION, "");
    TRY(ask.run());
    std::array<char, 64> text{};
    if (dm_task_get_driver_version(ask.get(), text.data(), text.size()) == 0)
        return error{errc::io_failed, "device-mapper gave no version"};
    return std::string(text.data());
}

result<observation> driver::observe(const std::vector<volume_stack>& wanted,
                                    std::optional<std::chrono::milliseconds> patience) {
    TRY(look_for_kernel());
    visit inside(patience);
    if (!inside.holds()) return error{errc::busy, "device-mapper is being changed, and that waits for I/O under way"};
    observation there;
    TRY_ASSIGN(const auto names, names_of_all(inside));
    for (const std::string& name : names) {
        TRY_ASSIGN(const auto it, info_of(inside, name));
        if (!it) continue;
        const bool ours = it->uuid.starts_with(uuid_prefix) || is_crypt_device(name, it->uuid);
        if (!ours && !is_wanted_name(wanted, name)) continue;
        auto seen = observe_device(inside, *it);
        if (seen.has_error() && seen.error().code == errc::not_found) continue;
        TRY(seen);
        if (*seen) there.devices.push_back(std::move(**seen));
    }
    for (const volume_stack& stack : wanted)
        for (const dm_device& device : stack.devices)
            for (const std::string& path : devices_of(device.rows))
                if (const auto number = number_of_path(path)) there.numbers[path] = *number;
    return there;
}

status driver::apply(const std::vector<raw_step>& steps) {
    TRY(look_for_kernel());
    visit inside;
    udev_cookie cookie;
    TRY(cookie.create());
    stepper hand(inside, cookie);
    status outcome;
    for (const raw_step& it : steps) {
        outcome = hand.carry_out(it);
        if (outcome.has_error()) {
            outcome = outcome.error().within(fmt::format("{} {}", to_string(it.what), it.name));
            break;
        }
    }
    const status waited = cookie.wait(udev_limit);
    return outcome.has_error() ? outcome : waited;
}

status driver::make_nodes() {
    TRY(look_for_kernel());
    visit inside;
    if (dm_udev_get_sync_support() != 0) return ok();
    TRY_ASSIGN(const auto names, names_of_all(inside));
    for (const std::string& name : names) {
        TRY_ASSIGN(const auto it, info_of(inside, name));
        if (it && it->uuid.starts_with(uuid_prefix)) TRY(request(inside, DM_DEVICE_MKNODES, name).run());
    }
    return ok();
}

result<std::optional<device_info>> driver::info(const std::string& name) {
    TRY(look_for_kernel());
    visit inside;
    return info_of(inside, name);
}

result<raw_table> driver::active_table(const std::string& name) {
    TRY(look_for_kernel());
    visit inside;
    return rows_of(inside, DM_DEVICE_TABLE, name);
}

result<raw_table> driver::status_rows(const std::string& name) {
    TRY(look_for_kernel());
    visit inside;
    return rows_of(inside, DM_DEVICE_STATUS, name);
}

result<std::vector<std::string>> driver::dependencies(const std::string& name) {
    TRY(look_for_kernel());
    visit inside;
    request ask(inside, DM_DEVICE_DEPS, name);
    TRY(ask.run());
    std::vector<std::string> numbers;
    const dm_deps* deps = dm_task_get_deps(ask.get());
    for (std::uint32_t i = 0; deps != nullptr && i < deps->count; ++i)
        numbers.push_back(number_text(major(deps->device[i]), minor(deps->device[i])));
    return numbers;
}

status driver::message(const std::string& name, std::uint64_t sector, const std::string& text) {
    TRY(look_for_kernel());
    visit inside;
    request ask(inside, DM_DEVICE_TARGET_MSG, name);
    return ask.set(dm_task_set_sector(ask.get(), sector)).set(dm_task_set_message(ask.get(), text.c_str())).run();
}

}  // namespace weft::dm
