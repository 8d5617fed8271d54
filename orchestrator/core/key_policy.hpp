// SPDX-License-Identifier: Apache-2.0
// What a volume's key may be and where it may come from.
//
// The key of an encrypted volume opens its LUKS header. Weft keeps no key: this node asks for it each time the volume
// is unlocked or grows, either a command (`key-command`) or, without one, the key directory (`key-directory`), there
// NAME.key or, if that does not exist, default.key. All bytes count, a newline at the end too; there are 32 to 4096 of
// them. 32 random bytes cannot be guessed, which is what the cheap key derivation rests on (dm-tables/io/luks.hpp);
// what is shorter was typed by somebody.
// What others can read, or write, is not a secret of this node's: refused. Pure; any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nbd-backend/base/result.hpp"

namespace weft {

inline constexpr std::size_t key_size_min = 32;    // bytes
inline constexpr std::size_t key_size_max = 4096;  // bytes: secret_bytes has a page

/// Of a file, directory or program, links followed: stat(2)'s.
struct file_facts {
    bool right_kind = false;  // a plain file, or a directory
    std::uint32_t owner = 0;
    std::uint32_t mode = 0;  // permission bits
};

/// The files of the key directory that may hold the key of a volume, the first that exists counts. Precondition: the
/// name passed check_volume_name.
std::array<std::string, 2> key_file_names(std::string_view volume);

/// Belongs to `me` or root; nobody else can read or write it. Errors: unavailable, saying what to do.
status check_key_file(const std::string& path, const file_facts& facts, std::uint32_t me);
/// Belongs to `me` or root; nobody else can put or exchange files in it. Errors: unavailable.
status check_key_directory(const std::string& path, const file_facts& facts, std::uint32_t me);
/// Belongs to `me` or root, can be executed; nobody else can change it. Errors: unavailable.
status check_key_command(const std::string& path, const file_facts& facts, std::uint32_t me);

/// `source` names the file or command. Errors: unavailable.
status check_key_size(std::string_view source, std::size_t size);

}  // namespace weft
