// SPDX-License-Identifier: Apache-2.0
// What a replica server and its clients say to each other in text: the export's name and the export's description.
//
//   name         <replica uuid>/<epoch>/<session>   a writer's connection; decimal, no leading zeros, both >= 1
//                <replica uuid>                     a read-only look for administrators: fences nobody, never writes
//                …/dirty behind either              the replica's write-intent bitmap (R6) instead of its data
//   description  weft-replica v=1 status=ok boot=<id> epoch=7 session=2 prior=<id or ->
//
// NBD cannot tell the reason of a refused open, so a stale writer is let in with status=fenced and every request of its
// fails with ESHUTDOWN. Both grammars have exactly one spelling per value: what parses renders to the same bytes (a
// description may also carry fields of a later version, which are ignored). Pure; values; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nbd-backend/base/ids.hpp"
#include "nbd-backend/base/result.hpp"
#include "nbd-backend/core/fence.hpp"

namespace weft::core {

struct export_name {
    replica_id replica;
    fence_key key;        // {0, 0}: a look, not a writer
    bool is_map = false;  // the bitmap

    [[nodiscard]] bool is_writer() const noexcept { return key.epoch != 0; }
    friend bool operator==(const export_name&, const export_name&) = default;
};

/// Errors: invalid_argument, quoting the beginning of the name and saying what is expected.
result<export_name> parse_export_name(std::string_view text);
std::string render(const export_name& name);

/// Longest boot id, in bytes; the kernel's is a UUID of 36.
inline constexpr std::size_t boot_id_max = 64;

/// Letters, digits and dashes, beginning with a letter or digit, 1 to boot_id_max bytes.
bool is_boot_id(std::string_view text) noexcept;

struct export_description {
    bool fenced = false;        // this connection is stale: all its requests fail with ESHUTDOWN
    std::string boot_id;        // of the server's kernel
    fence_key current;          // the highest key that the server knows; session 0: none since the server started
    std::string prior_boot_id;  // under which the replica last admitted a change before this was said; empty: never

    friend bool operator==(const export_description&, const export_description&) = default;
};

/// Errors: unsupported for another version, corrupt (naming the field) for anything that is not a description.
result<export_description> parse_export_description(std::string_view text);
std::string render(const export_description& description);

}  // namespace weft::core
