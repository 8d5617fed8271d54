// SPDX-License-Identifier: Apache-2.0
#include "dm-tables/io/luks.hpp"

#include <fmt/format.h>
#include <libcryptsetup.h>

#include <cerrno>
#include <memory>
#include <mutex>

#include "dm-tables/io/dm_driver.hpp"

namespace weft::dm {

namespace {

constexpr std::uint64_t metadata_bytes = 16 * kib;  // each of two copies of the header
constexpr std::uint64_t keyslots_bytes = luks_header_bytes - 2 * metadata_bytes;
constexpr std::uint64_t header_sectors = luks_header_bytes / 512;
constexpr std::size_t volume_key_bytes = 64;
constexpr std::size_t complaint_max = 1000;  // characters

void collect(int level, const char* message, void* complaints) {
    auto& all = *static_cast<std::string*>(complaints);
    if (level != CRYPT_LOG_ERROR || all.size() > complaint_max) return;
    std::string_view text(message);
    while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
    all += (all.empty() ? "" : "; ") + std::string(text);
}

struct device_deleter {
    void operator()(crypt_device* device) const { crypt_free(device); }
};

/// Being inside the library: mutex, a device, and what was complained of.
class session {
public:
    explicit session(const luks_volume& volume) : volume_(volume), lock_(library_mutex()) {}

    status begin() { return opened(crypt_init(&raw_, volume_.device.c_str()), volume_.device); }
    status begin_active() { return opened(crypt_init_by_name(&raw_, volume_.name.c_str()), volume_.name); }
    crypt_device* get() { return device_.get(); }

    /// A return value of the library as a status; `doing` goes before its words.
    status check(int outcome, std::string_view doing) {
        if (outcome >= 0) return ok();
        error failed = errno_error(-outcome, fmt::format("{} {}", doing, volume_.device));
        if (outcome == -ENODEV) failed.code = errc::not_found;
        if (!complaints_.empty()) failed.text += " (" + complaints_ + ")";
        return failed;
    }

    /// As check, of a call that was given the key.
    status check_key(int outcome, std::string_view doing) {
        if (outcome != -EPERM) return check(outcome, doing);
        return error{errc::unavailable, EPERM,
                     fmt::format("the key does not open {} (LUKS UUID {})", volume_.device, volume_.uuid)};
    }

private:
    status opened(int outcome, const std::string& what) {
        device_.reset(raw_);
        if (outcome < 0) return check(outcome, fmt::format("look at {} for LUKS on", what));
        crypt_set_log_callback(get(), collect, &complaints_);
        crypt_set_rng_type(get(), CRYPT_RNG_URANDOM);
        return ok();
    }

    const luks_volume& volume_;
    std::lock_guard<std::timed_mutex> lock_;
    std::string complaints_;
    crypt_device* raw_ = nullptr;
    std::unique_ptr<crypt_device, device_deleter> device_;
};

}  // namespace

status luks_format(const luks_volume& volume, std::string_view key) {
    session inside(volume);
    TRY(inside.begin());
    crypt_pbkdf_type derivation{};
    derivation.type = CRYPT_KDF_PBKDF2;
    derivation.hash = "sha512";
    derivation.iterations = 1000;
    derivation.flags = CRYPT_PBKDF_NO_BENCHMARK;
    TRY(inside.check(crypt_set_pbkdf_type(inside.get(), &derivation), "choose the key derivation for"));
    TRY(inside.check(crypt_set_metadata_size(inside.get(), metadata_bytes, keyslots_bytes), "lay out the header of"));
    TRY(inside.check(crypt_set_data_offset(inside.get(), header_sectors), "lay out the header of"));
    crypt_params_luks2 parameters{};
    parameters.sector_size = static_cast<std::uint32_t>(block_bytes);
    TRY(inside.check(crypt_format(inside.get(), CRYPT_LUKS2, "aes", "xts-plain64", volume.uuid.c_str(), nullptr,
                                  volume_key_bytes, &parameters),
                     "write a LUKS header to"));
    return inside.check(
        crypt_keyslot_add_by_volume_key(inside.get(), 0, nullptr, volume_key_bytes, key.data(), key.size()),
        "write the key slot of");
}

status luks_open(const luks_volume& volume, std::string_view key) {
    session inside(volume);
    TRY(inside.begin());
    if (auto loaded = inside.check(crypt_load(inside.get(), CRYPT_LUKS2, nullptr), "read the LUKS header of");
        loaded.has_error()) {
        if (loaded.error().os_errno != EINVAL) return loaded;
        return error{errc::corrupt, loaded.error().text};
    }
    if (const char* found = crypt_get_uuid(inside.get()); found == nullptr || volume.uuid != found)
        return error{errc::corrupt, fmt::format("{} has a LUKS header with UUID {}, not {}", volume.device,
                                                found == nullptr ? "unknown" : found, volume.uuid)};
    return inside.check_key(crypt_activate_by_passphrase(inside.get(), volume.name.c_str(), CRYPT_ANY_SLOT, key.data(),
                                                         key.size(), CRYPT_ACTIVATE_ALLOW_DISCARDS),
                            "open");
}

status luks_resize(const luks_volume& volume, std::string_view key) {
    session inside(volume);
    TRY(inside.begin_active());
    TRY(inside.check_key(crypt_activate_by_passphrase(inside.get(), nullptr, CRYPT_ANY_SLOT, key.data(), key.size(),
                                                      CRYPT_ACTIVATE_KEYRING_KEY),
                         "take the key of"));
    return inside.check(crypt_resize(inside.get(), volume.name.c_str(), 0), "resize the clear device of");
}

}  // namespace weft::dm
