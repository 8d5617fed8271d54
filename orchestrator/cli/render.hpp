// SPDX-License-Identifier: Apache-2.0
// The API's answers as text for people: JSON value and style in, text out (golden files in tests/golden). Pure.
//
// Sizes are shortened here and only here; `-o json` prints what weftd answered.
#pragma once

#include <boost/json.hpp>

#include <string>

#include "orchestrator/cli/progress.hpp"
#include "orchestrator/cli/text.hpp"

namespace weft::cli {

std::string render_nodes(const style& how, const boost::json::value& nodes);
/// The device, or where there is none the directory.
std::string drive_name(const boost::json::value& drive);
std::string render_drive(const style& how, const boost::json::value& drive);
std::string render_drives(const style& how, const boost::json::value& drives);
std::string render_volumes(const style& how, const boost::json::value& volumes);
std::string render_status(const style& how, const boost::json::value& cluster);
std::string render_events(const style& how, const boost::json::value& events);

/// One volume, and its stack as a tree: file system, devices, extents with their engines, replicas with drive and
/// address.
/// `drives`: the answer of /v1/drives, or null if it could not be had.
std::string render_volume(const style& how, const boost::json::value& volume, const boost::json::value& drives,
                          const progress_map& progress);

/// What a repair did, a line each; `subject` as in "volume db".
std::string render_repair(const boost::json::value& repair, const std::string& subject);

/// "thin, checksums on, on-full hold, …".
std::string render_policies(const boost::json::value& volume);

/// How far the scrub that is asked for has come, as a line: "db: scrub 3, 42 %"; by the engines of the writer's node.
std::string render_scrub_line(const boost::json::value& volume);

/// One line for a log: "db: degraded, n2 42.0 % 120.0 MB/s 12 s left".
std::string render_progress_line(const boost::json::value& volume, const progress_map& progress);

}  // namespace weft::cli
