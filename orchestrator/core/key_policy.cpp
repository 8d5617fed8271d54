// SPDX-License-Identifier: Apache-2.0
#include "orchestrator/core/key_policy.hpp"

#include <fmt/format.h>

namespace weft {

namespace {

constexpr std::uint32_t others_any = 077;
constexpr std::uint32_t others_write = 022;
constexpr std::uint32_t any_execute = 0111;

error refused(std::string text) {
    return error{errc::unavailable, std::move(text)};
}

status check_owner(const std::string& what, const file_facts& facts, std::uint32_t me) {
    if (facts.owner == 0 || facts.owner == me) return ok();
    return refused(fmt::format("{} belongs to user {}, who could change it: chown it to root", what, facts.owner));
}

status check_mode(const std::string& what, const file_facts& facts, std::uint32_t forbidden, std::string_view problem,
                  std::string_view remedy) {
    if ((facts.mode & forbidden) == 0) return ok();
    return refused(fmt::format("{} has mode {:04o}: {}; chmod it to {}", what, facts.mode, problem, remedy));
}

}  // namespace

std::array<std::string, 2> key_file_names(std::string_view volume) {
    return {std::string(volume) + ".key", "default.key"};
}

status check_key_file(const std::string& path, const file_facts& facts, std::uint32_t me) {
    const std::string what = "key file " + path;
    if (!facts.right_kind) return refused(what + " is not a plain file");
    TRY(check_owner(what, facts, me));
    return check_mode(what, facts, others_any, "others than its owner could read or change it", "0400");
}

status check_key_directory(const std::string& path, const file_facts& facts, std::uint32_t me) {
    const std::string what = "key directory " + path;
    if (!facts.right_kind) return refused(what + " is not a directory");
    TRY(check_owner(what, facts, me));
    return check_mode(what, facts, others_write, "others than its owner could put keys into it", "0700");
}

status check_key_command(const std::string& path, const file_facts& facts, std::uint32_t me) {
    const std::string what = "key command " + path;
    if (!facts.right_kind || (facts.mode & any_execute) == 0) return refused(what + " is not a program");
    TRY(check_owner(what, facts, me));
    return check_mode(what, facts, others_write, "others than its owner could change it", "0755");
}

status check_key_size(std::string_view source, std::size_t size) {
    if (size >= key_size_min && size <= key_size_max) return ok();
    return refused(
        fmt::format("{} gave a key of {} bytes, which is {} than {}: a key is {} to {} bytes, all of them "
                    "random (head -c 64 /dev/urandom makes one)",
                    source, size, size < key_size_min ? "fewer" : "more",
                    size < key_size_min ? key_size_min : key_size_max, key_size_min, key_size_max));
}

}  // namespace weft
